//! Why no backing was chosen.

use vpmu::host::linux::PerfOpenError;
use vpmu::host::linux::sysfs::{CpuSet, SysfsError};
use vpmu::ids::VcpuId;

/// Why no backing was chosen, or vCPUs cannot go where it counts.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No such PMU.
    #[error("--pmu type={asked}: no such host PMU; this host has {}; use a PMU of this list, type=auto or type=software", list(.present))]
    Unknown {
        /// The requested value.
        asked: String,
        /// The host's PMUs.
        present: Vec<String>,
    },
    /// The flag needs two kinds of CPUs, and the host does not have both.
    #[error(
        "--pmu type={asked}: this host is not hybrid: type={asked} needs {needed}, and the host's core PMUs are {}; use type=auto or type=software", list(.cores)
    )]
    NotHybrid {
        /// The requested value.
        asked: &'static str,
        /// The PMUs that it needs.
        needed: &'static str,
        /// The host's core PMUs.
        cores: Vec<String>,
    },
    /// The PMU counts no architectural event in a guest.
    #[error(
        "--pmu type={name}: this host PMU counts no architectural event in a guest; use type=auto or type=software"
    )]
    CountsNothing {
        /// The PMU.
        name: String,
        /// The host's error for the event `cycles`.
        source: PerfOpenError,
    },
    /// A VM of another program has the PMU.
    #[error(
        "--pmu type={name}: a VM of another program has this host PMU by KVM's mediated vPMU; end that VM, or load {module} with enable_mediated_pmu=0, or use type=software"
    )]
    Mediated {
        /// The PMU.
        name: String,
        /// The KVM module that gives PMUs to VMs.
        module: &'static str,
        /// The host's error for the event `cycles`.
        source: PerfOpenError,
    },
    /// The user may not count.
    #[error(
        "--pmu type={asked}: this process may not call perf_event_open; run as root or with CAP_PERFMON, or set /proc/sys/kernel/perf_event_paranoid to 1 or less, or use type=software"
    )]
    NotPermitted {
        /// The requested value.
        asked: String,
        /// The host's error.
        source: PerfOpenError,
    },
    /// The host's PMUs could not be listed.
    #[error("cannot list the host's PMUs")]
    Sysfs(#[from] SysfsError),
    /// A vCPU may run where its PMU does not count.
    #[error(
        "--cpus affinity={vcpu}@[{asked}]: host PMU {pmu}, which counts for this vCPU, is on host CPUs {counts} only; use host CPUs of {counts}, or no affinity for this vCPU{}", roam(.pmu)
    )]
    Contradiction {
        /// The vCPU.
        vcpu: VcpuId,
        /// The requested host CPUs.
        asked: CpuSet,
        /// Its PMU.
        pmu: String,
        /// The host CPUs on which the PMU counts.
        counts: CpuSet,
    },
    /// A vCPU is to run on CPUs that the host has not.
    #[error(
        "--cpus affinity={vcpu}@[{asked}]: only host CPUs {online} are online; use CPUs of this list"
    )]
    Offline {
        /// The vCPU.
        vcpu: VcpuId,
        /// The requested host CPUs.
        asked: CpuSet,
        /// The online CPUs.
        online: CpuSet,
    },
    /// The VMM itself may not run where the PMU counts.
    #[error(
        "--pmu: host PMU {pmu} counts on host CPUs {counts} only, and this process may run on {allowed}; start perfvisor on CPUs of {counts} (taskset), or use --cpus affinity= with CPUs of {counts}"
    )]
    NotAllowedThere {
        /// The PMU.
        pmu: String,
        /// The host CPUs on which it counts.
        counts: CpuSet,
        /// The host CPUs on which this process may run.
        allowed: CpuSet,
    },
}

impl SelectError {
    /// Whether another value of a flag would do, as opposed to another host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::NotPermitted { .. } | Self::Mediated { .. } | Self::Sysfs(_)
        )
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The alternative for a vCPU of one of several core PMUs.
fn roam(pmu: &str) -> &'static str {
    match pmu {
        "cpu_core" | "cpu_atom" => ", or --pmu type=auto, which counts on both kinds of CPUs",
        _ => "",
    }
}
