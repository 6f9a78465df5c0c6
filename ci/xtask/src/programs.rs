//! The programs that go into images: found in PATH, or built static.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{cmd, paths};

/// The target that makes cargo keep RUSTFLAGS off proc-macros and build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Static programs that find their own place in memory. Packed, the addresses that they
/// correct at their start take a few KiB instead of 400, all of which is read then.
const STATIC: &str = "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs";

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
    cargo.env("RUSTFLAGS", STATIC).args([
        "build",
        "--quiet",
        "--profile",
        profile,
        "--target",
        TARGET,
    ]);
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
    /// Whether it is a binary that needs this feature; empty: none.
    fn is(&self, feature: &str) -> bool {
        let needed = self.required_features.iter().map(String::as_str);
        self.kind.iter().any(|k| k == "bin") && needed.eq((!feature.is_empty()).then_some(feature))
    }
}

/// The binaries of guest-tests that need a feature, as only the Linux programs of the guest
/// need none.
fn guest_binaries(feature: &str) -> Result<Vec<String>> {
    let json = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_slice(&json).context("cargo metadata")?;
    let package = metadata
        .packages
        .into_iter()
        .find(|p| p.name == "guest-tests");
    let targets = package.map(|p| p.targets).unwrap_or_default();
    Ok(targets
        .into_iter()
        .filter(|t| t.is(feature))
        .map(|t| t.name)
        .collect())
}

/// The feature of the payloads.
const PAYLOADS: &str = "payloads";
/// The feature of the programs that measure on a host.
const BENCH: &str = "bench";

/// The names of the bare-metal payloads of guest-tests.
pub(crate) fn payload_names() -> Result<Vec<String>> {
    guest_binaries(PAYLOADS)
}

/// Builds the static Linux programs of guest-tests: its binaries without required
/// features.
pub(crate) fn guest_programs() -> Result<Vec<PathBuf>> {
    let programs = linux_programs("", "the guest's test programs")?;
    Ok(programs.into_iter().map(|(_, path)| path).collect())
}

/// Builds the static programs of guest-tests that measure on a host, with their names.
pub(crate) fn bench() -> Result<Vec<(String, PathBuf)>> {
    linux_programs(BENCH, "the programs that measure")
}

fn linux_programs(feature: &str, what: &str) -> Result<Vec<(String, PathBuf)>> {
    let names = guest_binaries(feature)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let profile = "testrelease";
    let mut cargo = static_cargo(profile);
    cargo.args(["-p", "guest-tests", "--features", feature]);
    for name in &names {
        cargo.args(["--bin", name]);
    }
    cmd::long(&format!("building {what}"), || {
        cmd::run(&mut cargo).with_context(|| format!("{what} do not build"))
    })?;
    let place = |name: String| (name.clone(), static_output(profile, &name));
    Ok(names.into_iter().map(place).collect())
}

/// Builds the bare-metal payloads of guest-tests (guest-tests/README.md), in a target
/// folder of their own, for their flags are different.
pub(crate) fn payloads() -> Result<Vec<(String, PathBuf)>> {
    let profile = "testrelease";
    let dir = paths::target().join("payloads");
    let names = guest_binaries(PAYLOADS)?;
    let mut cargo = cmd::cargo();
    cargo
        .env_remove("RUSTFLAGS")
        .args(["build", "--quiet", "--profile", profile, "--target", TARGET])
        .args(["-p", "guest-tests", "--features", "payloads"])
        .args(["--config", "guest-tests/payload.toml", "--target-dir"])
        .arg(&dir);
    // Not all binaries: a Linux program has an entry of its own, and the payloads' beside it
    // where the compiler puts that into one unit with something that the program uses.
    for name in &names {
        cargo.args(["--bin", name]);
    }
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
