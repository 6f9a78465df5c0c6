//! The memory that a VM needs besides its RAM.

use std::fs;
use std::ops::Range;

use super::report::{Finding, MemoryReport};
use crate::error_text::one_line;
use crate::kvm::Hypervisor;
use crate::probe::ProbeGuest;

/// RAM of the VM that is measured.
const RAM: usize = 64 << 20;

/// Looks at this process while a VM with one vCPU exists, which has run.
pub(super) fn measure(hypervisor: Option<&Hypervisor>) -> Finding<MemoryReport> {
    const SMAPS: &str = "/proc/self/smaps";
    let Some(hypervisor) = hypervisor else {
        return Finding::unknown("KVM does not open");
    };
    let guest = match ProbeGuest::idle(hypervisor, RAM) {
        Ok(guest) => guest,
        Err(error) => return Finding::unknown(one_line(&error)),
    };
    match fs::read_to_string(SMAPS) {
        Ok(text) => Finding::Value(account(&text, &guest.ram())),
        Err(error) => Finding::unknown(format!("cannot read {SMAPS}: {error}")),
    }
}

/// Adds the mappings up, but for those that start in the guest's RAM.
fn account(smaps: &str, ram: &[Range<u64>]) -> MemoryReport {
    let mut report = MemoryReport {
        guest_ram_kib: ram
            .iter()
            .map(|range| (range.end - range.start) >> 10)
            .sum(),
        pss_kib: 0,
        private_kib: 0,
    };
    let mut in_ram = false;
    for line in smaps.lines() {
        if let Some(start) = mapping_start(line) {
            in_ram = ram.iter().any(|range| range.contains(&start));
        } else if !in_ram {
            if let Some(kib) = kib(line, "Pss:") {
                report.pss_kib += kib;
            } else if let Some(kib) =
                kib(line, "Private_Clean:").or_else(|| kib(line, "Private_Dirty:"))
            {
                report.private_kib += kib;
            }
        }
    }
    report
}

/// The first address of `start-end perms …`; `None` for the lines below it.
fn mapping_start(line: &str) -> Option<u64> {
    let range = line.split_ascii_whitespace().next()?;
    let (start, end) = range.split_once('-')?;
    u64::from_str_radix(end, 16).ok()?;
    u64::from_str_radix(start, 16).ok()
}

fn kib(line: &str, key: &str) -> Option<u64> {
    let value = line.strip_prefix(key)?.trim();
    value.strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ram_of_the_guest_is_left_out() {
        let smaps = "\
1000-3000 r-xp 00000000 08:01 7    /bin/perfvisor
Rss:                   8 kB
Pss:                   5 kB
Pss_Dirty:             5 kB
Private_Clean:         2 kB
Private_Dirty:         1 kB
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Pss:                 100 kB
Private_Dirty:       100 kB
7f0004000000-7f0004001000 rw-p 00000000 00:00 0    [stack]
Pss:                   4 kB
Private_Dirty:         4 kB
";
        let ram = 0x7f00_0000_0000..0x7f00_0400_0000;
        let report = account(smaps, std::slice::from_ref(&ram));
        assert_eq!((report.pss_kib, report.private_kib), (9, 7));
        assert_eq!(report.guest_ram_kib, 64 << 10);
    }
}
