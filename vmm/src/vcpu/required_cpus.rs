//! The host CPUs on which a vCPU thread must run, and the check that it stays there.
//!
//! A PMU that is on part of the host's CPUs counts nothing on the others. The
//! thread is bound to the PMU's CPUs. Something may still move it (`taskset`,
//! cpusets, a CPU that goes offline). Then the VM stops. Two checks find the move:
//!
//! * The thread checks its current CPU after each exit (a few nanoseconds, and
//!   only for such a PMU).
//! * The event loop checks every [`CHECK_PERIOD`] whether the thread's affinity mask
//!   contains CPUs outside the PMU's. Only this check finds a guest that never
//!   exits, because a migration does not end `KVM_RUN`.
//!
//! A thread reaches a foreign CPU only with such a mask. So a guest runs uncounted
//! for at most one period, and then its VM ends with a reason.

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
    fn stop_reason(&self, vcpu: VcpuId, found: CpuSet) -> StopReason {
        StopReason::ForeignCpu {
            vcpu,
            found,
            pmu: self.pmu.clone(),
            counts: self.cpus.clone(),
        }
    }

    /// The reason to stop, if a thread's affinity mask has CPUs beyond the required
    /// ones; none for a thread that has ended.
    #[must_use]
    pub fn check_affinity(&self, vcpu: VcpuId, thread: Tid) -> Option<StopReason> {
        let mask = thread.affinity().ok()?;
        (!mask.is_subset(&self.cpus)).then(|| self.stop_reason(vcpu, mask))
    }
}

/// Where one vCPU thread runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuAffinity {
    /// The CPUs to bind it to; `None`: wherever the VMM may run.
    pub bind: Option<CpuSet>,
    /// The CPUs on which it must stay; `None`: it may run on any.
    pub required_cpus: Option<RequiredCpus>,
}

/// The thread's own check, after each exit.
#[derive(Debug)]
pub(super) struct CpuGuard {
    required: Option<RequiredCpus>,
    /// The last CPU that was found to be good: most exits stay on it.
    last: Option<HostCpu>,
}

impl CpuGuard {
    pub(super) const fn new(required: Option<RequiredCpus>) -> Self {
        Self {
            required,
            last: None,
        }
    }

    /// The reason to stop, if the calling thread is on a foreign CPU.
    pub(super) fn check(&mut self, vcpu: VcpuId) -> Option<StopReason> {
        let required = self.required.as_ref()?;
        let cpu = affinity::current_cpu()?;
        if self.last == Some(cpu) {
            return None;
        }
        if required.cpus.contains(cpu) {
            self.last = Some(cpu);
            return None;
        }
        Some(required.stop_reason(vcpu, [cpu].into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(cpus: CpuSet) -> RequiredCpus {
        RequiredCpus {
            pmu: "cpu_core".to_owned(),
            cpus,
        }
    }

    #[test]
    fn a_thread_on_required_cpus_goes_on_and_one_elsewhere_is_stopped() {
        let everywhere = Tid::current().affinity().unwrap();
        let nowhere: CpuSet = [CpuSet::MAX].into_iter().collect();
        let vcpu = VcpuId(3);
        assert!(CpuGuard::new(None).check(vcpu).is_none());
        let mut guard = CpuGuard::new(Some(required(everywhere.clone())));
        assert!(guard.check(vcpu).is_none() && guard.check(vcpu).is_none());
        let reason = CpuGuard::new(Some(required(nowhere.clone()))).check(vcpu);
        let text = reason.unwrap().to_string();
        for part in ["vCPU 3", "cpu_core", "65535", "type=auto"] {
            assert!(text.contains(part), "{text}");
        }
        let me = Tid::current();
        assert!(required(everywhere).check_affinity(vcpu, me).is_none());
        assert!(required(nowhere).check_affinity(vcpu, me).is_some());
    }
}
