//! The user's terminal: in raw mode while the guest uses it, always restored.
#![expect(unsafe_code, reason = "termios")]

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Mutex;

/// The settings to go back to, for whoever gets there first: the guard, the
/// panic hook or a fatal path. Only one process-wide terminal exists.
static SAVED: Mutex<Option<(RawFd, libc::termios)>> = Mutex::new(None);

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
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some((fd, settings));
        }
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

/// Gives the terminal back. Harmless if it was never taken.
pub fn restore() {
    let Ok(mut saved) = SAVED.try_lock() else {
        return;
    };
    if let Some((fd, settings)) = saved.take() {
        // SAFETY: `settings` came from `tcgetattr`.
        unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw const settings) };
    }
}

/// Makes a panic give the terminal back before it says anything.
pub fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        before(info);
    }));
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
