//! Builds the guest's first program of `perfvisor exec` (`init`), a static program that
//! `src/exec/initramfs.rs` embeds.
//!
//! It is a cargo build of its own, as it needs a profile and flags of its own; cargo's
//! artifact dependencies, which would do it, are not stable. Its target folder is in
//! `OUT_DIR`, so that it waits for no lock of the outer build. It uses the workspace's lock
//! file, and crates that the outer build has fetched, so it needs no network as a rule.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROGRAM: &str = "perfvisor-init";
/// Variables of the outer build that are not for the inner one.
const OUTER: [&str; 4] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
];
/// How others begin.
const OUTER_PREFIXES: [&str; 6] = [
    "RUSTC_W",
    "CLIPPY_",
    "CARGO_PROFILE_",
    "CARGO_FEATURE_",
    "CARGO_CFG_",
    "__CARGO",
];

fn main() -> ExitCode {
    for path in [
        "init/src",
        "init/Cargo.toml",
        "../Cargo.lock",
        "../Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let (Some(here), Some(out), Some(cargo)) = (
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from),
        env::var_os("OUT_DIR").map(PathBuf::from),
        env::var_os("CARGO"),
    ) else {
        println!("cargo::error=build.rs runs under cargo only");
        return ExitCode::FAILURE;
    };
    let target_dir = out.join("init");
    let build = |network| init_build(&cargo, &here, &target_dir, network).output();
    // The outer build has fetched everything, unless its lock file is another's.
    let built = match build(&["--offline"][..]) {
        Ok(output) if output.status.success() => Ok(output),
        _ => build(&[]),
    };
    let program = target_dir.join(TARGET).join("init").join(PROGRAM);
    let reason = match built {
        Ok(output) if output.status.success() => {
            println!("cargo::rustc-env=PERFVISOR_INIT={}", program.display());
            return ExitCode::SUCCESS;
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    if reason.contains("cannot find -lc") || reason.contains("libc.a") {
        println!(
            "cargo::error=the guest's first program is static, and libc.a is missing: \
             install libc6-dev (Debian, Ubuntu) or glibc-static (Fedora)"
        );
    } else {
        println!("cargo::error=the guest's first program does not build:");
    }
    for line in reason.lines() {
        println!("cargo::error={line}");
    }
    ExitCode::FAILURE
}

/// The cargo build of the program, free of the outer build's settings.
fn init_build(cargo: &OsStr, here: &Path, target_dir: &Path, network: &[&str]) -> Command {
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--locked"])
        .args(network)
        .args(["--profile", "init", "--target", TARGET, "--bin", PROGRAM])
        .arg("--manifest-path")
        .arg(here.join("init/Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir);
    // Flags, wrappers such as clippy, and settings of the outer build's profile.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER.contains(&&*text) || OUTER_PREFIXES.iter().any(|of| text.starts_with(of)) {
            build.env_remove(&name);
        }
    }
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    build
}
