//! Guest memory by guest-virtual addresses.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use crate::kvm::{Page, Paging};
use crate::sys::guest_ram::GuestRam;

/// The smallest page.
const PAGE_LEN: usize = 4096;
/// Bytes of a word.
pub(super) const WORD: u64 = 8;
/// Bytes of half a word.
const HALF: u64 = 4;

/// Guest memory as one vCPU sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Virtual<'a> {
    pub(super) memory: &'a GuestRam,
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
        let mut pages = Pages::of(*self);
        let mut code = [0; LEN];
        for (byte, n) in code.iter_mut().zip(0..) {
            let at = address.checked_add(n)?;
            let page = pages.page(at).filter(|page| page.executable)?;
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

    /// Whether the vCPU is in long mode.
    pub(super) const fn is_long(&self) -> bool {
        self.paging.is_long()
    }

    /// Bytes of what the CPU pushes at once for an exception.
    pub(super) const fn slot(&self) -> u64 {
        if self.is_long() { WORD } else { HALF }
    }

    /// An aligned word.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let place = self.physical(address)?;
        self.memory.load(place, Ordering::SeqCst).ok()
    }

    /// Aligned [slots](Self::slot), one after the other, each in one access.
    pub(super) fn slots<const LEN: usize>(&self, address: u64) -> Option<[u64; LEN]> {
        let mut pages = Pages::of(*self);
        let mut slots = [0; LEN];
        for (slot, n) in slots.iter_mut().zip(0..) {
            let at = address.checked_add(n * self.slot())?;
            let place = pages.page(at)?.at(at);
            *slot = if self.is_long() {
                self.memory.load(place, Ordering::SeqCst).ok()?
            } else {
                let half: u32 = self.memory.load(place, Ordering::SeqCst).ok()?;
                half.into()
            };
        }
        Some(slots)
    }

    /// Changes aligned slots, each in one access; none if one of them cannot be.
    pub(super) fn set_slots<const LEN: usize>(&self, slots: [(u64, u64); LEN]) -> Option<()> {
        let mut pages = Pages::of(*self);
        let mut places = [GuestAddress(0); LEN];
        for (place, (address, value)) in places.iter_mut().zip(slots) {
            *place = pages.page(address)?.at(address);
            (self.is_long() || u32::try_from(value).is_ok()).then_some(())?;
        }
        for (place, (_, value)) in places.into_iter().zip(slots) {
            match u32::try_from(value) {
                Ok(half) if !self.is_long() => self.memory.store(half, place, Ordering::SeqCst),
                _ => self.memory.store(value, place, Ordering::SeqCst),
            }
            .ok()?;
        }
        Some(())
    }

    /// Changes an aligned word, in one access.
    pub(super) fn set_word(&self, address: u64, value: u64) -> Option<()> {
        let place = self.physical(address)?;
        self.memory.store(value, place, Ordering::SeqCst).ok()
    }
}

/// Pages, the last of which is known: a walk of the tables costs more than what it is for.
struct Pages<'a> {
    guest: Virtual<'a>,
    /// The page and its first address.
    last: Option<(u64, Page)>,
}

impl<'a> Pages<'a> {
    const fn of(guest: Virtual<'a>) -> Self {
        Self { guest, last: None }
    }

    fn page(&mut self, address: u64) -> Option<Page> {
        if let Some((first, page)) = self.last
            && address & !(page.size - 1) == first
        {
            return Some(page);
        }
        let page = self.guest.page(address)?;
        self.last = Some((address & !(page.size - 1), page));
        Some(page)
    }
}
