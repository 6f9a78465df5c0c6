//! The user's terminal: in raw mode while the guest uses it, always restored.
#![expect(unsafe_code, reason = "termios")]

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A terminal and the settings to go back to.
struct SavedTerminal {
    fd: RawFd,
    settings: libc::termios,
}

/// For whoever gets there first: the guard, the panic hook, a signal handler or the
/// end's deadline. Only one process-wide terminal exists.
static SAVED: AtomicPtr<SavedTerminal> = AtomicPtr::new(ptr::null_mut());

/// Standard input in raw mode; its `Drop` restores it.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts standard input into raw mode if it is a terminal.
    ///
    /// # Errors
    /// What `tcgetattr` or `tcsetattr` says.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let fd = stdin.as_raw_fd();
        // SAFETY: all-zero is a valid `termios`.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `fd` is open and `settings` is ours.
        if unsafe { libc::tcgetattr(fd, &raw mut settings) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let guard = Self(());
        let saved = Box::new(SavedTerminal { fd, settings });
        // A terminal that was saved before is the same one, in raw mode.
        SAVED.store(Box::into_raw(saved), Ordering::Release);
        let mut raw = settings;
        // SAFETY: `raw` is ours.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        // The guest's output keeps its line ends: the guest sends CR LF itself.
        // SAFETY: `fd` is open and `raw` is initialised.
        if unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const raw) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(guard))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back. Does nothing if it was never taken, or given back.
/// Async-signal-safe: it allocates, frees and locks nothing.
pub fn restore() {
    let saved = SAVED.swap(ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: it is null or came from `Box::into_raw`; the swap gave it to us alone,
    // and it is never freed.
    if let Some(saved) = unsafe { saved.as_ref() } {
        // SAFETY: the settings came from `tcgetattr`.
        unsafe { libc::tcsetattr(saved.fd, libc::TCSANOW, &raw const saved.settings) };
    }
}

/// Makes a panic give the terminal back, and remove the socket, before it says
/// anything: the process aborts then.
pub fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        super::end::undo();
        before(info);
    }));
}

/// Columns and rows of the terminal that is standard output; `None` if it is none.
#[must_use]
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// A second descriptor of standard input.
///
/// # Errors
/// What `fcntl` says.
pub fn stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// A second descriptor of standard output, without std's line buffer.
///
/// # Errors
/// What `fcntl` says.
pub fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}
