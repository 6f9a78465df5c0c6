//! The MSR filter: which accesses leave KVM, from the rows of the models' registers.

use vpmu::guest::intercepted;
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::msr::Direction;

use crate::kvm::{KvmError, MAX_RANGE_LEN, MsrAccess, MsrFilter, MsrRange};

/// Neighbours with fewer indices between them than this share a range, in which
/// the indices between them are left to KVM: it takes sixteen ranges, and walks
/// them at each access.
const GAP: u32 = MAX_RANGE_LEN / 8;

/// Denies KVM every access of [`intercepted`] that a guest of `vendor` makes.
///
/// # Errors
/// If the indices are more than one filter holds.
pub(super) fn filter(vendor: Vendor) -> Result<MsrFilter, KvmError> {
    let leaving = intercepted().filter(|run| run.is_for(vendor));
    let mut indices: Vec<_> = leaving
        .flat_map(|run| run.indices().map(|index| (index.0, run.direction)))
        .collect();
    indices.sort_by_key(|(index, _)| *index);
    let mut ranges: Vec<MsrRange> = Vec::new();
    for clump in indices.chunk_by(|(index, direction), (next, next_direction)| {
        direction == next_direction && next - (index + 1) < GAP
    }) {
        let (Some((first, direction)), Some((last, _))) = (clump.first(), clump.last()) else {
            continue;
        };
        let access = match direction {
            Direction::Read => MsrAccess::Read,
            Direction::ReadWrite => MsrAccess::Both,
        };
        let mut range = MsrRange::deny(*first, last + 1 - first, access);
        for pair in clump.windows(2) {
            if let [(index, _), (next, _)] = pair {
                range = (index + 1..*next).fold(range, MsrRange::except);
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
    /// rows in one, nothing else.
    #[test]
    fn the_filter_denies_the_rows_registers_and_nothing_else() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let filter = filter(vendor).unwrap();
            let is_listed = |index: u32| {
                intercepted().any(|run| run.is_for(vendor) && run.number(MsrIndex(index)).is_some())
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
