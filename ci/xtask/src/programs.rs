//! The programs that go into images: found in PATH, or built static.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{cmd, paths};

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
    let what = format!("building perfvisor (static, profile {profile})");
    cmd::long(&what, || {
        cmd::run(static_cargo(profile).args(["-p", "perfvisor", "--bin", "perfvisor"]))
            .context("perfvisor does not build")
    })?;
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
    fn is(&self, payload: bool) -> bool {
        self.kind.iter().any(|k| k == "bin") && self.required_features.is_empty() != payload
    }
}

/// The binaries of guest-tests: its payloads, or its Linux programs.
fn guest_binaries(payloads: bool) -> Result<Vec<String>> {
    let json = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cargo metadata")?;
    let package = metadata
        .packages
        .into_iter()
        .find(|p| p.name == "guest-tests");
    let targets = package.map(|p| p.targets).unwrap_or_default();
    Ok(targets
        .into_iter()
        .filter(|t| t.is(payloads))
        .map(|t| t.name)
        .collect())
}

/// The names of the bare-metal payloads of guest-tests.
pub(crate) fn payload_names() -> Result<Vec<String>> {
    guest_binaries(true)
}

/// Builds the static Linux programs of guest-tests: its binaries without required
/// features.
pub(crate) fn guest_programs() -> Result<Vec<PathBuf>> {
    let names = guest_binaries(false)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let profile = "testrelease";
    let mut cargo = static_cargo(profile);
    cargo.args(["-p", "guest-tests"]);
    for name in &names {
        cargo.args(["--bin", name]);
    }
    cmd::long("building the guest's test programs", || {
        cmd::run(&mut cargo).context("the guest's test programs do not build")
    })?;
    Ok(names
        .iter()
        .map(|name| static_output(profile, name))
        .collect())
}

/// Builds the bare-metal payloads of guest-tests (guest-tests/README.md), in a target
/// folder of their own, for their flags are different.
pub(crate) fn payloads() -> Result<Vec<(String, PathBuf)>> {
    let profile = "testrelease";
    let dir = paths::target().join("payloads");
    let names = guest_binaries(true)?;
    let mut cargo = cmd::cargo();
    cargo
        .env_remove("RUSTFLAGS")
        .args(["build", "--quiet", "--profile", profile, "--target", TARGET])
        .args(["-p", "guest-tests", "--features", "payloads", "--bins"])
        .args(["--config", "guest-tests/payload.toml", "--target-dir"])
        .arg(&dir);
    // rustc warns of the ABI without SSE for each payload: guest-tests/DESIGN.md.
    cmd::long("building the bare-metal payloads", || {
        cmd::output(&mut cargo).context("the payloads do not build")
    })?;
    let place = |name: String| {
        let path = dir.join(TARGET).join(profile).join(&name);
        (name, path)
    };
    Ok(names.into_iter().map(place).collect())
}
