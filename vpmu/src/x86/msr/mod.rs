//! The register table: every MSR index that leaves KVM for this project, what
//! it is, and in which directions it leaves.
//!
//! Which of the registers a guest has is its model's business
//! ([`crate::guest`]); what this table has and a model lacks is #GP there.
//! Source: SDM vol. 4, "Architectural MSRs"; APM vol. 2, "Performance
//! Monitoring Counters"; guest-contract §8 and §9.1.

mod table;

use alloc::format;
use alloc::string::{String, ToString};

use super::cpuid::Vendor;
use crate::ids::{MsrIndex, Pmc};

pub use table::TABLE;

/// IA32_DEBUGCTL.
pub const DEBUGCTL: MsrIndex = MsrIndex(0x1d9);
/// IA32_PERF_CAPABILITIES.
pub const PERF_CAPABILITIES: MsrIndex = MsrIndex(0x345);
/// IA32_FIXED_CTR_CTRL.
pub const FIXED_CTR_CTRL: MsrIndex = MsrIndex(0x38d);
/// IA32_PERF_GLOBAL_STATUS.
pub const GLOBAL_STATUS: MsrIndex = MsrIndex(0x38e);
/// IA32_PERF_GLOBAL_CTRL.
pub const GLOBAL_CTRL: MsrIndex = MsrIndex(0x38f);
/// IA32_PERF_GLOBAL_OVF_CTRL; from version 4 on IA32_PERF_GLOBAL_STATUS_RESET.
pub const GLOBAL_OVF_CTRL: MsrIndex = MsrIndex(0x390);
/// IA32_PERF_GLOBAL_STATUS_SET.
pub const GLOBAL_STATUS_SET: MsrIndex = MsrIndex(0x391);
/// IA32_PERF_GLOBAL_INUSE.
pub const GLOBAL_INUSE: MsrIndex = MsrIndex(0x392);
/// PERF_METRICS.
pub const PERF_METRICS: MsrIndex = MsrIndex(0x329);
/// AMD PerfCntrGlobalStatus.
pub const AMD_GLOBAL_STATUS: MsrIndex = MsrIndex(0xc000_0300);
/// AMD PerfCntrGlobalCtl.
pub const AMD_GLOBAL_CTL: MsrIndex = MsrIndex(0xc000_0301);
/// AMD PerfCntrGlobalStatusClr.
pub const AMD_GLOBAL_STATUS_CLR: MsrIndex = MsrIndex(0xc000_0302);
/// AMD PerfCntrGlobalStatusSet.
pub const AMD_GLOBAL_STATUS_SET: MsrIndex = MsrIndex(0xc000_0303);

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
    /// IA32_PERF_GLOBAL_OVF_CTRL, IA32_PERF_GLOBAL_STATUS_RESET.
    GlobalOvfCtrl,
    /// IA32_PERF_GLOBAL_STATUS_SET.
    GlobalStatusSet,
    /// IA32_PERF_GLOBAL_INUSE.
    GlobalInUse,
    /// PERF_METRICS.
    PerfMetrics,
    /// IA32_DEBUGCTL.
    DebugCtl,
    /// AMD PERF_CTLi of this counter, at one of its addresses.
    AmdEventSel(AmdBank, Pmc),
    /// AMD PERF_CTRi, at one of its addresses.
    AmdCounter(AmdBank, Pmc),
    /// AMD PerfCntrGlobalStatus.
    AmdGlobalStatus,
    /// AMD PerfCntrGlobalCtl.
    AmdGlobalCtl,
    /// AMD PerfCntrGlobalStatusClr.
    AmdGlobalStatusClr,
    /// AMD PerfCntrGlobalStatusSet.
    AmdGlobalStatusSet,
    /// A PMU register that no model here has: #GP, where KVM alone would
    /// answer some with a silent 0 (rule G-007).
    Absent,
}

