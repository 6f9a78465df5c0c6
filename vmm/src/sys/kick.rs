//! Kicks: force a vCPU thread out of the guest.
//!
//! A kick is a signal. Its handler sets `kvm_run.immediate_exit` of the thread that
//! received it, so that a `KVM_RUN` that has not started yet returns at once. The
//! thread then checks its mailbox and its counters to find the reason of the kick.
#![expect(unsafe_code, reason = "signal handlers and the kvm_run page")]

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::{self, NonNull};
use std::thread::JoinHandle;

thread_local! {
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that says "look into your mailbox".
#[must_use]
pub fn mailbox_signal() -> i32 {
    libc::SIGRTMIN()
}

/// The signal for host counter overflows (`F_SETSIG`).
#[must_use]
pub fn overflow_signal() -> i32 {
    libc::SIGRTMIN() + 1
}

extern "C" fn on_signal(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.with(Cell::get);
    if !flag.is_null() {
        // SAFETY: `Registration` put it there on this very thread and takes it
        // away before the vCPU's page is unmapped.
        unsafe { ptr::write_volatile(flag, 1) };
    }
}

/// Installs the handler for both signals, for the whole process. Threads that
/// have no [`Registration`] ignore them.
///
/// # Errors
/// What `sigaction` says.
pub fn install_handlers() -> io::Result<()> {
    for signal in [mailbox_signal(), overflow_signal()] {
        // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
        // SAFETY: `action` is initialised; the handler touches only lock-free
        // thread-local memory without destructors.
        let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
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

/// Sends `signal` to a thread that has not been joined.
///
/// # Errors
/// What `pthread_kill` says.
pub fn send<T>(thread: &JoinHandle<T>, signal: i32) -> io::Result<()> {
    // SAFETY: the handle is not joined, so its pthread id is valid.
    let result = unsafe { libc::pthread_kill(thread.as_pthread_t(), signal) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}
