//! A lock on the path of a socket, for the moment in which a dead socket is replaced: a
//! file beside it that nobody else can open.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::files::FileId;

/// How long another VMM that is starting may hold the lock.
const TIME: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);
/// Permission bits of the owner alone.
const PRIVATE: u32 = 0o600;

/// The lock; it is given back, and its file removed, when the value is dropped.
#[derive(Debug)]
pub(super) struct PathLock {
    // The lock ends when this is closed, after the file has been removed.
    _file: File,
    path: PathBuf,
}

impl PathLock {
    /// Locks the path of `socket`, and waits a little for another VMM that does.
    ///
    /// # Errors
    /// If the file cannot be made, is another's, or stays locked.
    pub(super) fn take(socket: &Path) -> io::Result<Self> {
        let path = beside(socket);
        let deadline = Instant::now() + TIME;
        while Instant::now() < deadline {
            let file = open(&path)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => thread::sleep(RETRY),
                Err(TryLockError::Error(error)) => return Err(error),
                // Its owner may have removed it meanwhile: then it locks nothing.
                Ok(()) if is_at(&file, &path)? => return Ok(Self { _file: file, path }),
                Ok(()) => {}
            }
        }
        Err(ErrorKind::TimedOut.into())
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// `.NAME.perfvisor-lock` in the folder of the socket NAME.
fn beside(socket: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(socket.file_name().unwrap_or_default());
    name.push(".perfvisor-lock");
    socket.with_file_name(name)
}

/// Opens or makes the file, if it can only be a lock of this user.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let found = file.metadata()?;
    let open_to_others = found.mode() & 0o077 != 0;
    if !found.is_file() || found.len() != 0 || open_to_others {
        let text = format!("{} is no lock of perfvisor", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    Ok(file)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = FileId::of(&file.metadata()?);
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(FileId::of(&there) == ours),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("perfvisor-lock-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_lock_is_held_alone_and_leaves_nothing() {
        let dir = scratch("alone");
        let socket = dir.join("api");
        let held = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let lock = PathLock::take(&socket).unwrap();
                        assert!(!held.swap(true, std::sync::atomic::Ordering::SeqCst));
                        held.store(false, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_that_a_killed_process_left_behind_is_taken() {
        let dir = scratch("left");
        let socket = dir.join("api");
        let left = open(&beside(&socket)).unwrap();
        assert_eq!(left.metadata().unwrap().mode() & 0o777, PRIVATE);
        drop(left);
        drop(PathLock::take(&socket).unwrap());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_no_lock_stays() {
        let dir = scratch("other");
        let socket = dir.join("api");
        let other = dir.join("precious");
        fs::write(&other, "precious").unwrap();
        symlink(&other, beside(&socket)).unwrap();
        PathLock::take(&socket).unwrap_err();
        fs::remove_file(beside(&socket)).unwrap();
        fs::copy(&other, beside(&socket)).unwrap();
        let error = PathLock::take(&socket).unwrap_err();
        assert!(
            error.to_string().contains("no lock of perfvisor"),
            "{error}"
        );
        for path in [other, beside(&socket)] {
            assert_eq!(fs::read(path).unwrap(), b"precious");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
