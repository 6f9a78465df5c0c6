//! virtiofsd: the files of a folder for a guest.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::process::BackendProcess;
use super::program::{Program, ProgramError};
use crate::sys::unix_socket;
use crate::sys::user;

/// The program, where Debian, Arch, Fedora and cargo put it.
pub(super) const VIRTIOFSD: Program = Program {
    name: "virtiofsd",
    places: &[
        "/usr/libexec/virtiofsd",
        "/usr/lib/virtiofsd",
        "~/.cargo/bin/virtiofsd",
    ],
    options: &["--fd", "--shared-dir", "--sandbox", "--readonly"],
    install: "use the package virtiofsd (of Debian 13, Ubuntu 24.10 or Fedora), or cargo install virtiofsd",
};

/// A folder that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedFolder {
    /// The folder.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub readonly: bool,
}

/// What keeps virtiofsd, and so the guest's kernel, in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Namespaces of its own, in which the folder is the root.
    Namespaces,
    /// The folder is its root.
    Chroot,
    /// Nothing: whoever controls the guest's kernel can do with the host's files what the
    /// user who started us can.
    Nothing,
}

impl Isolation {
    /// Those that are tried for this user, the best one first. Without root, the guest sees
    /// the files of other users as nobody's in namespaces.
    #[must_use]
    pub fn of_this_user() -> [Self; 2] {
        [Self::Namespaces, Self::that_keeps_owners()]
    }

    /// The one in which the guest sees whose each file is.
    #[must_use]
    pub fn that_keeps_owners() -> Self {
        if user::is_root() {
            Self::Chroot
        } else {
            Self::Nothing
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Namespaces => "namespace",
            Self::Chroot => "chroot",
            Self::Nothing => "none",
        }
    }
}

/// Starts virtiofsd for a folder; returns the process and the way to it.
///
/// # Errors
/// If there is no program that can do it, or what the host says.
pub fn start(
    folder: &SharedFolder,
    isolation: Isolation,
) -> Result<(BackendProcess, UnixStream), ProgramError> {
    // Asked for its help once, however many folders there are.
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let path = match FOUND.get() {
        Some(path) => path,
        None => {
            let path = VIRTIOFSD.find()?;
            FOUND.get_or_init(|| path)
        }
    };
    serve(path, folder, isolation).map_err(|source| VIRTIOFSD.does_not_run(path.clone(), source))
}

fn serve(
    program: &Path,
    folder: &SharedFolder,
    isolation: Isolation,
) -> io::Result<(BackendProcess, UnixStream)> {
    let (listener, socket) = unix_socket::listener_with_connection()?;
    let mut command = Command::new(program);
    command
        .arg(format!("--fd={}", listener.as_raw_fd()))
        .arg("--shared-dir")
        .arg(&folder.path)
        .args(["--log-level", "warn", "--sandbox", isolation.word()])
        // One file system: an overlay crosses no mount point that the guest is told of.
        .arg("--no-announce-submounts");
    if folder.readonly {
        command.arg("--readonly");
    }
    if !user::is_root() {
        // Only root may open a file by its handle.
        command.arg("--inode-file-handles=never");
    }
    // Its log level, if it is in our environment for us.
    command.env_remove("RUST_LOG");
    let process = BackendProcess::start(VIRTIOFSD.name, command, listener.as_fd())?;
    Ok((process, socket))
}
