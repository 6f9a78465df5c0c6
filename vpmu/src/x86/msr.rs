//! The register table: every MSR index that leaves KVM for this project, what
//! it is, and in which directions it leaves.
//!
//! Source: SDM vol. 4, "Architectural MSRs"; APM vol. 2, "Performance
//! Monitoring Counters"; guest-contract §8 and §9.1.

use crate::ids::{MsrIndex, Pmc};

/// IA32_PERF_CAPABILITIES.
pub const PERF_CAPABILITIES: MsrIndex = MsrIndex(0x345);
/// IA32_FIXED_CTR_CTRL.
pub const FIXED_CTR_CTRL: MsrIndex = MsrIndex(0x38d);
/// IA32_PERF_GLOBAL_STATUS.
pub const GLOBAL_STATUS: MsrIndex = MsrIndex(0x38e);
/// IA32_PERF_GLOBAL_CTRL.
pub const GLOBAL_CTRL: MsrIndex = MsrIndex(0x38f);
/// IA32_PERF_GLOBAL_OVF_CTRL.
pub const GLOBAL_OVF_CTRL: MsrIndex = MsrIndex(0x390);

/// What an MSR index means to a guest PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// IA32_PMCi: a write takes 32 bits and extends their sign.
    Counter(Pmc),
    /// IA32_A_PMCi: the same counters, written in full width.
    FullWidthCounter(Pmc),
    /// IA32_PERFEVTSELi of this counter.
    EventSel(Pmc),
    /// IA32_FIXED_CTRi.
    FixedCounter(Pmc),
    /// IA32_FIXED_CTR_CTRL.
    FixedCtrCtrl,
    /// IA32_PERF_CAPABILITIES.
    PerfCapabilities,
    /// IA32_PERF_GLOBAL_STATUS.
    GlobalStatus,
    /// IA32_PERF_GLOBAL_CTRL.
    GlobalCtrl,
    /// IA32_PERF_GLOBAL_OVF_CTRL.
    GlobalOvfCtrl,
    /// A PMU register that no model here has: #GP, where KVM alone would
    /// answer some with a silent 0 (rule G-007).
    Absent,
}

/// In which direction accesses leave KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// RDMSR alone.
    Read,
    /// RDMSR and WRMSR.
    ReadWrite,
}

/// A run of MSR indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRange {
    /// Name in the manual; with an index if the run is longer than one.
    pub name: &'static str,
    /// First index.
    pub first: MsrIndex,
    /// Number of indices.
    pub count: u32,
    /// Direction.
    pub access: Access,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    FullWidthCounter,
    EventSel,
    FixedCounter,
    One(Register),
    /// Indices that RDPMC uses: an RDMSR of them is a rewritten RDPMC, if it
    /// comes from a rewritten place (guest-contract §5.5). No register.
    Rdpmc,
}

impl MsrRange {
    const fn new(name: &'static str, first: u32, count: u32, kind: Kind) -> Self {
        let access = match kind {
            Kind::Rdpmc => Access::Read,
            _ => Access::ReadWrite,
        };
        Self {
            name,
            first: MsrIndex(first),
            count,
            access,
            kind,
        }
    }

    const fn one(name: &'static str, index: MsrIndex, register: Register) -> Self {
        Self::new(name, index.0, 1, Kind::One(register))
    }

    const fn absent(name: &'static str, first: u32, count: u32) -> Self {
        Self::new(name, first, count, Kind::One(Register::Absent))
    }

    /// How far `msr` lies from the first index; `None` outside the run.
    fn offset(&self, msr: MsrIndex) -> Option<u32> {
        msr.0.checked_sub(self.first.0).filter(|o| *o < self.count)
    }

    fn register(&self, offset: u32) -> Option<Register> {
        let gp = || u8::try_from(offset).ok().and_then(Pmc::gp);
        let fixed = || u8::try_from(offset).ok().and_then(Pmc::fixed);
        match self.kind {
            Kind::Counter => gp().map(Register::Counter),
            Kind::FullWidthCounter => gp().map(Register::FullWidthCounter),
            Kind::EventSel => gp().map(Register::EventSel),
            Kind::FixedCounter => fixed().map(Register::FixedCounter),
            Kind::One(register) => Some(register),
            Kind::Rdpmc => None,
        }
    }
}

