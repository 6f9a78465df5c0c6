//! Guest memory by guest-virtual addresses.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::kvm::{Page, Paging};

/// The smallest page.
const PAGE_LEN: usize = 4096;

/// Guest memory as one vCPU sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Virtual<'a> {
    pub(super) memory: &'a GuestMemoryMmap,
    pub(super) paging: Paging,
}

impl Virtual<'_> {
    fn page(&self, address: u64) -> Option<Page> {
        self.paging.page(self.memory, address)
    }

    /// Where an address lies in guest-physical memory.
    pub(super) fn physical(&self, address: u64) -> Option<GuestAddress> {
        Some(self.page(address)?.at(address))
    }

    /// Bytes that can be executed, across pages if need be.
    pub(super) fn code<const LEN: usize>(&self, address: u64) -> Option<[u8; LEN]> {
        let mut code = [0; LEN];
        for (byte, n) in code.iter_mut().zip(0..) {
            let at = address.checked_add(n)?;
            let page = self.page(at).filter(|page| page.executable)?;
            *byte = self.memory.read_obj(page.at(at)).ok()?;
        }
        Some(code)
    }

    /// The executable bytes of the page around `address` and, if it is executable too, of
    /// the next one; and where they begin.
    pub(super) fn text_near(&self, address: u64) -> Option<(u64, Vec<u8>)> {
        let start = address & !(PAGE_LEN as u64 - 1);
        let mut text = self.page_of_code(start)?;
        let next = start.checked_add(PAGE_LEN as u64);
        text.extend(
            next.and_then(|next| self.page_of_code(next))
                .unwrap_or_default(),
        );
        Some((start, text))
    }

    fn page_of_code(&self, start: u64) -> Option<Vec<u8>> {
        let page = self.page(start).filter(|page| page.executable)?;
        let mut code = vec![0; PAGE_LEN];
        self.memory.read_slice(&mut code, page.at(start)).ok()?;
        Some(code)
    }

    /// An aligned word.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let place = self.physical(address)?;
        self.memory.load(place, Ordering::SeqCst).ok()
    }

    /// Changes an aligned word, in one access.
    pub(super) fn set_word(&self, address: u64, value: u64) -> Option<()> {
        let place = self.physical(address)?;
        self.memory.store(value, place, Ordering::SeqCst).ok()
    }
}
