//! What needs no guest: format, lints, docs, the project's own rules, unit tests.

mod layers;
mod names;
mod papers;
mod rules;
mod source;
mod unit;

use std::process::Command;

use anyhow::Result;

use crate::cmd;
use crate::report::Report;

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
    unit::tests(report);
    unit::doctests(report);
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
