//! What needs no guest: format, lints, docs, the project's own rules, unit tests.

mod layers;
mod names;
mod papers;
mod rules;
mod source;
mod unit;

use std::process::Command;

use anyhow::Result;

use crate::report::Report;
use crate::{cmd, paths};

/// `cargo xtask check`: the fast gate before a commit.
pub(crate) fn command() -> u8 {
    let mut report = Report::new(None);
    fast(&mut report);
    unit::tests(&mut report);
    report.finish()
}

/// Everything that needs no guest.
pub(crate) fn everything(report: &mut Report) {
    fast(report);
    report.step("rustdoc", || {
        let mut doc = cmd::cargo();
        doc.args([
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ]);
        passes(doc.env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("fuzz-targets", fuzz_targets);
    unit::tests(report);
    unit::doctests(report);
}

/// The fuzz targets, which are no part of the workspace, still fit what they call. Without
/// libFuzzer itself, which takes nightly and a minute.
fn fuzz_targets() -> Result<()> {
    for manifest in ["vpmu/fuzz/Cargo.toml", "vmm/fuzz/Cargo.toml"] {
        let mut check = cmd::cargo();
        check.args(["check", "--quiet", "--manifest-path", manifest]);
        check.arg("--target-dir").arg(paths::target());
        passes(check.env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libnone.a"))?;
    }
    Ok(())
}

fn fast(report: &mut Report) {
    report.step("fmt", || {
        passes(cmd::cargo().args(["fmt", "--all", "--check"]))
    });
    report.step("clippy", || {
        let mut clippy = cmd::cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--quiet", "--"]);
        passes(clippy.args(["-D", "warnings"]))
    });
    report.step("file-sizes", rules::sizes);
    report.step("purity", rules::purity);
    report.step("layers", layers::layers);
    report.step("names", names::names);
    report.step("rust-vmm-versions", rules::versions);
    report.step("papers", papers::papers);
}

fn passes(command: &mut Command) -> Result<()> {
    cmd::run(command)
}
