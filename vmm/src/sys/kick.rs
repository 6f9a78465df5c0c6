//! Kicks: force a vCPU thread out of the guest.
//!
//! A kick is a signal. Its handler sets `kvm_run.immediate_exit` of the thread that
//! received it, so that a `KVM_RUN` that has not started yet returns at once. The
//! thread then checks its mailbox and its counters to find the reason of the kick.
//!
//! The signal is a standard one: SIGURG. The host queues no more than `RLIMIT_SIGPENDING`
//! real-time signals for a user, counted over all the user's processes, and refuses the
//! next one. A standard signal needs no place in that queue: it is sent even when the
//! queue is full. Those that are not received yet become one, which is all that a kick
//! has to say.
#![expect(unsafe_code, reason = "signal handlers and the kvm_run page")]

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::{self, NonNull};
use std::thread::JoinHandle;

thread_local! {
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal of every kick: for a message in the mailbox, for a timer that fired, and
/// for a host counter that overflowed (`F_SETSIG`). A process without a handler ignores
/// it.
pub const SIGNAL: i32 = libc::SIGURG;

extern "C" fn on_signal(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: `Registration` put it there on this very thread and takes it
        // away before the vCPU's page is unmapped.
        unsafe { ptr::write_volatile(flag, 1) };
    }
}

/// Installs the handler for the whole process. A thread that has no [`Registration`]
/// ignores the signal.
///
/// # Errors
/// What `sigaction` says.
pub fn install_handler() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    // SAFETY: `action` is initialised; the handler touches only lock-free
    // thread-local memory without destructors.
    let result = unsafe { libc::sigaction(SIGNAL, &raw const action, ptr::null_mut()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the calling thread was kicked since the last [`Registration::rearm`]: long
/// work ends early then, to go on later. False for a thread without a [`Registration`].
#[must_use]
pub fn is_pending() -> bool {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    // SAFETY: `Registration` put it there on this very thread and takes it away before
    // the vCPU's page is unmapped.
    !flag.is_null() && unsafe { ptr::read_volatile(flag) } != 0
}

/// Where the `immediate_exit` byte of one vCPU lies.
#[derive(Debug)]
pub struct ImmediateExit(NonNull<u8>);

impl ImmediateExit {
    /// The flag of a vCPU's run page.
    ///
    /// # Safety
    /// The byte stays mapped for as long as a [`Registration`] of it lives.
    #[must_use]
    pub unsafe fn new(flag: &mut u8) -> Self {
        Self(NonNull::from(flag))
    }

    /// The byte: non-zero makes the next `KVM_RUN` return at once.
    const fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }
}

/// While it lives, kicks of this thread reach one vCPU.
#[derive(Debug)]
pub struct Registration {
    flag: ImmediateExit,
}

impl Registration {
    /// Ties the calling thread to a vCPU. Drop it before the vCPU.
    #[must_use]
    pub fn new(flag: ImmediateExit) -> Self {
        IMMEDIATE_EXIT.with(|cell| cell.set(flag.as_ptr()));
        Self { flag }
    }

    /// Has the next `KVM_RUN` return at once: it only completes the exit that the vCPU
    /// was left with.
    pub fn hold(&self) {
        // SAFETY: the vCPU outlives its registration (see `new`).
        unsafe { ptr::write_volatile(self.flag.as_ptr(), 1) };
    }

    /// Lets the next `KVM_RUN` enter the guest again. To be called before the
    /// thread looks for what it was kicked for: a kick after the look then keeps
    /// it out.
    pub fn rearm(&self) {
        // SAFETY: the vCPU outlives its registration (see `new`).
        unsafe { ptr::write_volatile(self.flag.as_ptr(), 0) };
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}

/// Kicks a thread that has not been joined.
///
/// # Errors
/// What `pthread_kill` says.
pub fn send<T>(thread: &JoinHandle<T>) -> io::Result<()> {
    // SAFETY: the handle is not joined, so its pthread id is valid.
    let result = unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The host queues real-time signals, and refuses them when the queue is full.
    #[test]
    fn a_kick_needs_no_place_in_the_queue_of_signals() {
        assert!((1..32).contains(&SIGNAL));
    }

    #[test]
    fn a_kick_is_pending_until_the_thread_looks() {
        install_handler().unwrap();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            assert!(!is_pending(), "no vCPU");
            let mut byte = 0;
            // SAFETY: `byte` outlives the registration, which is dropped first.
            let kicks = Registration::new(unsafe { ImmediateExit::new(&mut byte) });
            assert!(!is_pending());
            ready.send(()).unwrap();
            while !is_pending() {
                std::thread::yield_now();
            }
            kicks.rearm();
            assert!(!is_pending());
            kicks.hold();
            assert!(is_pending());
            drop(kicks);
            assert!(!is_pending());
        });
        started.recv().unwrap();
        send(&thread).unwrap();
        thread.join().unwrap();
    }
}
