//! Guest memory by guest-virtual addresses.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::kvm::{Page, Paging};

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
