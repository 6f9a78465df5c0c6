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
    let lock = paths::cache("")?.join("lock");
    let lock = File::create(lock).context("cannot write under target/")?;
    lock.lock().context("cannot lock target/xtask")?;
    Ok(lock)
}

/// Installs every program and file of `resources/artifacts.txt` that is missing.
///
/// # Errors
/// Names the packages if there is no apt-get, no right to install, or apt-get fails.
pub(crate) fn tools() -> Result<()> {
    let missing = missing(&artifacts::load()?);
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
            .args(&missing),
    )
    .with_context(|| format!("cannot install {list}"))
}

/// Refreshes the package lists.
pub(crate) fn apt_update() -> Result<()> {
    cmd::run(as_root("apt-get")?.args(["update", "-q"])).context("cannot refresh the package lists")
}

fn missing(all: &[Artifact]) -> Vec<String> {
    let mut packages: Vec<String> = all
        .iter()
        .filter_map(|a| match a {
            Artifact::Program { name, package } => (!cmd::in_path(name)).then_some(package),
            Artifact::File { path, package } => (!Path::new(path).exists()).then_some(package),
            Artifact::Kernel { .. } => None,
        })
        .cloned()
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

fn as_root(program: &str) -> Result<Command> {
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
        assert_eq!(missing(&all), ["p"]);
    }
}
