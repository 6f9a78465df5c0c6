//! The signals that end the VMM, read as events.
//!
//! | signal | what it does |
//! |---|---|
//! | HUP, INT, QUIT, TERM, USR1, USR2, ALRM, VTALRM, PROF, STKFLT, PWR, XCPU, real-time ones | end the VM: events |
//! | IO, PIPE, XFSZ | nothing: the call that caused it fails, and says so |
//! | URG | a kick ([`super::kick`]) |
//! | SEGV, BUS, ILL, FPE, ABRT, TRAP, SYS | kill, the terminal restored and the socket gone ([`super::end`]) |
//! | CHLD, WINCH, CONT, TSTP, TTIN, TTOU | as the system has it: nothing, or stop and continue |
//!
//! A thread waits for the events and writes their numbers to a pipe. A `signalfd` in their
//! place would be woken, and the thread that polls it with it, by each signal to any thread
//! of the process: each overflow of a counter is one.
#![expect(unsafe_code, reason = "signals have no safe binding")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

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

/// What ends the thread that waits: a signal that ends nothing else. (A signal of the
/// others, sent by ourselves, could not be told from theirs where the host has no queue left
/// that says who sent it.)
const OWN: i32 = super::kick::SIGNAL;
/// Bytes of the stack of the thread that waits.
const STACK: usize = 64 << 10;

/// The signals that end the VM, blocked and delivered through a descriptor.
#[derive(Debug)]
pub struct EndSignals {
    file: File,
    waiter: Option<Waiter>,
}

/// The thread that waits for the signals.
#[derive(Debug)]
struct Waiter {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    /// Writes the numbers of the signals of `set`, which every thread blocks, to `numbers`.
    fn start(mut set: libc::sigset_t, mut numbers: File) -> io::Result<Self> {
        let mut own = no_signals();
        for set in [&mut set, &mut own] {
            // SAFETY: the set is initialised and the signal number is valid.
            unsafe { libc::sigaddset(set, OWN) };
        }
        let ends = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&ends);
        let waits = move || {
            while let Some(number) = wait(&set) {
                if number != OWN {
                    // A pipe that is full has enough reasons to end.
                    drop(numbers.write_all(&number.to_ne_bytes()));
                } else if has_ended.load(Ordering::Acquire) {
                    return;
                }
            }
        };
        // The thread has it blocked from its first instruction on.
        let before = block(&own)?;
        let thread = thread::Builder::new().name("signals".into());
        let thread = thread.stack_size(STACK).spawn(waits);
        // SAFETY: `before` is the mask that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        Ok(Self {
            ends,
            thread: Some(thread?),
        })
    }
}

impl Drop for Waiter {
    /// What the thread has taken is in the pipe then; a later signal waits for the next who
    /// waits for one, be it another program.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.ends.store(true, Ordering::Release);
        // SAFETY: the handle is not joined, so its pthread id is valid.
        let sent = unsafe { libc::pthread_kill(thread.as_pthread_t(), OWN) };
        if sent == 0 {
            drop(thread.join());
        }
    }
}

impl EndSignals {
    /// Blocks the signals in this thread and in those it creates from now on; those of
    /// `also` come through the descriptor as well.
    ///
    /// # Errors
    /// What `pthread_sigmask`, `pipe2` or the start of a thread says.
    pub fn block(also: &[i32]) -> io::Result<Self> {
        let mut set = ending();
        for signal in also {
            // SAFETY: `set` is initialised; an invalid number is refused.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        block(&set)?;
        let (file, numbers) = pipe()?;
        let waiter = Some(Waiter::start(set, numbers)?);
        Ok(Self { file, waiter })
    }

    /// Takes no more signals: those that come wait. [`EndSignals::take`] still gives those
    /// that came before.
    pub fn stop_waiting(&mut self) {
        self.waiter = None;
    }

    /// The number of the next signal, if one came.
    #[must_use]
    pub fn take(&mut self) -> Option<u32> {
        let mut number = [0u8; 4];
        self.file.read_exact(&mut number).ok()?;
        Some(u32::from_ne_bytes(number))
    }
}

/// A pipe that does not block: its ends to read and to write.
fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    let failed = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else has it.
    let reader = unsafe { File::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let writer = unsafe { File::from_raw_fd(ends[1]) };
    Ok((reader, writer))
}

/// The number of the next signal of a set that this thread blocks; `None` if the host cannot
/// wait.
fn wait(set: &libc::sigset_t) -> Option<i32> {
    loop {
        // SAFETY: `set` is initialised, and nothing else is asked for.
        match unsafe { libc::sigwaitinfo(set, ptr::null_mut()) } {
            number @ 1.. => return Some(number),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
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
    let mut set = no_signals();
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in ENDING.into_iter().chain(real_time) {
        // SAFETY: `set` is initialised and the signal number is valid.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn no_signals() -> libc::sigset_t {
    // SAFETY: all-zero is a valid signal set; it is emptied again below.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
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
        Self { file, waiter: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_number_and_the_end_of_the_wait_loses_none() {
        for _ in 0..2 {
            let (mut numbers, writer) = pipe().unwrap();
            let set = ending();
            let before = block(&set).unwrap();
            let waiter = Waiter::start(set, writer).unwrap();
            let thread = waiter.thread.as_ref().unwrap().as_pthread_t();
            // SAFETY: the thread has not ended.
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGTERM) }, 0);
            let mut number = [0; 4];
            while numbers.read_exact(&mut number).is_err() {
                thread::yield_now();
            }
            assert_eq!(i32::from_ne_bytes(number), libc::SIGTERM);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
            drop(waiter);
            numbers.read_exact(&mut number).unwrap();
            assert_eq!(i32::from_ne_bytes(number), libc::SIGUSR1, "it came before");
            // SAFETY: `before` is the mask that this thread had.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        }
    }
}
