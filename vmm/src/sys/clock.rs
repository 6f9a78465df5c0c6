//! Clocks of the host.
#![expect(
    unsafe_code,
    reason = "clock_gettime has no safe binding for thread clocks"
)]

use vpmu::units::Nanos;

/// A clock: when it is now.
pub type Clock = fn() -> Nanos;

/// How long the calling thread has been on a CPU since it started. A system
/// call.
#[must_use]
pub fn thread_cpu_time() -> Nanos {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time since some point in the past. No system call where the host has a TSC.
#[must_use]
pub fn monotonic() -> Nanos {
    read(libc::CLOCK_MONOTONIC)
}

/// The wall clock: nanoseconds since 1970, UTC. No system call where the host has a TSC.
#[must_use]
pub fn realtime() -> Nanos {
    read(libc::CLOCK_REALTIME)
}

/// The CPU time of one thread, read by any other of the process.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's; `None` if the host has none.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: it takes nothing and cannot fail.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: `this` is the calling thread, which lives, and `clock` is valid
        // for writes.
        let failed = unsafe { libc::pthread_getcpuclockid(this, &raw mut clock) };
        (failed == 0).then_some(Self(clock))
    }

    /// How long the thread has been on a CPU; `None` once it has ended.
    #[must_use]
    pub fn read(&self) -> Option<Nanos> {
        try_read(self.0)
    }
}

/// A clock that always is.
fn read(clock: libc::clockid_t) -> Nanos {
    try_read(clock).unwrap_or_default()
}

fn try_read(clock: libc::clockid_t) -> Option<Nanos> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    let seconds = part(time.tv_sec).wrapping_mul(1_000_000_000);
    (failed == 0).then(|| Nanos(seconds.wrapping_add(part(time.tv_nsec))))
}

#[cfg(test)]
pub(super) mod tests {
    use vpmu::host::software::Khz;

    use super::*;

    /// The rate of the TSC, measured.
    pub(in crate::sys) fn tsc_rate() -> Khz {
        let (start, first) = (monotonic(), crate::sys::thread_time::ticks());
        let mut span = Nanos(0);
        while span < Nanos(20_000_000) {
            span = monotonic().since(start);
        }
        let ticks = crate::sys::thread_time::ticks() - first;
        Khz(u32::try_from(ticks * 1_000_000 / span.0).unwrap())
    }

    #[test]
    fn they_move_while_the_thread_works() {
        for clock in [thread_cpu_time as Clock, monotonic] {
            let start = clock();
            while clock() == start {
                std::hint::spin_loop();
            }
            assert!(clock() > start);
        }
    }

    #[test]
    fn a_threads_clock_ends_with_it() {
        let thread = std::thread::spawn(|| {
            let clock = ThreadClock::of_this_thread().unwrap();
            let own = thread_cpu_time();
            assert!(clock.read().unwrap() >= own);
            clock
        });
        let clock = thread.join().unwrap();
        // Its number is free once the kernel has reaped it.
        let ended = || clock.read().is_none();
        assert!((0..1_000).any(|_| {
            std::thread::yield_now();
            ended()
        }));
    }
}
