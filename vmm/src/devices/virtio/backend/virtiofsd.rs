//! virtiofsd: the files of a folder for a guest.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    install: "install the package virtiofsd (Debian 13, Ubuntu 24.10, Fedora), or run: cargo install virtiofsd",
};

/// A folder that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedFolder {
    /// The folder.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub readonly: bool,
}

/// Starts virtiofsd for a folder; returns the process and the way to it.
///
/// # Errors
/// If there is no program that can do it, or what the host says.
pub fn start(folder: &SharedFolder) -> Result<(BackendProcess, UnixStream), ProgramError> {
    let path = VIRTIOFSD.find()?;
    serve(&path, folder).map_err(|source| ProgramError::Run { path, source })
}

fn serve(program: &Path, folder: &SharedFolder) -> io::Result<(BackendProcess, UnixStream)> {
    let (listener, socket) = unix_socket::listener_with_connection()?;
    let mut command = Command::new(program);
    command
        .arg(format!("--fd={}", listener.as_raw_fd()))
        .arg("--shared-dir")
        .arg(&folder.path)
        // One file system: an overlay crosses no mount point that the guest is told of.
        .args(["--log-level", "warn", "--no-announce-submounts"])
        .args(isolation(user::is_root()));
    if folder.readonly {
        command.arg("--readonly");
    }
    // Its log level, if it is in our environment for us.
    command.env_remove("RUST_LOG");
    let process = BackendProcess::start(VIRTIOFSD.name, command, listener.as_fd())?;
    Ok((process, socket))
}

/// How virtiofsd is kept in its folder. Root has chroot. Everybody else has no sandbox of
/// virtiofsd's that keeps the caller's ids: see DESIGN.md.
const fn isolation(root: bool) -> &'static [&'static str] {
    if root {
        &["--sandbox", "chroot"]
    } else {
        // Only root may open a file by its handle.
        &["--sandbox", "none", "--inode-file-handles=never"]
    }
}
