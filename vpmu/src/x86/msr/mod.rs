//! PMU registers by their MSR index: what each is called, and the form of the
//! rows in which a model says all that is to be known of its registers.
//!
//! The rows themselves belong to the models: [`crate::guest`] has those of the
//! core's PMUs, [`crate::uncore`] those of the others. Source: SDM vol. 4,
//! "Architectural MSRs"; APM vol. 2, "Performance Monitoring Counters";
//! guest-contract §8 and §9.1.

mod access;
mod error;
pub(crate) mod row;
mod run;
pub(crate) mod window;

use crate::ids::{MsrIndex, Pmc};

pub(crate) use access::Meaning;
pub use access::{Access, Arming, Effect};
pub use error::{MsrError, OrElseIfUnknown};
pub(crate) use run::{ABSENT, RDPMC};
pub use run::{Direction, MsrRun, is_rdpmc_index};

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

/// A register of a core's PMU, and the counter that it belongs to.
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
    AmdEventSel(Pmc),
    /// AMD PERF_CTRi, at one of its addresses.
    AmdCounter(Pmc),
    /// AMD PerfCntrGlobalStatus.
    AmdGlobalStatus,
    /// AMD PerfCntrGlobalCtl.
    AmdGlobalCtl,
    /// AMD PerfCntrGlobalStatusClr.
    AmdGlobalStatusClr,
    /// AMD PerfCntrGlobalStatusSet.
    AmdGlobalStatusSet,
}
