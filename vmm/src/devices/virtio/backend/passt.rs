//! passt: a network for a guest without root.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::process::BackendProcess;
use super::program::{Program, ProgramError};

/// The program. Its help is the only way to know whether it speaks vhost-user: it has no
/// version numbers.
pub(super) const PASST: Program = Program {
    name: "passt",
    places: &["/usr/bin/passt", "/usr/local/bin/passt"],
    options: &["--fd", "--vhost-user"],
    install: "use a passt of 2025 or later (the package passt of Debian 13, Fedora 42 or Ubuntu 25.04), or --net tap=",
};

/// Starts passt; returns the process and the way to it.
///
/// # Errors
/// If there is no program that can do it, or what the host says.
pub fn start() -> Result<(BackendProcess, UnixStream), ProgramError> {
    let path = PASST.find()?;
    serve(&path).map_err(|source| PASST.does_not_run(path, source))
}

fn serve(program: &Path) -> io::Result<(BackendProcess, UnixStream)> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .args(["--vhost-user", "--foreground", "--quiet"])
        .arg("--fd")
        .arg(theirs.as_raw_fd().to_string());
    let process = BackendProcess::start(PASST.name, command, theirs.as_fd())?;
    Ok((process, socket))
}
