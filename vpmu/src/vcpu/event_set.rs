//! Sets of a vCPU's host events.

use crate::host::HostEventId;

/// A set of host events of one vCPU, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HostEventSet(u32);

const _: () = assert!(HostEventId::COUNT <= u32::BITS as usize);

impl HostEventSet {
    pub(super) const EMPTY: Self = Self(0);

    pub(super) const fn has(self, id: HostEventId) -> bool {
        self.0 >> id.0 & 1 == 1
    }

    pub(super) const fn insert(&mut self, id: HostEventId) {
        self.0 |= 1 << id.0;
    }

    pub(super) const fn remove(&mut self, id: HostEventId) {
        self.0 &= !(1 << id.0);
    }

    pub(super) const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn is_subset(self, of: Self) -> bool {
        self.0 & !of.0 == 0
    }

    /// The event with the lowest number.
    pub(super) fn first(self) -> Option<HostEventId> {
        self.iter().next()
    }

    /// The events, ascending.
    pub(super) fn iter(self) -> impl Iterator<Item = HostEventId> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let id = left.trailing_zeros();
            left &= left.checked_sub(1)?;
            usize::try_from(id).ok().map(HostEventId)
        })
    }
}
