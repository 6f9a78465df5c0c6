//! The programs that go into images: found in PATH, or built static.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{cmd, paths, say};

/// The target that makes cargo keep RUSTFLAGS off proc-macros and build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program of this machine.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|p| p.is_file());
    let Some(found) = found else {
        bail!("{program} is not in PATH")
    };
    // Debian's `perf` and the like may be links.
    found
        .canonicalize()
        .with_context(|| format!("cannot read {}", found.display()))
}

/// Cargo, set to build static programs.
fn static_cargo(profile: &str) -> Command {
    let mut cargo = cmd::cargo();
    cargo
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .args(["build", "--quiet", "--profile", profile, "--target", TARGET]);
    cargo
}

/// Where [`static_cargo`] leaves a program.
fn static_output(profile: &str, name: &str) -> PathBuf {
    let folder = if profile == "dev" { "debug" } else { profile };
    paths::target().join(TARGET).join(folder).join(name)
}

/// Builds `perfvisor` as a static program.
pub(crate) fn perfvisor(profile: &str) -> Result<PathBuf> {
    say!("building perfvisor (static, profile {profile})");
    cmd::run(static_cargo(profile).args(["-p", "perfvisor", "--bin", "perfvisor"]))
        .context("perfvisor does not build")?;
    Ok(static_output(profile, "perfvisor"))
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Target {
    name: String,
    kind: Vec<String>,
    #[serde(default)]
    required_features: Vec<String>,
}

impl Target {
    /// The payloads have required features, the Linux programs none.
    fn is_linux_program(&self) -> bool {
        self.kind.iter().any(|k| k == "bin") && self.required_features.is_empty()
    }
}

/// Builds the static Linux programs of guest-tests: its binaries without required
/// features.
pub(crate) fn guest_programs() -> Result<Vec<PathBuf>> {
    let json = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cargo metadata")?;
    let package = metadata
        .packages
        .into_iter()
        .find(|p| p.name == "guest-tests");
    let targets = package.map(|p| p.targets).unwrap_or_default();
    let programs = targets.into_iter().filter(Target::is_linux_program);
    let names: Vec<String> = programs.map(|t| t.name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let profile = "testrelease";
    let mut cargo = static_cargo(profile);
    cargo.args(["-p", "guest-tests"]);
    for name in &names {
        cargo.args(["--bin", name]);
    }
    cmd::run(&mut cargo).context("the guest's test programs do not build")?;
    Ok(names
        .iter()
        .map(|name| static_output(profile, name))
        .collect())
}
