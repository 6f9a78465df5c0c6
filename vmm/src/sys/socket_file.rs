//! The socket file: only its owner may open it, and the VMM replaces or removes no
//! file of another process.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::path_lock::PathLock;
use crate::sys::end::DoomedSlot;
use crate::sys::files::FileId;
use crate::sys::{end, umask};

/// How long a socket's owner may take to accept before it counts as alive.
const LIVE_TIME: Duration = Duration::from_secs(1);
/// The permission bits that the socket must not have.
const NOT_FOR_OTHERS: u32 = 0o177;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "{flag}={path} is in use by a running process; use another path, or end that process first"
    )]
    InUse {
        /// The flag and the key that name it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error(
        "{flag}={path} exists and is no socket; use a path that does not exist, or the socket of a process that has ended"
    )]
    NotASocket {
        /// The flag and the key that name it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The host refused something.
    #[error(
        "{flag}={path}: cannot {what}; expected: a path of up to 107 bytes in a directory that this user can write to"
    )]
    Host {
        /// The flag and the key that name it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    flag: &'static str,
    path: PathBuf,
    doomed: Option<DoomedSlot>,
    /// The file that is ours; `None` until that is known.
    file: Option<FileId>,
}

impl SocketFile {
    /// Looks whether [`SocketFile::bind`] would work, as far as one can without
    /// doing it.
    ///
    /// # Errors
    /// As [`SocketFile::bind`].
    pub fn check(flag: &'static str, path: &Path) -> Result<(), SocketError> {
        fs::metadata(parent(path)).map_err(host((flag, path), "open its directory"))?;
        is_stale(flag, path).map(drop)
    }

    /// Listens at `path` with mode 0600 from its first moment. Replaces the
    /// socket of a process that has ended.
    ///
    /// The path is locked meanwhile: two VMMs that start at once with the same path
    /// would otherwise both find a dead socket, and one would remove the other's.
    ///
    /// # Errors
    /// If the path is somebody's, or the host refuses.
    pub fn bind(flag: &'static str, path: &Path) -> Result<Self, SocketError> {
        let _lock = PathLock::take(path).map_err(host((flag, path), "lock it"))?;
        if remove_if_stale(flag, path)? {
            log::info!(
                "{flag}: replacing the socket {}, which an ended process left behind",
                path.display()
            );
        }
        let listener = umask::with(NOT_FOR_OTHERS, || UnixListener::bind(path));
        if listener.is_err() {
            // The file is there already if it is the listening that failed.
            drop(remove_if_stale(flag, path));
        }
        let listener = listener.map_err(host((flag, path), "create the socket"))?;
        // From here on the file goes with the value, whatever fails.
        let mut socket = Self {
            listener,
            flag,
            path: path.to_owned(),
            doomed: None,
            file: None,
        };
        let file = fs::symlink_metadata(path).map_err(host((flag, path), "look at the socket"))?;
        socket.file = Some(FileId::of(&file));
        socket.doomed = end::doom_file(path, (file.dev(), file.ino()));
        let set_up = socket.listener.set_nonblocking(true);
        set_up.map_err(host((flag, path), "set up the socket"))?;
        Ok(socket)
    }

    /// Where clients come in; it does not block.
    #[must_use]
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(doomed) = self.doomed.take() {
            end::spare_file(doomed);
        }
        // The file without a known identity was bound a moment ago, under the lock.
        let ours = |file: fs::Metadata| self.file.is_none_or(|own| own == FileId::of(&file));
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!(
                "{}={}: cannot remove it: {error}",
                self.flag,
                self.path.display()
            );
        }
    }
}

fn host(
    (flag, path): (&'static str, &Path),
    what: &'static str,
) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::Host {
        flag,
        path: path.to_owned(),
        what,
        source,
    }
}

/// Removes the socket of a process that does not listen any more; whether there was one.
fn remove_if_stale(flag: &'static str, path: &Path) -> Result<bool, SocketError> {
    if !is_stale(flag, path)? {
        return Ok(false);
    }
    fs::remove_file(path).map_err(host((flag, path), "remove the dead socket"))?;
    Ok(true)
}

