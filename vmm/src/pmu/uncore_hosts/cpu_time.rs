//! The CPU time of this VM's vCPU threads, beside that of the host's CPUs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vpmu::host::{CpuTime, CpuTimes, ScopeInstance};
use vpmu::ids::VcpuId;
use vpmu::units::Nanos;

use super::host_busy::{HostBusy, HostTimes};
use crate::sys::clock::{self, ThreadClock};

/// The CPU time of each vCPU's threads: of those that have ended, and of the one
/// that there is.
#[derive(Debug)]
pub struct VcpuTimes {
    vcpus: Mutex<Vec<VcpuTime>>,
    host: HostBusy,
}

#[derive(Clone, Debug, Default)]
struct VcpuTime {
    ended: Nanos,
    thread: Option<ThreadClock>,
}

impl VcpuTime {
    fn time(&self) -> Nanos {
        // No clock: it has ended, and says so next.
        let running = self.thread.as_ref().and_then(ThreadClock::read);
        Nanos(self.ended.0.saturating_add(running.unwrap_or_default().0))
    }
}

impl VcpuTimes {
    /// Of so many vCPUs, none running yet.
    #[must_use]
    pub fn new(vcpus: u16) -> Self {
        Self {
            vcpus: Mutex::new(vec![VcpuTime::default(); usize::from(vcpus)]),
            host: HostBusy::default(),
        }
    }

    /// The calling thread is the vCPU's, until it calls [`VcpuTimes::end`].
    pub fn begin(&self, vcpu: VcpuId) {
        if let Some(slot) = self.slots().get_mut(usize::from(vcpu.0)) {
            slot.thread = ThreadClock::of_this_thread();
        }
    }

    /// The vCPU's thread, which is the calling one, ends. Its time stays the
    /// vCPU's.
    pub fn end(&self, vcpu: VcpuId) {
        if let Some(slot) = self.slots().get_mut(usize::from(vcpu.0)) {
            slot.ended = slot.time();
            slot.thread = None;
        }
    }

    /// What measures the vCPUs of each instance.
    pub(super) fn of(self: &Arc<Self>, members: Vec<Vec<VcpuId>>) -> InstanceTimes {
        self.host.want();
        self.refresh();
        InstanceTimes {
            times: Arc::clone(self),
            members,
        }
    }

    /// Reads the host's busy time if somebody uses it and it is old. To be called
    /// before the counters of uncore PMUs are looked at, without their lock.
    pub fn refresh(&self) {
        self.host.refresh(clock::monotonic(), HostTimes::read);
    }

    fn slots(&self) -> MutexGuard<'_, Vec<VcpuTime>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of an uncore PMU's instances.
#[derive(Debug)]
pub(super) struct InstanceTimes {
    times: Arc<VcpuTimes>,
    members: Vec<Vec<VcpuId>>,
}

impl CpuTimes for InstanceTimes {
    fn now(&mut self, instance: ScopeInstance) -> Option<CpuTime> {
        let members = self.members.get(usize::from(instance.0))?;
        let host = self.times.host.busy()?;
        let slots = self.times.slots();
        let of_vcpu = |vcpu: &VcpuId| slots.get(usize::from(vcpu.0)).map(VcpuTime::time);
        let guest = members.iter().filter_map(of_vcpu).map(|time| time.0).sum();
        let guest = Nanos(guest);
        Some(CpuTime { guest, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() {
        for i in 0..3_000_000_u64 {
            std::hint::black_box(i);
        }
    }

    /// A vCPU that was removed and added has run for as long as both threads.
    #[test]
    fn the_time_of_a_thread_that_ended_stays() {
        let times = Arc::new(VcpuTimes::new(3));
        let mut of_both = times.of(vec![vec![VcpuId(0), VcpuId(1)], vec![VcpuId(2)]]);
        let mut now = |n| of_both.now(ScopeInstance(n)).unwrap().guest;
        assert_eq!(now(0), Nanos(0));
        let thread = |vcpu| {
            let times = Arc::clone(&times);
            let body = move || {
                times.begin(VcpuId(vcpu));
                work();
                times.end(VcpuId(vcpu));
            };
            std::thread::spawn(body).join().unwrap();
        };
        thread(1);
        let first = now(0);
        assert!(first > Nanos(0));
        assert_eq!(now(0), first, "nobody runs");
        thread(1);
        assert!(now(0) > first);
        assert_eq!(now(1), Nanos(0), "another's");
        times.begin(VcpuId(0));
        let before = now(0);
        work();
        assert!(now(0) > before, "of a thread that runs");
        times.end(VcpuId(0));
    }
}
