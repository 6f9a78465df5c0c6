//! Where a vCPU thread runs, and what if it does not stay there.
//!
//! A PMU that is on part of the host's CPUs counts nothing on the others. The
//! thread is bound to its CPUs; somebody may still move it (`taskset`, cpusets,
//! a CPU that goes offline), and then the VM stops, by whichever sees it first:
//!
//! * the thread itself, after each exit: the CPU that it is on (a few
//!   nanoseconds, and only for such a PMU);
//! * the event loop, every [`CHECK_PERIOD`]: whether the thread's affinity mask
//!   leaves the PMU's CPUs. A guest that never exits is found by this alone,
//!   since a migration ends no `KVM_RUN`.
//!
//! A foreign CPU cannot be reached without such a mask. So nothing runs
//! uncounted for longer than the period, and the VM that did ends with a reason.

use std::time::Duration;

use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::{HostCpu, VcpuId};

use crate::stop::StopReason;
use crate::sys::affinity::{self, Tid};

/// How often the event loop looks at the affinity of vCPU threads that have a
/// [`RequiredCpus`].
pub const CHECK_PERIOD: Duration = Duration::from_millis(100);

/// The CPUs of a PMU that is on part of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredCpus {
    /// The PMU's name in sysfs.
    pub pmu: String,
    /// Its CPUs.
    pub cpus: CpuSet,
}

impl RequiredCpus {
    /// The end of a VM whose vCPU may run on `found`.
    fn left(&self, vcpu: VcpuId, found: CpuSet) -> StopReason {
        StopReason::ForeignCpu {
            vcpu,
            found,
            pmu: self.pmu.clone(),
            counts: self.cpus.clone(),
        }
    }

    /// Whether a thread may leave: the reason to stop, if so. A thread that is
    /// gone does not.
    #[must_use]
    pub fn may_be_left(&self, vcpu: VcpuId, thread: Tid) -> Option<StopReason> {
        let mask = thread.affinity().ok()?;
        (!mask.is_subset(&self.cpus)).then(|| self.left(vcpu, mask))
    }
}

/// Where one vCPU thread runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuAffinity {
    /// The CPUs to bind it to; `None`: wherever the VMM may run.
    pub bind: Option<CpuSet>,
    /// Where it must stay; `None`: it may roam.
    pub home: Option<RequiredCpus>,
}

/// The thread's own check, after each exit.
#[derive(Debug)]
pub(super) struct CpuGuard {
    home: Option<RequiredCpus>,
    /// The last CPU that was found to be good: most exits stay on it.
    last: Option<HostCpu>,
}

impl CpuGuard {
    pub(super) const fn new(home: Option<RequiredCpus>) -> Self {
        Self { home, last: None }
    }

    /// The reason to stop, if the calling thread is on a foreign CPU.
    pub(super) fn check(&mut self, vcpu: VcpuId) -> Option<StopReason> {
        let home = self.home.as_ref()?;
        let cpu = affinity::current_cpu()?;
        if self.last == Some(cpu) {
            return None;
        }
        if home.cpus.contains(cpu) {
            self.last = Some(cpu);
            return None;
        }
        Some(home.left(vcpu, [cpu].into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(cpus: CpuSet) -> RequiredCpus {
        RequiredCpus {
            pmu: "cpu_core".to_owned(),
            cpus,
        }
    }

    #[test]
    fn a_thread_at_home_goes_on_and_one_elsewhere_is_stopped() {
        let everywhere = Tid::current().affinity().unwrap();
        let nowhere: CpuSet = [CpuSet::MAX].into_iter().collect();
        let vcpu = VcpuId(3);
        assert!(CpuGuard::new(None).check(vcpu).is_none());
        let mut guard = CpuGuard::new(Some(home(everywhere.clone())));
        assert!(guard.check(vcpu).is_none() && guard.check(vcpu).is_none());
        let reason = CpuGuard::new(Some(home(nowhere.clone()))).check(vcpu);
        let text = reason.unwrap().to_string();
        for part in ["vCPU 3", "cpu_core", "65535", "type=auto"] {
            assert!(text.contains(part), "{text}");
        }
        let me = Tid::current();
        assert!(home(everywhere).may_be_left(vcpu, me).is_none());
        assert!(home(nowhere).may_be_left(vcpu, me).is_some());
    }
}
