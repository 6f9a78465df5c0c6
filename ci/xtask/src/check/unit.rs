//! Unit, property and integration tests, counted one by one.
//!
//! A test that cannot run here prints a line that begins with `skipped:` and the
//! reason, and returns; it is counted as skipped.

use std::fs;
use std::num::NonZero;
use std::process::{Command, Output};
use std::thread;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::{cmd, paths, say};

/// Why nextest skips a test by itself.
const IGNORED: &str = "marked as ignored";

/// What a test runner printed, boiled down.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<(String, String)>,
}

/// Runs all unit and integration tests of the workspace.
pub(super) fn tests(report: &mut Report) {
    let nextest = cmd::in_path("cargo-nextest");
    let mut cargo = cmd::cargo();
    if nextest {
        cargo.args([
            "nextest",
            "run",
            "--workspace",
            "--no-fail-fast",
            "--no-tests=pass",
        ]);
        cargo.args([
            "--success-output=immediate",
            "--color=never",
            "--status-level=all",
        ]);
        cargo.arg("--test-threads").arg(at_a_time());
        cargo.args(report.filter());
    } else {
        say!("cargo-nextest is not there: using cargo test");
        cargo.args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
        ]);
        cargo.arg("--").arg("--show-output");
        cargo.arg("--test-threads").arg(at_a_time());
        cargo.args(report.filter());
    }
    count(
        report,
        "unit tests",
        &mut cargo,
        if nextest { from_nextest } else { from_libtest },
    );
}

/// How many tests run at a time: more than there are CPUs, for the longest wait for the end
/// of a deadline.
fn at_a_time() -> String {
    const WAIT: usize = 3;
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    (cpus + WAIT).to_string()
}

/// Runs the examples in the documentation.
pub(super) fn doctests(report: &mut Report) {
    let mut cargo = cmd::cargo();
    cargo.args([
        "test",
        "--doc",
        "--workspace",
        "--no-fail-fast",
        "--quiet",
        "--",
    ]);
    cargo.args(report.filter());
    count(report, "doctests", &mut cargo, from_libtest);
}

fn count(report: &mut Report, name: &str, command: &mut Command, read: fn(&str) -> Counts) {
    say!("{name}");
    let (log, text, success) = match logged(name, command) {
        Ok(done) => done,
        Err(error) => return report.fail(name, &format!("{error:#}")),
    };
    let mut counts = read(&text);
    if report.filter().is_some() {
        // nextest lists what the filter left out as skipped.
        counts.skipped.retain(|(_, reason)| reason != IGNORED);
    }
    println!("ok      {name}: {} passed", counts.passed);
    report.passed_silently(counts.passed);
    for (test, reason) in &counts.skipped {
        report.skip(test, reason);
    }
    for test in &counts.failed {
        report.fail(test, &format!("see {log}"));
    }
    if !success && counts.failed.is_empty() {
        report.fail(name, &format!("see {log}: {}", cmd::last_lines(&text, 15)));
    }
}

/// Runs a command with everything it prints in a log file.
fn logged(name: &str, command: &mut Command) -> Result<(String, String, bool)> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().context("cannot start cargo")?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&stderr),
        String::from_utf8_lossy(&stdout)
    );
    let log = paths::cache("logs")?.join(format!("{}.log", name.replace(' ', "-")));
    fs::write(&log, &text).with_context(|| format!("cannot write {}", log.display()))?;
    Ok((log.display().to_string(), text, status.success()))
}

/// Reads nextest's `--status-level=all` lines: `    PASS [   0.004s] crate test`.
fn from_nextest(text: &str) -> Counts {
    let mut counts = Counts::default();
    let mut current: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("Summary [") {
            break;
        }
        let Some((status, name)) = status_line(line) else {
            let reason = line.strip_prefix("skipped:").map(str::trim);
            if let Some((reason, test)) = reason.and_then(|r| Some((r, current.take()?))) {
                counts.passed -= 1;
                counts.skipped.push((test, reason.to_owned()));
            } else if misspelt_skip(line)
                && let Some(test) = current.take()
            {
                counts.passed -= 1;
                counts
                    .failed
                    .push(format!("{test}: `{line}`, which is not `skipped: `"));
            }
            continue;
        };
        match status {
            "PASS" | "LEAK" => {
                counts.passed += 1;
                current = Some(name);
            }
            "SKIP" => counts.skipped.push((name, IGNORED.into())),
            "SLOW" | "START" => {}
            _ => {
                current = None;
                counts.failed.push(name);
            }
        }
    }
    counts
}

