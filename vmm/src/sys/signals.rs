//! The signals that end the VMM, read as events.
//!
//! | signal | what it does |
//! |---|---|
//! | HUP, INT, QUIT, TERM, USR1, USR2, ALRM, VTALRM, PROF, STKFLT, PWR, XCPU, real-time ones | end the VM: events |
//! | IO, PIPE, XFSZ | nothing: the call that caused it fails, and says so |
//! | URG | a kick ([`super::kick`]) |
//! | SEGV, BUS, ILL, FPE, ABRT, TRAP, SYS | kill, the terminal restored and the socket gone ([`super::end`]) |
//! | CHLD, WINCH, CONT, TSTP, TTIN, TTOU | as the system has it: nothing, or stop and continue |
#![expect(unsafe_code, reason = "signalfd and the signal mask")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

/// Those that kill by default, and are not of another row of the table.
const ENDING: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGSTKFLT,
    libc::SIGPWR,
    libc::SIGXCPU,
];

/// Those that tell of something which a failed call tells as well: a file that may
/// not grow (`RLIMIT_FSIZE`), a reader that has gone, input that can be read.
const IGNORED: [i32; 3] = [libc::SIGXFSZ, libc::SIGPIPE, libc::SIGIO];

/// The signals that end the VM, blocked and delivered through a descriptor.
#[derive(Debug)]
pub struct EndSignals {
    file: File,
}

impl EndSignals {
    /// Blocks the signals in this thread and in those it creates from now on; those of
    /// `also` come through the descriptor as well.
    ///
    /// # Errors
    /// What `pthread_sigmask` or `signalfd` says.
    pub fn block(also: &[i32]) -> io::Result<Self> {
        let mut set = ending();
        for signal in also {
            // SAFETY: `set` is initialised; an invalid number is refused.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        block(&set)?;
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else has it.
        let file = unsafe { File::from_raw_fd(fd) };
        Ok(Self { file })
    }

    /// The number of the next signal, if one came.
    #[must_use]
    pub fn take(&mut self) -> Option<u32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        self.file.read_exact(&mut info).ok()?;
        let number: [u8; 4] = info.get(..4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(number))
    }
}

impl AsRawFd for EndSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Starts a thread that gets none of the signals that end the VM, and no SIGWINCH: while they are not
/// blocked everywhere, one thread that does not block them is enough to be killed.
///
/// # Errors
/// What `pthread_sigmask` or `start` says.
pub fn start_thread<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut set = ending();
    // A thread that does not block it takes it from the descriptor, and ignores it.
    // SAFETY: `set` is initialised and the number is valid.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGWINCH) };
    let before = block(&set)?;
    let started = start();
    // SAFETY: `before` is the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
    started
}

/// The set of the signals that end the VM.
fn ending() -> libc::sigset_t {
    // SAFETY: all-zero is a valid signal set; it is emptied again below.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in ENDING.into_iter().chain(real_time) {
        // SAFETY: `set` is initialised and the signal number is valid.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Blocks signals in this thread; returns its mask before.
fn block(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    // SAFETY: all-zero is a valid signal set.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both sets are initialised and ours.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, &raw mut before) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    Ok(before)
}

/// Ignores the signals that a failed call tells of as well.
pub fn ignore_told_otherwise() {
    for signal in IGNORED {
        // SAFETY: ignoring installs no code; the signal numbers are valid.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
impl EndSignals {
    /// Reads signals from any file.
    pub(crate) const fn of_file(file: File) -> Self {
        Self { file }
    }
}