/// The directory of a path.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Whether a socket lies there that nobody serves any more; `false` if nothing
/// does.
fn is_stale(flag: &'static str, path: &Path) -> Result<bool, SocketError> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(host((flag, path), "look at the file")(error)),
    };
    let path = path.to_owned();
    if !file.file_type().is_socket() {
        return Err(SocketError::NotASocket { flag, path });
    }
    match connect(&path, LIVE_TIME) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Ok(_) => Err(SocketError::InUse { flag, path }),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(SocketError::InUse { flag, path }),
        Err(error) => Err(host(
            (flag, &path),
            "see whether the socket there is in use",
        )(error)),
    }
}

/// Connects within a time. A socket whose queue is full would block its
/// clients, and std has no time-out for that.
///
/// # Errors
/// `TimedOut`, or what `connect` says.
pub fn connect(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let (to, outcome) = mpsc::channel();
    let path = path.to_owned();
    thread::Builder::new()
        .name("connect".to_owned())
        .spawn(move || drop(to.send(UnixStream::connect(path))))?;
    match outcome.recv_timeout(within) {
        Ok(outcome) => outcome,
        // The thread is left behind; the process ends soon.
        Err(_) => Err(ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    const FLAG: &str = "--api-socket: path";

    #[test]
    fn the_file_is_0600_and_goes_with_the_socket() {
        let scratch = Scratch::new("socket-mode");
        let path = scratch.0.join("api");
        let socket = SocketFile::bind(FLAG, &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_refused() {
        let scratch = Scratch::new("socket-stale");
        let path = scratch.0.join("api");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        SocketFile::check(FLAG, &path).unwrap();
        let socket = SocketFile::bind(FLAG, &path).unwrap();
        for error in [
            SocketFile::check(FLAG, &path).unwrap_err(),
            SocketFile::bind(FLAG, &path).unwrap_err(),
        ] {
            assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        }
        drop(socket);
        assert!(!path.exists());
    }

    /// Whoever may read a directory can lock it.
    #[test]
    fn a_lock_of_the_directory_keeps_nobody_from_starting() {
        let scratch = Scratch::new("socket-locked");
        let directory = fs::File::open(&scratch.0).unwrap();
        directory.lock().unwrap();
        let socket = SocketFile::bind(FLAG, &scratch.0.join("api")).unwrap();
        let names = fs::read_dir(&scratch.0).unwrap();
        let names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
        assert_eq!(names, ["api"], "the lock is gone");
        drop(socket);
    }

    #[test]
    fn the_file_goes_also_while_its_identity_is_not_known() {
        let scratch = Scratch::new("socket-unknown");
        let path = scratch.0.join("api");
        let mut socket = SocketFile::bind(FLAG, &path).unwrap();
        socket.file = None;
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_whose_queue_is_full_is_refused_too() {
        let scratch = Scratch::new("socket-full");
        let path = scratch.0.join("api");
        let _listener = UnixListener::bind(&path).unwrap();
        // Fills the queue until a client has to wait.
        let mut waiting = Vec::new();
        while let Ok(client) = connect(&path, Duration::from_millis(100)) {
            waiting.push(client);
        }
        let error = SocketFile::bind(FLAG, &path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    }

    #[test]
    fn of_two_that_start_at_once_one_has_the_path() {
        let scratch = Scratch::new("socket-race");
        let path = scratch.0.join("api");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let barrier = std::sync::Barrier::new(4);
            let bind = || {
                barrier.wait();
                SocketFile::bind(FLAG, &path)
            };
            let outcomes: Vec<_> = thread::scope(|scope| {
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                starting.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
            assert!(connect(&path, LIVE_TIME).is_ok());
            drop(outcomes);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_no_socket_stays() {
        let scratch = Scratch::new("socket-file");
        let path = scratch.0.join("api");
        fs::write(&path, "precious").unwrap();
        let error = SocketFile::bind(FLAG, &path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_file_of_a_successor_is_not_removed() {
        let scratch = Scratch::new("socket-successor");
        let path = scratch.0.join("api");
        let socket = SocketFile::bind(FLAG, &path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
