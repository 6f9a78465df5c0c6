//! The CPU time of this VM's vCPU threads and of the host's CPUs.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vpmu::host::{CpuTime, CpuTimes, ScopeInstance};
use vpmu::ids::VcpuId;
use vpmu::units::Nanos;

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
        self.host.is_wanted.store(true, Ordering::Relaxed);
        self.refresh();
        InstanceTimes {
            times: Arc::clone(self),
            members,
        }
    }

    /// Reads the host's busy time if somebody uses it and it is old. To be called
    /// before the counters of uncore PMUs are looked at, without their lock.
    pub fn refresh(&self) {
        self.host.refresh(clock::monotonic(), busy_of_host);
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
        let host = self.times.host.last().busy?;
        let slots = self.times.slots();
        let of_vcpu = |vcpu: &VcpuId| slots.get(usize::from(vcpu.0)).map(VcpuTime::time);
        let guest = members.iter().filter_map(of_vcpu).map(|time| time.0).sum();
        let guest = Nanos(guest);
        Some(CpuTime { guest, host })
    }
}

/// How long a reading of the host's busy time is used: the kernel walks over all
/// interrupts of all CPUs for one, and a guest may ask as often as it likes. A guest's
/// part of the energy is reckoned for longer spans than this.
const GOOD_FOR: Nanos = Nanos(20_000_000);

/// The time in which the host's CPUs were not idle.
#[derive(Debug, Default)]
struct HostBusy {
    /// Whether anybody uses it.
    is_wanted: AtomicBool,
    /// One thread reads; the others go on with the last reading.
    is_reading: AtomicBool,
    /// Held to look and to change, never while the file is read.
    last: Mutex<BusyReading>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BusyReading {
    /// When; `None`: not yet.
    at: Option<Nanos>,
    /// `None` if the host does not tell.
    busy: Option<Nanos>,
}

impl HostBusy {
    fn last(&self) -> BusyReading {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self, now: Nanos, read: impl FnOnce() -> Option<Nanos>) {
        let is_wanted = self.is_wanted.load(Ordering::Relaxed);
        let is_new = |at: Nanos| now.since(at) < GOOD_FOR;
        if !is_wanted || self.last().at.is_some_and(is_new) {
            return;
        }
        if self.is_reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let at = Some(now);
        let busy = read();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = BusyReading { at, busy };
        self.is_reading.store(false, Ordering::Release);
    }
}

/// Reads the first line of `/proc/stat`, and no more.
fn busy_of_host() -> Option<Nanos> {
    /// Ten numbers of up to 20 digits, and their spaces.
    const LONGEST_LINE: usize = 256;
    let mut text = [0; LONGEST_LINE];
    let len = File::open("/proc/stat").ok()?.read(&mut text).ok()?;
    let text = text.get(..len)?;
    let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(len);
    busy(std::str::from_utf8(text.get(..end)?).ok()?)
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
        assert!(busy_of_host().is_some());
    }

    /// A guest that reads its energy all the time does not keep the host busy with it,
    /// nor its other vCPUs.
    #[test]
    fn the_hosts_time_is_read_once_in_a_while_and_by_one_thread() {
        let host = HostBusy::default();
        let reads = std::cell::Cell::new(0);
        let refresh = |now| {
            host.refresh(Nanos(now), || {
                reads.set(reads.get() + 1);
                assert!(host.last.try_lock().is_ok(), "no lock is held");
                // Another thread comes meanwhile.
                host.refresh(Nanos(now), || panic!("it is being read"));
                Some(Nanos(now))
            });
        };
        refresh(0);
        assert_eq!((reads.get(), host.last().busy), (0, None), "nobody asks");
        host.is_wanted.store(true, Ordering::Relaxed);
        for now in 0..100 {
            refresh(now * 1_000_000);
        }
        assert_eq!(reads.get(), 5, "in 100 ms");
        assert_eq!(host.last().busy, Some(Nanos(80_000_000)));
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
