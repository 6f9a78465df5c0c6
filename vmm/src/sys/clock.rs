//! The CPU time of the calling thread.
#![expect(
    unsafe_code,
    reason = "clock_gettime has no safe binding for thread clocks"
)]

use vpmu::units::Nanos;

/// How long the calling thread has been on a CPU since it started.
#[must_use]
pub fn thread_cpu_time() -> Nanos {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writes. The call fails for an unknown clock
    // or a bad pointer only, and this is neither; `time` would then stay zero.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
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
    fn it_moves_while_the_thread_works() {
        let start = thread_cpu_time();
        while thread_cpu_time() == start {
            std::hint::spin_loop();
        }
        assert!(thread_cpu_time() > start);
    }
}
