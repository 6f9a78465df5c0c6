//! Why no backing was chosen.

use vpmu::host::linux::PerfOpenError;
use vpmu::host::linux::sysfs::{CpuSet, SysfsError};
use vpmu::ids::VcpuId;

/// Why no backing was chosen, or vCPUs cannot go where it counts.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No such PMU.
    #[error("--pmu type={asked}: no such host PMU; this host has {}; or type=auto, type=software", list(.present))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The host's PMUs.
        present: Vec<String>,
    },
    /// The host has not the two kinds of CPUs that the flag stands for.
    #[error(
        "--pmu type={asked}: the host is not hybrid: it needs {needed} and its core PMUs are {}; use type=auto or type=software", list(.cores)
    )]
    NotHybrid {
        /// What was asked for.
        asked: &'static str,
        /// The PMUs that it takes.
        needed: &'static str,
        /// The host's core PMUs.
        cores: Vec<String>,
    },
    /// It counts none of the architectural events in a guest.
    #[error(
        "--pmu type={name}: this PMU counts no architectural event of a guest; use type=auto or type=software"
    )]
    CountsNothing {
        /// The PMU.
        name: String,
        /// What the host said to cycles.
        source: PerfOpenError,
    },
    /// The user may not count.
    #[error(
        "--pmu type={asked}: perf_event_open is not permitted; run as root or with CAP_PERFMON, or set /proc/sys/kernel/perf_event_paranoid to 1 or less, or use type=software"
    )]
    NotPermitted {
        /// What was asked for.
        asked: String,
        /// What the host said.
        source: PerfOpenError,
    },
    /// The list of PMUs could not be had.
    #[error("cannot list the host's PMUs")]
    Sysfs(#[from] SysfsError),
    /// A vCPU may run where its PMU does not count.
    #[error(
        "--cpus affinity={vcpu}@[{asked}]: host PMU {pmu}, which counts for this vCPU, is on host CPUs {counts} only; accepted: some of {counts}, or no affinity for it{}", roam(.pmu)
    )]
    Contradiction {
        /// The vCPU.
        vcpu: VcpuId,
        /// Where it was to run.
        asked: CpuSet,
        /// Its PMU.
        pmu: String,
        /// Where that counts.
        counts: CpuSet,
    },
    /// A vCPU is to run on CPUs that the host has not.
    #[error(
        "--cpus affinity={vcpu}@[{asked}]: host CPUs {online} are online; accepted: some of them"
    )]
    Offline {
        /// The vCPU.
        vcpu: VcpuId,
        /// Where it was to run.
        asked: CpuSet,
        /// What there is.
        online: CpuSet,
    },
    /// The VMM itself may not run where the PMU counts.
    #[error(
        "--pmu: host PMU {pmu} counts on host CPUs {counts} only, and this process may run on {allowed}; start it on some of {counts} (taskset), or name them with --cpus affinity="
    )]
    NotAllowedThere {
        /// The PMU.
        pmu: String,
        /// Where it counts.
        counts: CpuSet,
        /// Where this process may run.
        allowed: CpuSet,
    },
}

impl SelectError {
    /// Whether another value of a flag would do, as opposed to another host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        !matches!(self, Self::NotPermitted { .. } | Self::Sysfs(_))
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// What else would do for one of several core PMUs.
fn roam(pmu: &str) -> &'static str {
    match pmu {
        "cpu_core" | "cpu_atom" => ", or --pmu type=auto, which counts on both kinds of CPUs",
        _ => "",
    }
}
