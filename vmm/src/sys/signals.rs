//! The signals that end the VMM, read as events.
#![expect(unsafe_code, reason = "signalfd and the signal mask")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

/// SIGINT, SIGTERM and SIGHUP, blocked and delivered through a descriptor.
#[derive(Debug)]
pub struct EndSignals {
    file: File,
}

impl EndSignals {
    /// Blocks the signals in this thread and in those it creates from now on.
    ///
    /// # Errors
    /// What `pthread_sigmask` or `signalfd` says.
    pub fn block() -> io::Result<Self> {
        // SAFETY: all-zero is a valid signal set; it is emptied again below.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is ours.
        unsafe { libc::sigemptyset(&raw mut set) };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: `set` is initialised and the signal number is valid.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
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