/// The two address ranges of AMD's core counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmdBank {
    /// C001_0000 to C001_0007: four counters, as K7 had them.
    Legacy,
    /// C001_0200 to C001_020B: six counters (PERFCTR_CORE).
    Core,
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
    /// Guests of another vendor have KVM's register here.
    only: Option<Vendor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    FullWidthCounter,
    EventSel,
    FixedCounter,
    /// First all selects, then all counters.
    AmdLegacy,
    /// Selects at even offsets, each followed by its counter.
    AmdCore,
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
            only: None,
        }
    }

    const fn one(name: &'static str, index: MsrIndex, register: Register) -> Self {
        Self::new(name, index.0, 1, Kind::One(register))
    }

    const fn absent(name: &'static str, first: u32, count: u32) -> Self {
        Self::new(name, first, count, Kind::One(Register::Absent))
    }

    const fn only_for(mut self, vendor: Vendor) -> Self {
        self.only = Some(vendor);
        self
    }

    /// Whether accesses of a guest of `vendor` leave KVM; else the register is
    /// KVM's there.
    #[must_use]
    pub fn is_emulated_for(&self, vendor: Vendor) -> bool {
        self.only.is_none_or(|only| only == vendor)
    }

    /// How far `msr` lies from the first index; `None` outside the run.
    fn offset(&self, msr: MsrIndex) -> Option<u32> {
        msr.0.checked_sub(self.first.0).filter(|o| *o < self.count)
    }

    fn register(&self, offset: u32) -> Option<Register> {
        let gp = |i: u32| u8::try_from(i).ok().and_then(Pmc::gp);
        let fixed = || u8::try_from(offset).ok().and_then(Pmc::fixed);
        match self.kind {
            Kind::Counter => gp(offset).map(Register::Counter),
            Kind::FullWidthCounter => gp(offset).map(Register::FullWidthCounter),
            Kind::EventSel => gp(offset).map(Register::EventSel),
            Kind::FixedCounter => fixed().map(Register::FixedCounter),
            Kind::AmdLegacy => Some(match offset.checked_sub(self.count / 2) {
                None => Register::AmdEventSel(AmdBank::Legacy, gp(offset)?),
                Some(i) => Register::AmdCounter(AmdBank::Legacy, gp(i)?),
            }),
            Kind::AmdCore if offset.is_multiple_of(2) => {
                gp(offset / 2).map(|pmc| Register::AmdEventSel(AmdBank::Core, pmc))
            }
            Kind::AmdCore => gp(offset / 2).map(|pmc| Register::AmdCounter(AmdBank::Core, pmc)),
            Kind::One(register) => Some(register),
            Kind::Rdpmc => None,
        }
    }

    /// The manual's name of the register at `offset`.
    fn name_at(&self, offset: u32) -> String {
        match self.kind {
            Kind::AmdLegacy if offset < self.count / 2 => format!("PerfEvtSel{offset}"),
            Kind::AmdLegacy => format!("PerfCtr{}", offset - self.count / 2),
            Kind::AmdCore if offset.is_multiple_of(2) => format!("PERF_CTL{}", offset / 2),
            Kind::AmdCore => format!("PERF_CTR{}", offset / 2),
            Kind::One(_) => self.name.to_string(),
            _ => format!("{}{offset}", self.name),
        }
    }
}

/// The register at `msr`; `None` if the table has none there.
#[must_use]
pub fn decode(msr: MsrIndex) -> Option<Register> {
    TABLE
        .iter()
        .find_map(|range| range.register(range.offset(msr)?))
}

/// The manual's name of the register at `msr`; `None` if the table has none
/// there.
#[must_use]
pub fn name(msr: MsrIndex) -> Option<String> {
    TABLE.iter().find_map(|range| {
        let offset = range.offset(msr)?;
        range.register(offset).map(|_| range.name_at(offset))
    })
}

