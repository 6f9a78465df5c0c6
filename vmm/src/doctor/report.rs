//! The report, one structure for each topic. Field names are the JSON's.

use serde::Serialize;

use crate::error_text::one_line;

/// What was found out, or why it was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Finding<T> {
    /// Finding out.
    Value(T),
    /// Not found out.
    Unknown {
        /// Why.
        unknown: String,
    },
}

impl<T> Finding<T> {
    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown {
            unknown: why.into(),
        }
    }

    pub(super) fn from<E: std::error::Error>(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::unknown(one_line(&error)),
        }
    }

    /// What was found out.
    pub const fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }
}

/// Yes or no, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct YesOrNo {
    /// The answer.
    pub possible: bool,
    /// Why, or why not.
    pub reason: String,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether `perfvisor run` can run a Linux guest that has a PMU.
    pub linux_guest_with_pmu: YesOrNo,
    /// KVM.
    pub kvm: KvmReport,
    /// The CPU.
    pub cpu: Finding<CpuReport>,
    /// The host's PMUs.
    pub pmus: Finding<Vec<HostPmuReport>>,
    /// Host counters that are free.
    pub counters: Vec<CountersReport>,
    /// What `--uncore` could give.
    pub uncore: Vec<UncoreReport>,
    /// What this user may do.
    pub permission: PermissionReport,
    /// RDPMC in guests.
    pub rdpmc: Finding<RdpmcReport>,
    /// What would count the guest's events.
    pub backing: BackingReport,
    /// What a VM takes besides its RAM.
    pub memory: Finding<MemoryReport>,
    /// What to change to get more.
    pub advice: Vec<String>,
}

/// Which KVM there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvmKindName {
    /// None that opens.
    None,
    /// On hardware virtualisation.
    Hardware,
    /// On hardware virtualisation, inside a virtual machine.
    Nested,
    /// Every guest instruction is emulated.
    Emulated,
    /// At full speed, on what the host does not name.
    Unnamed,
}

/// KVM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    /// The device.
    pub device: String,
    /// Whether the file is there.
    pub present: bool,
    /// Whether it is there, and this user may not open it.
    pub denied: bool,
    /// What gives this user access, if the file is closed to it. In JSON, it
    /// is part of the advice.
    #[serde(skip)]
    pub access: Option<String>,
    /// The version of the API; unknown says why it does not open.
    pub api_version: Finding<i32>,
    /// Which kind it is.
    pub kind: Finding<KvmKindName>,
    /// The CPU's virtualisation extension: `vmx`, `svm`.
    pub extension: Option<String>,
    /// KVM modules that are loaded, or built in with parameters.
    pub modules: Vec<String>,
    /// Whether it can run a Linux guest.
    pub linux_guest: YesOrNo,
    /// Wall time of one guest instruction, in picoseconds.
    pub instruction_ps: Finding<u64>,
    /// Thread time of one entry and exit, in nanoseconds.
    pub exit_ns: Finding<u64>,
    /// What it can.
    pub features: Finding<FeaturesReport>,
    /// The module parameter `enable_pmu`: KVM's own vPMU.
    pub enable_pmu: Finding<String>,
}

/// What a KVM can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent abilities, each named"
)]
pub struct FeaturesReport {
    /// MSRs can be taken from it; needed for a PMU.
    pub msr_filter: bool,
    /// Their accesses reach the VMM; needed for a PMU.
    pub user_space_msr: bool,
    /// Its own vPMU can be switched off for a VM.
    pub pmu_capability: bool,
    /// Registers are shared at each exit; saves a call.
    pub sync_regs: bool,
}

/// The CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuReport {
    /// `vendor_id`.
    pub vendor: String,
    /// `model name`.
    pub model: String,
    /// Family, model, stepping.
    pub signature: String,
}

/// A PMU of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostPmuReport {
    /// Its name in sysfs.
    pub name: String,
    /// Its `perf_event_attr.type`.
    pub r#type: u32,
    /// Whether it counts what CPUs execute.
    pub core: bool,
    /// The host CPUs that it counts on; `None`: all.
    pub cpus: Option<Vec<u32>>,
    /// The host CPUs that stand for groups with one instance each; `None`: it
    /// has no groups.
    pub cpumask: Option<Vec<u32>>,
    /// What those groups are, where the mask tells.
    pub scope: Option<&'static str>,
}

/// Counters of one core PMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CountersReport {
    /// The PMU.
    pub pmu: String,
    /// Pinned guest-mode `instructions` events that get a counter at the same
    /// time, on each CPU of the PMU that this process may use.
    pub free: Finding<usize>,
    /// The same for other events, on the first of these CPUs.
    pub events: Vec<EventCounters>,
    /// Whether events can name the PMU by its type.
    pub extended_type: Finding<bool>,
}

/// Counters for one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventCounters {
    /// Linux's generic name.
    pub event: &'static str,
    /// How many.
    pub free: usize,
}

/// An option of `--uncore`: a PMU that vCPUs share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UncoreReport {
    /// Its key.
    pub option: &'static str,
    /// Which guests can be shown it.
    pub guests: &'static str,
    /// How many instances the host has; unknown says why a guest cannot have it.
    pub instances: Finding<usize>,
    /// Of `power`: what energy is told of.
    pub domains: Vec<&'static str>,
    /// Whether nothing but the permission lacks.
    pub denied: bool,
}

/// What this user may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionReport {
    /// `/proc/sys/kernel/perf_event_paranoid`.
    pub perf_event_paranoid: Finding<i32>,
    /// The effective user id.
    pub euid: Finding<u32>,
    /// Effective `CAP_PERFMON`.
    pub cap_perfmon: Finding<bool>,
    /// Effective `CAP_SYS_ADMIN`.
    pub cap_sys_admin: Finding<bool>,
    /// Whether a software event opens.
    pub software_event: YesOrNo,
    /// The signals that the host queues for this user.
    pub pending_signals: Finding<PendingSignalsReport>,
}

/// Signals in the host's queue for one user, all processes together
/// (`RLIMIT_SIGPENDING`). Each vCPU with a PMU reserves one for its overflow timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PendingSignalsReport {
    /// Taken now.
    pub used: u64,
    /// The most.
    pub limit: u64,
}

/// RDPMC in guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdpmcReport {
    /// `gp-fault`, `silent-zero` or `value`.
    pub class: &'static str,
    /// What each index that was tried did.
    pub answers: Vec<String>,
    /// What a guest kernel's reads get.
    pub kernel_reads: &'static str,
    /// What a guest program's own reads get.
    pub user_reads: &'static str,
}

/// What would count the guest's events under `--pmu type=auto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackingReport {
    /// In words; unknown says why a VM would not start.
    pub chosen: Finding<String>,
    /// Each architectural event.
    pub events: Vec<EventReport>,
    /// What a user should know of it.
    pub note: Option<&'static str>,
}

/// One architectural event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventReport {
    /// Linux's generic name.
    pub event: &'static str,
    /// What counts it.
    pub backing: &'static str,
    /// The host PMU, if one does.
    pub pmu: Option<String>,
}

/// What a VM takes besides its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// RAM of the VM that was measured, in KiB.
    pub guest_ram_kib: u64,
    /// Proportional set size of this whole process while the VM exists, less
    /// the guest's RAM, in KiB. Kernel memory is not in it, nor are devices
    /// and what loading and running a kernel leaves behind: a lower bound.
    pub pss_kib: u64,
    /// Of it, what is shared with no other process, in KiB.
    pub private_kib: u64,
}
