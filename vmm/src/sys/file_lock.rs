//! Locks of open files against other processes that lock them (fcntl(2), "open file
//! description locks").
#![expect(unsafe_code, reason = "locks of open files have no safe binding")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// How often a lock is tried that its owner gives back meanwhile.
const TRIES: u32 = 10;

/// What the file is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Beside others that read; the file must be open for reading.
    Read,
    /// Alone; the file must be open for writing.
    Write,
}

/// Why a file is not locked.
#[derive(Debug)]
pub enum LockRefusal {
    /// Another process has locked it for writing.
    Writer,
    /// Another process has locked it for reading.
    Reader,
    /// The host has no such locks here.
    Host(io::Error),
}

/// Locks the whole file until its last descriptor is closed, without waiting.
///
/// # Errors
/// If another holds a lock, or the host has none.
pub fn lock(file: &File, kind: LockKind) -> Result<(), LockRefusal> {
    for _ in 0..TRIES {
        let Err(error) = lock_command(file, libc::F_OFD_SETLK, &mut whole_file(kind)) else {
            return Ok(());
        };
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
            return Err(LockRefusal::Host(error));
        }
        let mut holder = whole_file(kind);
        lock_command(file, libc::F_OFD_GETLK, &mut holder).map_err(LockRefusal::Host)?;
        match i32::from(holder.l_type) {
            libc::F_WRLCK => return Err(LockRefusal::Writer),
            libc::F_RDLCK => return Err(LockRefusal::Reader),
            // It was given back in between.
            _ => {}
        }
    }
    Err(LockRefusal::Writer)
}

fn lock_command(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and these commands read and write one `flock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *lock) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A lock of all bytes.
fn whole_file(kind: LockKind) -> libc::flock {
    // SAFETY: all-zero is a valid `flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
    };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let scratch = Scratch::new("file-lock");
        let path = scratch.0.join("disk");
        std::fs::write(&path, "x").unwrap();
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap()
        };
        let (first, second, third) = (open(), open(), open());
        lock(&first, LockKind::Read).unwrap();
        lock(&second, LockKind::Read).unwrap();
        let refused = lock(&third, LockKind::Write).unwrap_err();
        assert!(matches!(refused, LockRefusal::Reader));
        drop((first, second));
        lock(&third, LockKind::Write).unwrap();
        for kind in [LockKind::Read, LockKind::Write] {
            let refused = lock(&open(), kind).unwrap_err();
            assert!(matches!(refused, LockRefusal::Writer));
        }
    }
}
