//! The table itself.

use super::{
    AMD_GLOBAL_CTL, AMD_GLOBAL_STATUS, AMD_GLOBAL_STATUS_CLR, AMD_GLOBAL_STATUS_SET, DEBUGCTL,
    FIXED_CTR_CTRL, GLOBAL_CTRL, GLOBAL_INUSE, GLOBAL_OVF_CTRL, GLOBAL_STATUS, GLOBAL_STATUS_SET,
    Kind, MsrRange, PERF_CAPABILITIES, PERF_METRICS, Register,
};
use crate::x86::cpuid::Vendor;

/// Every run of indices. The ones that a guest writes at each context switch
/// come first: [`super::decode`] walks the table from the top.
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
        "IA32_PERF_GLOBAL_OVF_CTRL / _STATUS_RESET",
        GLOBAL_OVF_CTRL,
        Register::GlobalOvfCtrl,
    ),
    MsrRange::new("IA32_PERFEVTSEL", 0x186, 8, Kind::EventSel),
    MsrRange::new("IA32_A_PMC", 0x4c1, 8, Kind::FullWidthCounter),
    MsrRange::new("PERF_CTL, PERF_CTR", 0xc001_0200, 12, Kind::AmdCore),
    MsrRange::one("PerfCntrGlobalCtl", AMD_GLOBAL_CTL, Register::AmdGlobalCtl),
    MsrRange::one(
        "PerfCntrGlobalStatus",
        AMD_GLOBAL_STATUS,
        Register::AmdGlobalStatus,
    ),
    MsrRange::one(
        "PerfCntrGlobalStatusClr",
        AMD_GLOBAL_STATUS_CLR,
        Register::AmdGlobalStatusClr,
    ),
    MsrRange::new("PerfEvtSel, PerfCtr", 0xc001_0000, 8, Kind::AmdLegacy),
    MsrRange::new("IA32_PMC", 0xc1, 8, Kind::Counter),
    MsrRange::one(
        "IA32_PERF_CAPABILITIES",
        PERF_CAPABILITIES,
        Register::PerfCapabilities,
    ),
    MsrRange::one(
        "IA32_PERF_GLOBAL_STATUS_SET",
        GLOBAL_STATUS_SET,
        Register::GlobalStatusSet,
    ),
    MsrRange::one(
        "IA32_PERF_GLOBAL_INUSE",
        GLOBAL_INUSE,
        Register::GlobalInUse,
    ),
    MsrRange::one("MSR_PERF_METRICS", PERF_METRICS, Register::PerfMetrics),
    // AMD's DebugCtl has branch tracing alone, which is KVM's to emulate.
    MsrRange::one("IA32_DEBUGCTL", DEBUGCTL, Register::DebugCtl).only_for(Vendor::Intel),
    MsrRange::one(
        "PerfCntrGlobalStatusSet",
        AMD_GLOBAL_STATUS_SET,
        Register::AmdGlobalStatusSet,
    ),
    MsrRange::absent("MSR_RAPL_POWER_UNIT to MSR_PP1_POLICY", 0x606, 0x3d),
    MsrRange::absent(
        "MSR_PLATFORM_ENERGY_STATUS to MSR_CORE_PERF_LIMIT_REASONS",
        0x64d,
        3,
    ),
    MsrRange::absent(
        "AMD L3 and DF PERF_CTL and PERF_CTR, PTSC, RAPL",
        0xc001_020c,
        0x94,
    ),
    MsrRange::absent("AMD UMC PERF_CTL and PERF_CTR", 0xc001_0800, 0x100),
    MsrRange::absent("AMD read-only MPERF and APERF, IRPERF", 0xc000_00e7, 3),
    MsrRange::new("RDPMC, general-purpose", 0x0, 16, Kind::Rdpmc),
    MsrRange::new("RDPMC, fixed", 0x4000_0000, 16, Kind::Rdpmc),
    MsrRange::new("RDPMC, PERF_METRICS", 0x2000_0000, 1, Kind::Rdpmc),
];