/// Every register of the table that some model has, with its index, ascending
/// within a run.
pub fn registers() -> impl Iterator<Item = (MsrIndex, Register)> {
    let all = TABLE.iter().flat_map(|range| {
        (0..range.count).filter_map(|offset| {
            let index = MsrIndex(range.first.0 + offset);
            range.register(offset).map(|register| (index, register))
        })
    });
    all.filter(|(_, register)| *register != Register::Absent)
}

/// Whether `msr` is an index that RDPMC takes, on either vendor's CPUs.
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
        for (index, register, text) in [
            (0xc1, Register::Counter(gp(0)), "IA32_PMC0"),
            (0xc8, Register::Counter(gp(7)), "IA32_PMC7"),
            (0x4c3, Register::FullWidthCounter(gp(2)), "IA32_A_PMC2"),
            (0x18d, Register::EventSel(gp(7)), "IA32_PERFEVTSEL7"),
            (0x309, Register::FixedCounter(fixed(0)), "IA32_FIXED_CTR0"),
            (0x30c, Register::FixedCounter(fixed(3)), "IA32_FIXED_CTR3"),
            (0x38d, Register::FixedCtrCtrl, "IA32_FIXED_CTR_CTRL"),
            (0x38e, Register::GlobalStatus, "IA32_PERF_GLOBAL_STATUS"),
            (0x38f, Register::GlobalCtrl, "IA32_PERF_GLOBAL_CTRL"),
            (0x345, Register::PerfCapabilities, "IA32_PERF_CAPABILITIES"),
            (0x1d9, Register::DebugCtl, "IA32_DEBUGCTL"),
            (0x329, Register::PerfMetrics, "MSR_PERF_METRICS"),
            (
                0xc001_0003,
                Register::AmdEventSel(AmdBank::Legacy, gp(3)),
                "PerfEvtSel3",
            ),
            (
                0xc001_0004,
                Register::AmdCounter(AmdBank::Legacy, gp(0)),
                "PerfCtr0",
            ),
            (
                0xc001_020a,
                Register::AmdEventSel(AmdBank::Core, gp(5)),
                "PERF_CTL5",
            ),
            (
                0xc001_0203,
                Register::AmdCounter(AmdBank::Core, gp(1)),
                "PERF_CTR1",
            ),
            (0xc000_0301, Register::AmdGlobalCtl, "PerfCntrGlobalCtl"),
        ] {
            assert_eq!(decode(MsrIndex(index)), Some(register), "{index:#x}");
            assert_eq!(name(MsrIndex(index)).as_deref(), Some(text), "{index:#x}");
        }
        for index in [0x611, 0xc001_020c, 0xc001_0299, 0xc001_0800, 0xc000_00e9] {
            assert_eq!(decode(MsrIndex(index)), Some(Register::Absent));
        }
        for index in [0x0, 0x10, 0xc9, 0x1a0, 0x30d, 0x393, 0x4000_0001] {
            assert_eq!(decode(MsrIndex(index)), None, "{index:#x}");
        }
    }

    /// Guest-contract §5.5 step 4: 10H, 17H and 1BH stay with KVM. §3.2: AMD's
    /// core, DF and L3 counters are 0 to 15.
    #[test]
    fn rdpmc_indices_leave_the_tsc_alone() {
        assert!((0..16).all(|i| is_rdpmc_index(MsrIndex(i))));
        assert!(is_rdpmc_index(MsrIndex(0x4000_0003)) && is_rdpmc_index(MsrIndex(0x2000_0000)));
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

    /// An AMD guest has KVM's DEBUGCTL; everything else leaves for both.
    #[test]
    fn one_register_is_emulated_for_one_vendor_alone() {
        for range in TABLE {
            assert!(range.is_emulated_for(Vendor::Intel), "{}", range.name);
            assert_eq!(range.is_emulated_for(Vendor::Amd), range.first != DEBUGCTL);
        }
    }
}
