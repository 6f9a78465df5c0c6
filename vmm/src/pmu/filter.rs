//! The MSR filter: which accesses leave KVM, from the one register table.

use vpmu::x86::msr::{self, Access};

use crate::kvm::{KvmError, MsrAccess, MsrFilter, MsrRange};

/// Denies KVM every register of [`msr::TABLE`]; neighbours share a range, of
/// which KVM takes sixteen.
///
/// # Errors
/// If the table has grown out of what one filter holds.
pub(super) fn filter() -> Result<MsrFilter, KvmError> {
    let mut table: Vec<_> = msr::TABLE.to_vec();
    table.sort_by_key(|range| range.first);
    let mut runs: Vec<(u32, u32, Access)> = Vec::new();
    for range in table {
        match runs.last_mut() {
            Some((first, len, access))
                if *first + *len == range.first.0 && *access == range.access =>
            {
                *len += range.count;
            }
            _ => runs.push((range.first.0, range.count, range.access)),
        }
    }
    let deny = |(first, len, access)| {
        let access = match access {
            Access::Read => MsrAccess::Read,
            Access::ReadWrite => MsrAccess::Both,
        };
        MsrRange::deny(first, len, access)
    };
    MsrFilter::new(runs.into_iter().map(deny).collect())
}

#[cfg(test)]
mod tests {
    /// Guest-contract §9.1: at most sixteen ranges.
    #[test]
    fn the_register_table_fits_into_one_filter() {
        super::filter().unwrap();
    }
}