/// Every run of indices. The ones that a guest writes at each context switch
/// come first: [`decode`] walks the table from the top.
pub const TABLE: &[MsrRange] = &[
    MsrRange::one("IA32_PERF_GLOBAL_CTRL", GLOBAL_CTRL, Register::GlobalCtrl),
    MsrRange::one(
        "IA32_PERF_GLOBAL_STATUS",
        GLOBAL_STATUS,
        Register::GlobalStatus,
    ),
    MsrRange::one(
        "IA32_FIXED_CTR_CTRL",
        FIXED_CTR_CTRL,
        Register::FixedCtrCtrl,
    ),
    MsrRange::new("IA32_FIXED_CTR", 0x309, 4, Kind::FixedCounter),
    MsrRange::one(
        "IA32_PERF_GLOBAL_OVF_CTRL",
        GLOBAL_OVF_CTRL,
        Register::GlobalOvfCtrl,
    ),
    MsrRange::new("IA32_PERFEVTSEL", 0x186, 8, Kind::EventSel),
    MsrRange::new("IA32_A_PMC", 0x4c1, 8, Kind::FullWidthCounter),
    MsrRange::new("IA32_PMC", 0xc1, 8, Kind::Counter),
    MsrRange::one(
        "IA32_PERF_CAPABILITIES",
        PERF_CAPABILITIES,
        Register::PerfCapabilities,
    ),
    MsrRange::absent(
        "IA32_PERF_GLOBAL_STATUS_SET, IA32_PERF_GLOBAL_INUSE",
        0x391,
        2,
    ),
    MsrRange::absent("MSR_RAPL_POWER_UNIT to MSR_PP1_POLICY", 0x606, 0x3d),
    MsrRange::absent(
        "MSR_CORE_PERF_LIMIT_REASONS to MSR_PLATFORM_ENERGY_STATUS",
        0x64d,
        3,
    ),
    MsrRange::absent(
        "AMD PerfCntrGlobalStatus to PerfCntrGlobalStatusSet",
        0xc000_0300,
        4,
    ),
    MsrRange::absent("AMD legacy PERF_CTL and PERF_CTR", 0xc001_0000, 8),
    MsrRange::absent(
        "AMD core, L3 and DF PERF_CTL and PERF_CTR, PTSC, RAPL",
        0xc001_0200,
        0xa0,
    ),
    MsrRange::absent("AMD UMC PERF_CTL and PERF_CTR", 0xc001_0800, 0x100),
    MsrRange::absent("AMD read-only MPERF and APERF, IRPERF", 0xc000_00e7, 3),
    MsrRange::new("RDPMC, general-purpose", 0x0, 16, Kind::Rdpmc),
    MsrRange::new("RDPMC, fixed", 0x4000_0000, 16, Kind::Rdpmc),
    MsrRange::new("RDPMC, PERF_METRICS", 0x2000_0000, 1, Kind::Rdpmc),
];

/// The register at `msr`; `None` if the table has none there.
#[must_use]
pub fn decode(msr: MsrIndex) -> Option<Register> {
    TABLE
        .iter()
        .find_map(|range| range.register(range.offset(msr)?))
}

/// Whether `msr` is an index that RDPMC takes.
#[must_use]
pub fn is_rdpmc_index(msr: MsrIndex) -> bool {
    TABLE
        .iter()
        .any(|range| range.kind == Kind::Rdpmc && range.offset(msr).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guest-contract §8: each register is where the manual says.
    #[test]
    fn indices_decode_to_their_registers() {
        let gp = |i| Pmc::gp(i).unwrap();
        let fixed = |i| Pmc::fixed(i).unwrap();
        for (index, register) in [
            (0xc1, Register::Counter(gp(0))),
            (0xc8, Register::Counter(gp(7))),
            (0x4c3, Register::FullWidthCounter(gp(2))),
            (0x18d, Register::EventSel(gp(7))),
            (0x309, Register::FixedCounter(fixed(0))),
            (0x30c, Register::FixedCounter(fixed(3))),
            (0x38d, Register::FixedCtrCtrl),
            (0x38e, Register::GlobalStatus),
            (0x38f, Register::GlobalCtrl),
            (0x390, Register::GlobalOvfCtrl),
            (0x391, Register::Absent),
            (0x345, Register::PerfCapabilities),
            (0x611, Register::Absent),
            (0xc001_0204, Register::Absent),
        ] {
            assert_eq!(decode(MsrIndex(index)), Some(register), "{index:#x}");
        }
        for index in [0x0, 0x10, 0xc9, 0x1a0, 0x1d9, 0x30d, 0x393, 0x4000_0001] {
            assert_eq!(decode(MsrIndex(index)), None, "{index:#x}");
        }
    }

    /// Guest-contract §5.5 step 4: 10H, 17H and 1BH stay with KVM.
    #[test]
    fn rdpmc_indices_leave_the_tsc_alone() {
        assert!(is_rdpmc_index(MsrIndex(0xf)) && is_rdpmc_index(MsrIndex(0x4000_0002)));
        assert!(!is_rdpmc_index(MsrIndex(0x10)) && !is_rdpmc_index(MsrIndex(0x1b)));
    }

    #[test]
    fn no_index_is_listed_twice() {
        for (i, a) in TABLE.iter().enumerate() {
            for b in &TABLE[i + 1..] {
                assert!(
                    a.offset(b.first).is_none() && b.offset(a.first).is_none(),
                    "{} and {} overlap",
                    a.name,
                    b.name
                );
            }
        }
    }
}
