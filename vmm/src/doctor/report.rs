//! The report, one structure for each topic. Field names are the JSON's.

use serde::Serialize;

use crate::error_text::one_line;
use crate::kvm::Parameter;

/// A value of the host, or the reason why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Finding<T> {
    /// The value.
    Value(T),
    /// The value is not known.
    Unknown {
        /// The reason.
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

    /// The value, if it is known.
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
    /// The reason for the answer.
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
    /// The options of `--uncore`, and which of them are possible here.
    pub uncore: Vec<UncoreReport>,
    /// The permissions of this user to count events.
    pub permission: PermissionReport,
    /// What matters when guests of several owners share the host.
    pub tenants: Vec<TenantsReport>,
    /// The answers of this host to RDPMC in guests.
    pub rdpmc: Finding<RdpmcReport>,
    /// The source of the counts of a guest's events.
    pub backing: BackingReport,
    /// The memory that a VM needs besides the guest's RAM.
    pub memory: Finding<MemoryReport>,
    /// The steps that enable more, the most important first.
    pub advice: Vec<String>,
}

/// The kind of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvmKindName {
    /// No KVM device opens.
    None,
    /// KVM uses the CPU's virtualisation extension.
    Hardware,
    /// KVM uses the virtualisation extension of a CPU that is virtual itself.
    Nested,
    /// KVM emulates every guest instruction.
    Emulated,
    /// Guests run at full speed, but no CPU flag names the extension.
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
    /// The advice about a file that is closed to this user, or that is missing
    /// on a host with `/dev/kvm`. In JSON, it is part of the advice.
    #[serde(skip)]
    pub access: Option<String>,
    /// The version of the API; unknown says why it does not open.
    pub api_version: Finding<i32>,
    /// The kind of this KVM.
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
    /// The features that Perfvisor uses.
    pub features: Finding<FeaturesReport>,
    /// The module parameter `enable_pmu`: KVM's own vPMU.
    pub enable_pmu: Finding<Parameter>,
    /// The module parameter `enable_mediated_pmu`: whether KVM can give a VM the host's
    /// PMU itself, which takes it from every other guest.
    pub mediated_pmu: Finding<Parameter>,
}

/// The features of a KVM that Perfvisor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent abilities, each named"
)]
pub struct FeaturesReport {
    /// KVM leaves chosen MSRs to the VMM; needed for a guest PMU.
    pub msr_filter: bool,
    /// Accesses to these MSRs reach the VMM; needed for a guest PMU.
    pub user_space_msr: bool,
    /// KVM's own vPMU can be switched off for a single VM.
    pub pmu_capability: bool,
    /// KVM shares registers with the VMM at each exit, which saves a call.
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
    /// The kind of these groups, if the mask shows it.
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

/// The number of free counters for one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventCounters {
    /// The name of the event in Linux.
    pub event: &'static str,
    /// The number of free counters.
    pub free: usize,
}

/// An option of `--uncore`: a PMU that vCPUs share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UncoreReport {
    /// The key of `--uncore`.
    pub option: &'static str,
    /// The guests that can have this PMU.
    pub guests: &'static str,
    /// How many instances the host has; unknown says why a guest cannot have it.
    pub instances: Finding<usize>,
    /// For `power`: the parts of the package whose energy can be read.
    pub domains: Vec<&'static str>,
    /// Whether only the permission is missing.
    pub denied: bool,
}

/// The permissions of this user to count events.
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
    /// Whether `perf_event_open` opens a software event.
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

/// A setting of the host that matters when guests of several owners share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TenantsReport {
    /// Its name: `smt`, `ksm`, `swap`, `cpu_vulnerabilities`, `kvm_nested`,
    /// `core_pattern` or `nmi_watchdog`.
    pub check: &'static str,
    /// How it is set.
    pub found: Finding<String>,
    /// Whether it is a risk to guests of several owners; `None`: not known.
    pub risk: Option<bool>,
    /// What the setting does to guests.
    pub meaning: &'static str,
    /// What ends the risk, if it is one.
    pub change: Option<&'static str>,
}

/// The answers of this host to RDPMC in guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdpmcReport {
    /// `gp-fault`, `silent-zero` or `value`.
    pub class: &'static str,
    /// The answer to each index that was tried.
    pub answers: Vec<String>,
    /// Whether RDPMC in the guest's kernel is served.
    pub kernel_reads: &'static str,
    /// Whether RDPMC in a guest's program is served.
    pub user_reads: &'static str,
}

/// The source of the counts of a guest's events under `--pmu type=auto`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackingReport {
    /// The source in words; if it is unknown, the reason why a VM does not start.
    pub chosen: Finding<String>,
    /// Each architectural event.
    pub events: Vec<EventReport>,
    /// A limit of these counts that a user should know.
    pub note: Option<&'static str>,
}

/// The source of the counts of one architectural event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventReport {
    /// Linux's generic name.
    pub event: &'static str,
    /// The source: `hardware`, `clock-derived` or `unavailable`.
    pub backing: &'static str,
    /// The host PMU, if one does.
    pub pmu: Option<String>,
}

/// The memory that a VM needs besides the guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// RAM of the VM that was measured, in KiB.
    pub guest_ram_kib: u64,
    /// Proportional set size of this whole process while the VM exists, less
    /// the guest's RAM, in KiB. Kernel memory is not in it, nor are devices
    /// and what loading and running a kernel leaves behind: a lower bound.
    pub pss_kib: u64,
    /// The part of `pss_kib` that no other process shares, in KiB.
    pub private_kib: u64,
}
