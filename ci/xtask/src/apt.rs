//! Debian's package archives: this machine's, and those of other releases, with lists of
//! their own under `target/`, so that the machine is left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cmd, paths, setup};

/// Where packages come from.
#[derive(Debug)]
pub(crate) struct Apt {
    /// What apt-get and apt-cache are told; nothing: this machine's archive.
    options: Vec<String>,
}

/// The archive of every release.
pub(crate) const MIRROR: &str = "http://deb.debian.org/debian";
/// Debian's keys, on a Debian.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Apt {
    /// The archive of this machine's own release.
    pub(crate) fn of_this_machine() -> Self {
        Self {
            options: Vec::new(),
        }
    }

    /// The archive of another release, by its code name.
    ///
    /// # Errors
    /// If `target/xtask` cannot be written to.
    pub(crate) fn of_release(suite: &str) -> Result<Self> {
        let dir = paths::cache(&format!("apt/{suite}"))?;
        for inside in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(inside))?;
        }
        let sources = dir.join("sources.list");
        fs::write(
            &sources,
            format!("deb [signed-by={KEYS}] {MIRROR} {suite} main\n"),
        )?;
        let options = [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", dir.join("lists").display()),
            format!("Dir::Cache={}", dir.join("cache").display()),
            "Dir::State::status=/dev/null".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // Root's downloads are not another user's.
            "APT::Sandbox::User=root".into(),
        ];
        Ok(Self {
            options: options.into(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// Refreshes the lists of packages.
    ///
    /// # Errors
    /// If there is no network, or no right to.
    pub(crate) fn update(&self) -> Result<()> {
        if self.options.is_empty() {
            return setup::apt_update();
        }
        cmd::run(self.command("apt-get").args(["update", "-q"]))
            .context("cannot refresh the package lists; is the network there?")
    }

    /// What a package depends on; nothing if the archive does not have it.
    pub(crate) fn depends(&self, package: &str) -> Option<Vec<String>> {
        let out = cmd::text(self.command("apt-cache").args(["depends", package])).ok()?;
        let names = out
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Some(names.map(str::to_owned).collect())
    }

    /// Downloads a package into a folder. Returns its file.
    ///
    /// # Errors
    /// If the archive does not have it, or there is no network.
    pub(crate) fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        let mut download = self.command("apt-get");
        cmd::run(download.args(["download", "-q", package]).current_dir(into))
            .with_context(|| format!("cannot download {package}; is the network there?"))?;
        let name = package.split('=').next().unwrap_or(package);
        let read = || format!("cannot read {}", into.display());
        for entry in fs::read_dir(into).with_context(read)? {
            let path = entry.with_context(read)?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if file.starts_with(&format!("{name}_")) && file.ends_with(".deb") {
                return Ok(path);
            }
        }
        bail!("apt-get has not left {package} in {}", into.display())
    }
}
