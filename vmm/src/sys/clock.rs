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

fn read(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes. The call fails for an unknown clock
    // or a bad pointer only, and this is neither; `time` would then stay zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Nanos(
        part(time.tv_sec)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(part(time.tv_nsec)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
