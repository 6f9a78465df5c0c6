//! A timer that signals one thread.
#![expect(unsafe_code, reason = "timer_create has no safe binding")]

use std::io;
use std::ptr;

use vpmu::units::Nanos;

use super::affinity::Tid;

/// A timer of the monotonic clock, which signals the thread that created it.
#[derive(Debug)]
pub struct ThreadTimer(libc::timer_t);

// SAFETY: a timer id is a number that any thread of the process may use; the
// signal goes to the thread that was named at creation.
unsafe impl Send for ThreadTimer {}

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
        event.sigev_notify_thread_id = Tid::current().number();
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if made < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self(timer))
        }
    }

    /// Fires `span` from now (at least a nanosecond), and again after each `interval` if
    /// there is one; replaces what was armed.
    ///
    /// # Errors
    /// What `timer_settime` says.
    pub fn arm(&self, span: Nanos, interval: Option<Nanos>) -> io::Result<()> {
        self.set(span.max(Nanos(1)), interval.unwrap_or_default())
    }

    /// Does not fire any more.
    ///
    /// # Errors
    /// What `timer_settime` says.
    pub fn disarm(&self) -> io::Result<()> {
        self.set(Nanos(0), Nanos(0))
    }

    fn set(&self, span: Nanos, interval: Nanos) -> io::Result<()> {
        const SECOND: u64 = 1_000_000_000;
        let part = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let time = |span: Nanos| libc::timespec {
            tv_sec: part(span.0 / SECOND),
            tv_nsec: part(span.0 % SECOND),
        };
        let value = libc::itimerspec {
            it_interval: time(interval),
            it_value: time(span),
        };
        // SAFETY: the timer exists until this is dropped; `value` is valid and
        // no old value is asked for.
        let set = unsafe { libc::timer_settime(self.0, 0, &raw const value, ptr::null_mut()) };
        if set < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer exists and is used no more.
        unsafe { libc::timer_delete(self.0) };
    }
}
