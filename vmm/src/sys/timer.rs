//! A timer that signals one thread.
#![expect(unsafe_code, reason = "timers have no safe binding")]

use std::io;
use std::ptr;

use vpmu::units::Nanos;

/// A one-shot timer of the monotonic clock, which signals the thread that
/// created it.
///
/// By the system calls themselves: a static glibc of Debian 12 links its
/// `timer_create` to nothing.
#[derive(Debug)]
pub struct ThreadTimer(libc::c_int);

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

impl ThreadTimer {
    /// A disarmed timer that will send `signal` to the calling thread.
    ///
    /// # Errors
    /// What `timer_create` says.
    pub fn new(signal: i32) -> io::Result<Self> {
        // SAFETY: all-zero is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        // SAFETY: gettid takes nothing and cannot fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer: libc::c_int = 0;
        let clock = libc::CLOCK_MONOTONIC;
        // SAFETY: the kernel reads one sigevent and writes one int, its type
        // of timer ids; both pointers are valid for the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_timer_create,
                clock,
                &raw const event,
                &raw mut timer,
            )
        })?;
        Ok(Self(timer))
    }

    /// Fires once, `span` from now (at least a nanosecond); replaces what was
    /// armed.
    ///
    /// # Errors
    /// What `timer_settime` says.
    pub fn arm(&self, span: Nanos) -> io::Result<()> {
        let span = Nanos(span.0.max(1));
        const SECOND: u64 = 1_000_000_000;
        let part = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let value = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: part(span.0 / SECOND),
                tv_nsec: part(span.0 % SECOND),
            },
        };
        let replaced: *mut libc::itimerspec = ptr::null_mut();
        // SAFETY: the timer exists until this is dropped; the kernel reads
        // `value`, and writes no old value where the pointer is null.
        check(unsafe {
            libc::syscall(
                libc::SYS_timer_settime,
                self.0,
                0,
                &raw const value,
                replaced,
            )
        })
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer exists and is used no more.
        unsafe { libc::syscall(libc::SYS_timer_delete, self.0) };
    }
}
