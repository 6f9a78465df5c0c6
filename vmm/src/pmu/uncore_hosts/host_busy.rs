//! The time in which the host's CPUs were not idle.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vpmu::host::linux::sysfs::Sysfs;
use vpmu::units::Nanos;

/// How long a reading of the host's busy time is used: the kernel walks over all
/// interrupts of all CPUs for one, and a guest may ask as often as it likes. A guest's
/// part of the energy is reckoned for longer spans than this.
const GOOD_FOR: Nanos = Nanos(20_000_000);

/// The host's busy time, read when it is wanted and the last reading is old.
#[derive(Debug, Default)]
pub(super) struct HostBusy {
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
    times: Option<HostTimes>,
    /// The busy time since the first reading, in nanoseconds.
    sum: i128,
    /// The largest `sum` so far: the steps of the host's numbers can take it back.
    largest: Nanos,
}

impl BusyReading {
    fn next(self, at: Nanos, times: Option<HostTimes>) -> Self {
        let sum = match (self.at, self.times, times) {
            (Some(since), Some(before), Some(now)) => {
                self.sum + now.busy_since(&before, at.since(since))
            }
            _ => self.sum,
        };
        let busy = u64::try_from(sum).unwrap_or_default();
        Self {
            at: Some(at),
            times,
            sum,
            largest: self.largest.max(Nanos(busy)),
        }
    }

    fn busy(&self) -> Option<Nanos> {
        self.times.map(|_| self.largest)
    }
}

impl HostBusy {
    /// From now on somebody uses it.
    pub(super) fn want(&self) {
        self.is_wanted.store(true, Ordering::Relaxed);
    }

    /// The busy time of all CPUs by the last reading; `None` if the host does not tell.
    pub(super) fn busy(&self) -> Option<Nanos> {
        self.last().busy()
    }

    fn last(&self) -> BusyReading {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `read` look at the host if somebody uses its times and the last ones are old.
    pub(super) fn refresh(&self, now: Nanos, read: impl FnOnce() -> Option<HostTimes>) {
        let is_wanted = self.is_wanted.load(Ordering::Relaxed);
        let last = self.last();
        let is_new = |at: Nanos| now.since(at) < GOOD_FOR;
        if !is_wanted || last.at.is_some_and(is_new) {
            return;
        }
        if self.is_reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let next = last.next(now, read());
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = next;
        self.is_reading.store(false, Ordering::Release);
    }
}

/// The times of all CPUs together, as the host tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostTimes {
    /// How many CPUs are online.
    online: u64,
    /// Idle, waiting for a disk, or stolen by a hypervisor. The kernel reads a clock for
    /// these.
    away: Nanos,
    /// User, nice, system and interrupts; guests are in the first two. The kernel counts
    /// ticks for these, and a tick that comes late stands for several.
    ticked: Nanos,
}

impl HostTimes {
    /// Reads them.
    pub(super) fn read() -> Option<Self> {
        /// Ten numbers of up to 20 digits, and their spaces.
        const LONGEST_LINE: usize = 256;
        let mut text = [0; LONGEST_LINE];
        let len = File::open("/proc/stat").ok()?.read(&mut text).ok()?;
        let text = text.get(..len)?;
        let end = text.iter().position(|&byte| byte == b'\n').unwrap_or(len);
        let online = Sysfs::default().online_cpus().ok()?.len();
        Self::parse(std::str::from_utf8(text.get(..end)?).ok()?, online as u64)
    }

    /// Of the first line of `/proc/stat` (proc(5), "/proc/stat").
    fn parse(text: &str, online: u64) -> Option<Self> {
        /// USER_HZ is 100 on every x86-64 Linux.
        const TICK: u64 = 10_000_000;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Option<Vec<u64>> = line.split_whitespace().map(|n| n.parse().ok()).collect();
        let time = |parts: &[u64]| {
            let sum = parts.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
            Nanos(sum.saturating_mul(TICK))
        };
        match ticks?.as_slice() {
            &[user, nice, system, idle, iowait, irq, softirq, steal, ..] => Some(Self {
                online,
                away: time(&[idle, iowait, steal]),
                ticked: time(&[user, nice, system, irq, softirq]),
            }),
            _ => None,
        }
    }

    /// The busy time in the `elapsed` time since `before`: what the CPUs had and did not
    /// idle away. If CPUs came or went in between, the ticks have to do.
    fn busy_since(&self, before: &Self, elapsed: Nanos) -> i128 {
        let grown = |now: Nanos, then: Nanos| i128::from(now.0) - i128::from(then.0);
        if self.online == before.online {
            let capacity = i128::from(elapsed.0) * i128::from(self.online);
            capacity - grown(self.away, before.away)
        } else {
            grown(self.ticked, before.ticked)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(online: u64, away: u64, ticked: u64) -> HostTimes {
        HostTimes {
            online,
            away: Nanos(away),
            ticked: Nanos(ticked),
        }
    }

    #[test]
    fn idle_and_stolen_time_is_away() {
        let text = "cpu  10 2 3 4000 500 6 7 800 9 1\ncpu0 1 2 3\n";
        let expected = times(2, 53_000_000_000, 280_000_000);
        assert_eq!(HostTimes::parse(text, 2), Some(expected));
        for text in [
            "",
            "cpu0 1 2 3 4 5 6 7 8",
            "cpu  1 2 3",
            "cpu  a b c d e f g h",
        ] {
            assert_eq!(HostTimes::parse(text, 2), None, "{text}");
        }
        assert!(HostTimes::read().is_some());
    }

    /// On a machine whose own hypervisor lets it wait, ticks come late and stand for too
    /// little time: an emulated host counted 0.7 of the time that its only CPU was busy.
    #[test]
    fn ticks_that_are_late_take_nothing_away() {
        let before = times(2, 100, 50);
        assert_eq!(times(2, 160, 51).busy_since(&before, Nanos(100)), 140);
        // A CPU came: nobody knows when.
        assert_eq!(times(3, 160, 51).busy_since(&before, Nanos(100)), 1);
    }

    /// The host's numbers have steps of 10 ms: their errors do not add up.
    #[test]
    fn steps_do_not_add_up() {
        let mut reading = BusyReading::default();
        for n in 0..1000_u64 {
            let now = n * 21;
            // Half busy, the idle time in steps of 10.
            reading = reading.next(Nanos(now), Some(times(1, now / 2 / 10 * 10, 0)));
        }
        let busy = reading.busy().unwrap().0;
        assert!(busy.abs_diff(999 * 21 / 2) <= 10, "{busy}");
        let silent = reading.next(Nanos(30_000), None);
        assert_eq!(silent.busy(), None);
        let again = silent.next(Nanos(30_020), Some(times(1, 0, 0)));
        assert_eq!(again.busy(), reading.busy(), "it never goes back");
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
                Some(times(1, 0, 0))
            });
        };
        refresh(0);
        assert_eq!((reads.get(), host.busy()), (0, None), "nobody asks");
        host.want();
        for now in 0..100 {
            refresh(now * 1_000_000);
        }
        assert_eq!(reads.get(), 5, "in 100 ms");
        assert_eq!(host.busy(), Some(Nanos(80_000_000)));
    }
}
