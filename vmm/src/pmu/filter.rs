//! The MSR filter: which accesses leave KVM, from the one register table.

use vpmu::x86::cpuid::Vendor;
use vpmu::x86::msr::{self, Access};

use crate::kvm::{KvmError, MAX_RANGE_LEN, MsrAccess, MsrFilter, MsrRange};

/// Neighbours with fewer indices between them than this share a range, in which
/// those between are left to KVM: it takes sixteen ranges, and walks them at
/// each access.
const GAP: u32 = MAX_RANGE_LEN / 8;

/// Denies KVM every register of [`msr::TABLE`] that leaves it for a guest of
/// `vendor`.
///
/// # Errors
/// If the table has grown out of what one filter holds.
pub(super) fn filter(vendor: Vendor) -> Result<MsrFilter, KvmError> {
    let leaving = msr::TABLE
        .iter()
        .filter(|range| range.is_emulated_for(vendor));
    let mut runs: Vec<_> = leaving
        .map(|range| (range.first.0, range.count, range.access))
        .collect();
    runs.sort_by_key(|(first, ..)| *first);
    let mut ranges: Vec<MsrRange> = Vec::new();
    for clump in runs.chunk_by(|(first, count, access), (next, _, next_access)| {
        access == next_access && next - (first + count) < GAP
    }) {
        let (Some((start, _, access)), Some((last, count, _))) = (clump.first(), clump.last())
        else {
            continue;
        };
        let access = match access {
            Access::Read => MsrAccess::Read,
            Access::ReadWrite => MsrAccess::Both,
        };
        let mut range = MsrRange::deny(*start, last + count - start, access);
        for pair in clump.windows(2) {
            if let [(first, count, _), (next, ..)] = pair {
                range = (first + count..*next).fold(range, MsrRange::except);
            }
        }
        ranges.push(range);
    }
    MsrFilter::new(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpmu::ids::MsrIndex;

    /// Guest-contract §9.1: at most sixteen ranges, and each register of the
    /// table in one, nothing else.
    #[test]
    fn the_filter_denies_the_register_table_and_nothing_else() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let filter = filter(vendor).unwrap();
            let is_listed = |index: u32| {
                msr::TABLE.iter().any(|range| {
                    range.is_emulated_for(vendor)
                        && (range.first.0..range.first.0 + range.count).contains(&index)
                })
            };
            let spans = [
                0..0x1000,
                0xc000_0000..0xc000_0800,
                0xc001_0000..0xc001_1100,
            ];
            for index in spans.into_iter().flatten() {
                assert_eq!(
                    filter.denies_reading(MsrIndex(index)),
                    is_listed(index),
                    "{index:#x}"
                );
            }
            assert!(filter.denies_reading(MsrIndex(0x4000_000f)));
            assert!(!filter.denies_reading(MsrIndex(0x4000_0010)));
        }
    }
}
