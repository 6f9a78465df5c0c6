//! Runs of MSR indices: where registers are, and whose accesses reach the PMU.

use alloc::format;
use alloc::string::{String, ToString};

use crate::ids::MsrIndex;
use crate::x86::cpuid::Vendor;

/// The accesses of an index that a VMM hands to the PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// RDMSR alone.
    Read,
    /// RDMSR and WRMSR.
    ReadWrite,
}

/// MSR indices of registers that differ by their number alone.
///
/// # Examples
/// ```
/// use vpmu::guest::intercepted;
/// use vpmu::x86::msr::GLOBAL_CTRL;
///
/// let run = intercepted().find(|run| run.first == GLOBAL_CTRL).unwrap();
/// assert_eq!((run.name, run.count), ("IA32_PERF_GLOBAL_CTRL", 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRun {
    /// Name in the manual; of several registers, the name before the number.
    pub name: &'static str,
    /// The first index.
    pub first: MsrIndex,
    /// The number of registers.
    pub count: u32,
    /// The distance from one register to the next: 1, or 2 where two runs alternate.
    pub step: u32,
    /// The accesses that a VMM hands to the PMU.
    pub direction: Direction,
    /// Guests of another vendor have the VMM's own register here; `None`: all guests
    /// have the PMU's.
    pub only: Option<Vendor>,
}

impl MsrRun {
    /// `count` registers at `first` and the indices behind it.
    pub(crate) const fn new(name: &'static str, first: u32, count: u32) -> Self {
        Self {
            name,
            first: MsrIndex(first),
            count,
            step: 1,
            direction: Direction::ReadWrite,
            only: None,
        }
    }

    /// One register.
    pub(crate) const fn one(name: &'static str, index: MsrIndex) -> Self {
        Self::new(name, index.0, 1)
    }

    /// The same at every second index: another run has the indices between.
    pub(crate) const fn alternating(mut self) -> Self {
        self.step = 2;
        self
    }

    /// The same for guests of `vendor` alone.
    pub(crate) const fn only_for(mut self, vendor: Vendor) -> Self {
        self.only = Some(vendor);
        self
    }

    /// The same for RDMSR alone.
    pub(crate) const fn read_only(mut self) -> Self {
        self.direction = Direction::Read;
        self
    }

    /// Whether a guest of `vendor` has the PMU's register here.
    #[must_use]
    pub fn is_for(&self, vendor: Vendor) -> bool {
        self.only.is_none_or(|only| only == vendor)
    }

    /// The number of the register at `msr`; `None` if the run has none there.
    #[must_use]
    pub const fn number(&self, msr: MsrIndex) -> Option<u32> {
        let Some(offset) = msr.0.checked_sub(self.first.0) else {
            return None;
        };
        if offset.is_multiple_of(self.step) && offset / self.step < self.count {
            Some(offset / self.step)
        } else {
            None
        }
    }

    /// The index of register `number`, which is below `count`.
    #[must_use]
    pub const fn index(&self, number: u32) -> MsrIndex {
        MsrIndex(self.first.0 + number * self.step)
    }

    /// The last index.
    #[must_use]
    pub const fn last(&self) -> MsrIndex {
        self.index(self.count - 1)
    }

    /// All indices, ascending.
    pub fn indices(self) -> impl Iterator<Item = MsrIndex> {
        (0..self.count).map(move |number| self.index(number))
    }

    /// The manual's name of register `number`.
    #[must_use]
    pub fn name_of(&self, number: u32) -> String {
        if self.count == 1 {
            self.name.to_string()
        } else {
            format!("{}{number}", self.name)
        }
    }
}

/// Indices that RDPMC uses: an RDMSR of them is a rewritten RDPMC, if it comes
/// from a rewritten place (guest-contract §5.5). No registers.
pub(crate) const RDPMC: [MsrRun; 3] = [
    MsrRun::new("RDPMC, general-purpose", 0x0, 16).read_only(),
    MsrRun::new("RDPMC, fixed", 0x4000_0000, 16).read_only(),
    MsrRun::new("RDPMC, PERF_METRICS", 0x2000_0000, 1).read_only(),
];

/// PMU registers that no core model here has: #GP, where KVM alone would answer
/// some with a silent 0 (rule G-007). Those of uncore PMUs are among them: a VM
/// without these PMUs lacks them.
pub(crate) const ABSENT: [MsrRun; 5] = [
    MsrRun::new("MSR_RAPL_POWER_UNIT to MSR_PP1_POLICY", 0x606, 0x3d),
    MsrRun::new(
        "MSR_PLATFORM_ENERGY_STATUS to MSR_CORE_PERF_LIMIT_REASONS",
        0x64d,
        3,
    ),
    MsrRun::new(
        "AMD L3 and DF PERF_CTL and PERF_CTR, PTSC, RAPL",
        0xc001_020c,
        0x94,
    ),
    MsrRun::new("AMD UMC PERF_CTL and PERF_CTR", 0xc001_0800, 0x100),
    MsrRun::new("AMD read-only MPERF and APERF, IRPERF", 0xc000_00e7, 3),
];

/// Whether `msr` is an index that RDPMC takes, on either vendor's CPUs.
#[must_use]
pub fn is_rdpmc_index(msr: MsrIndex) -> bool {
    RDPMC.iter().any(|run| run.number(msr).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guest-contract §5.5 step 4: 10H, 17H and 1BH stay with KVM. §3.2: AMD's
    /// core, DF and L3 counters are 0 to 15.
    #[test]
    fn rdpmc_indices_leave_the_tsc_alone() {
        assert!((0..16).all(|i| is_rdpmc_index(MsrIndex(i))));
        assert!(is_rdpmc_index(MsrIndex(0x4000_0003)) && is_rdpmc_index(MsrIndex(0x2000_0000)));
        assert!(!is_rdpmc_index(MsrIndex(0x10)) && !is_rdpmc_index(MsrIndex(0x1b)));
    }

    #[test]
    fn a_run_has_every_step_th_index() {
        let run = MsrRun::new("PERF_CTL", 0x200, 3).alternating();
        assert!(run.indices().eq([0x200, 0x202, 0x204].map(MsrIndex)));
        for index in 0x1fe..0x208 {
            let number = run.number(MsrIndex(index));
            assert_eq!(number.is_some(), run.indices().any(|i| i.0 == index));
            assert!(number.is_none_or(|n| run.index(n).0 == index));
        }
        assert_eq!(run.name_of(2), "PERF_CTL2");
    }
}