/// A skip that would be counted as passed.
fn misspelt_skip(line: &str) -> bool {
    ["SKIP:", "SKIPPED", "Skipped"]
        .iter()
        .any(|word| line.starts_with(word))
}

fn status_line(line: &str) -> Option<(&str, String)> {
    let (status, rest) = line.split_once(" [")?;
    let upper = |c: char| c.is_ascii_uppercase() || c == '-';
    let (_, name) = rest.split_once("] ")?;
    let known = !status.is_empty() && status.chars().all(upper);
    // Newer versions count: `PASS [ 0.1s] ( 3/17) crate test`.
    let name = match name.trim().strip_prefix('(') {
        Some(counted) => counted.split_once(") ").map_or(counted, |(_, name)| name),
        None => name,
    };
    known.then(|| (status, name.trim().to_owned()))
}

/// Reads libtest's lines: `test name ... ok`, and the dots of `--quiet`.
fn from_libtest(text: &str) -> Counts {
    let mut counts = Counts::default();
    let mut current: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(result) = line.strip_prefix("test result:") {
            counts.passed += number_before(result, " passed");
            continue;
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|l| l.strip_suffix(" stdout ----"))
        {
            current = Some(name.to_owned());
        } else if let Some(reason) = line.strip_prefix("skipped:") {
            if let Some(test) = current.take() {
                counts.skipped.push((test, reason.trim().to_owned()));
            }
        } else if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|l| l.split_once(" ... "))
        {
            match result.split([',', ' ']).next() {
                Some("FAILED") => counts.failed.push(name.to_owned()),
                Some("ignored") => counts.skipped.push((name.to_owned(), result.to_owned())),
                _ => {}
            }
        }
    }
    let told = counts
        .skipped
        .iter()
        .filter(|(_, r)| !r.starts_with("ignored"))
        .count();
    counts.passed = counts.passed.saturating_sub(told);
    counts
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    before
        .split_whitespace()
        .last()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_is_read() {
        let text = "    Starting 4 tests\n        PASS [   0.004s] vpmu ids::a\n        \
                    PASS [   0.004s] (2/4) vpmu kvm::b\n  stderr ---\n    skipped: no /dev/kvm\n        \
                    FAIL [   0.1s] vpmu c\n        SKIP [         ] vpmu d\n     \
                    Summary [   0.1s] 3 tests run\n        FAIL [   0.1s] vpmu c\n";
        let counts = from_nextest(text);
        assert_eq!(counts.passed, 1);
        assert_eq!(counts.failed, ["vpmu c"]);
        assert_eq!(
            counts.skipped[0],
            ("vpmu kvm::b".into(), "no /dev/kvm".into())
        );
        assert_eq!(counts.skipped[1], ("vpmu d".into(), IGNORED.into()));
    }

    #[test]
    fn a_skip_in_other_words_is_no_pass() {
        let text = "        PASS [   0.004s] vmm a\n  stderr ---\n    SKIP: no KVM\n        \
                    PASS [   0.004s] vmm b\n    Skipped, no KVM\n";
        let counts = from_nextest(text);
        assert_eq!((counts.passed, counts.failed.len()), (0, 2));
    }

    #[test]
    fn libtest_is_read() {
        let text = "test a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\ntest e ... ok\n\
                    ---- e stdout ----\nskipped: no PMU\n\
                    test result: FAILED. 2 passed; 1 failed; 1 ignored\n";
        let counts = from_libtest(text);
        assert_eq!((counts.passed, counts.failed.len()), (1, 1));
        assert_eq!(counts.skipped.len(), 2);
    }
}
