//! Set-up of a fresh Debian 12 machine: installs the missing tools, as root or
//! with sudo, and says which.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::artifacts::{self, Artifact};
use crate::{cmd, paths, say};

/// Waits until nobody else sets up this machine or builds images, and keeps others out for
/// as long as the file is held. Two hosts are prepared at a time, and an apt-get refuses to
/// start beside another.
///
/// # Errors
/// If `target/xtask` cannot be written to.
pub(crate) fn alone() -> Result<File> {
    lock(
        "lock",
        "this machine is being set up, or images are being built",
    )
}

/// Takes a lock of `target/xtask`, and says who has it if it is not free.
///
/// # Errors
/// If `target/xtask` cannot be written to.
pub(crate) fn lock(name: &str, whose: &str) -> Result<File> {
    let lock = File::create(paths::cache("")?.join(name)).context("cannot write under target/")?;
    if lock.try_lock().is_err() {
        say!("waiting: {whose}");
        lock.lock().context("cannot lock target/xtask")?;
    }
    Ok(lock)
}

/// Installs every program and file of `resources/artifacts.txt` that is missing.
///
/// # Errors
/// Names the packages if there is no apt-get, no right to install, or apt-get fails.
pub(crate) fn tools() -> Result<()> {
    install(&missing(&artifacts::load()?, For::Everything))
}

/// Installs what makes root file systems, and is missing.
///
/// # Errors
/// As [`tools`].
pub(crate) fn makers() -> Result<()> {
    install(&missing(&artifacts::load()?, For::Systems))
}

/// Installs what a nested host of Intel's needs, and is missing.
///
/// # Errors
/// As [`tools`].
pub(crate) fn intel_host() -> Result<()> {
    install(&missing(&artifacts::load()?, For::IntelHost))
}

/// What something is installed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Nearly everything that xtask does.
    Everything,
    /// To make root file systems.
    Systems,
    /// A nested host of Intel's.
    IntelHost,
}

fn install(missing: &[String]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !cmd::in_path("apt-get") {
        bail!("missing: {list} (names of Debian 12 packages); this machine has no apt-get");
    }
    say!("installing with apt-get: {list}");
    apt_update()?;
    cmd::run(
        as_root("apt-get")?
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(missing),
    )
    .with_context(|| format!("cannot install {list}"))
}

/// Refreshes the package lists of this machine.
pub(crate) fn apt_update() -> Result<()> {
    cmd::run(as_root("apt-get")?.args(["update", "-q"])).context("cannot refresh the package lists")
}

/// The packages that are missing, of those that are for this.
fn missing(all: &[Artifact], purpose: For) -> Vec<String> {
    let is_there = |path: &str| Path::new(path).exists();
    let mut packages: Vec<String> = all
        .iter()
        .filter_map(|a| match (a, purpose) {
            (Artifact::Program { name, package }, For::Everything)
            | (Artifact::Maker { name, package }, For::Systems) => {
                (!cmd::in_path(name)).then_some(package)
            }
            (Artifact::File { path, package }, For::Everything)
            | (Artifact::IntelHost { path, package }, For::IntelHost) => {
                (!is_there(path)).then_some(package)
            }
            _ => None,
        })
        .cloned()
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

/// A program that runs as root, by sudo if we are not.
///
/// # Errors
/// If there is no sudo.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    let mut command = if cmd::is_root() {
        Command::new(program)
    } else if cmd::in_path("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg(program);
        sudo
    } else {
        bail!("{program} needs root: run as root, or install sudo");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_listed_and_once() {
        let artifact = |path: &str| Artifact::File {
            path: path.into(),
            package: "p".into(),
        };
        let all = [
            artifact("/nonexistent/a"),
            artifact("/nonexistent/b"),
            artifact("/"),
        ];
        assert_eq!(missing(&all, For::Everything), ["p"]);
        assert!(missing(&all, For::Systems).is_empty());
    }
}
