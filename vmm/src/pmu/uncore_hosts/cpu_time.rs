//! The CPU time of this VM's vCPU threads and of the host's CPUs.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vpmu::host::{CpuTime, CpuTimes, ScopeInstance};
use vpmu::ids::VcpuId;
use vpmu::units::Nanos;

use crate::sys::clock::ThreadClock;

/// The CPU time of each vCPU's threads: of those that have ended, and of the one
/// that there is.
#[derive(Debug)]
pub struct VcpuTimes(Mutex<Vec<VcpuTime>>);

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
        Self(Mutex::new(vec![VcpuTime::default(); usize::from(vcpus)]))
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
        InstanceTimes {
            times: Arc::clone(self),
            members,
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<VcpuTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let host = busy(&fs::read_to_string("/proc/stat").ok()?)?;
        let slots = self.times.slots();
        let of_vcpu = |vcpu: &VcpuId| slots.get(usize::from(vcpu.0)).map(VcpuTime::time);
        let guest = members.iter().filter_map(of_vcpu).map(|time| time.0).sum();
        let guest = Nanos(guest);
        Some(CpuTime { guest, host })
    }
}

/// The time in which the host's CPUs were not idle, of the text of `/proc/stat`:
/// user, nice, system, interrupts; guests are in the first two. What a
/// hypervisor has stolen was not this host's.
///
/// proc(5), "/proc/stat".
fn busy(text: &str) -> Option<Nanos> {
    /// USER_HZ is 100 on every x86-64 Linux.
    const TICK: u64 = 10_000_000;
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
    match ticks?.as_slice() {
        [user, nice, system, _idle, _iowait, irq, softirq, ..] => {
            let busy = [user, nice, system, irq, softirq].into_iter().sum::<u64>();
            Some(Nanos(busy.saturating_mul(TICK)))
        }
        _ => None,
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

    #[test]
    fn busy_time_leaves_out_idle_and_stolen_time() {
        let text = "cpu  10 2 3 4000 500 6 7 800 9 1\ncpu0 1 2 3\n";
        assert_eq!(busy(text), Some(Nanos(280_000_000)));
        for text in ["", "cpu0 1 2 3 4 5 6 7", "cpu  1 2 3", "cpu  a b c d e f g"] {
            assert_eq!(busy(text), None, "{text}");
        }
        assert!(busy(&fs::read_to_string("/proc/stat").unwrap()).is_some());
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
