//! The bare-metal payloads of guest-tests, on this machine's own `/dev/kvm`: they are
//! small enough for a KVM that emulates each instruction.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::report::Report;
use crate::{cmd, guest, programs};

/// Seconds that a payload may take.
const LIMIT: &str = "60";

/// Runs every payload that the report wants.
pub(crate) fn run(report: &mut Report) {
    let all = match programs::payloads() {
        Ok(all) => all,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    let wanted: Vec<_> = all
        .into_iter()
        .map(|(name, path)| (format!("payload/{name}"), path))
        .filter(|(name, _)| report.wants(name))
        .collect();
    if wanted.is_empty() {
        return;
    }
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        for (name, _) in &wanted {
            report.skip(name, &format!("/dev/kvm: {error}"));
        }
        return;
    }
    let perfvisor = match programs::perfvisor("testrelease") {
        Ok(perfvisor) => perfvisor,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    for (name, path) in &wanted {
        report.step(name, || run_one(&perfvisor, path, name));
    }
}

fn run_one(perfvisor: &Path, payload: &Path, name: &str) -> Result<()> {
    let done = Command::new("timeout")
        .arg(LIMIT)
        .arg(perfvisor)
        .args(["run", "--serial", "tty", "--kernel"])
        .arg(payload)
        .stdin(Stdio::null())
        .output()
        .context("cannot start perfvisor")?;
    let console = String::from_utf8_lossy(&done.stdout);
    let words = || {
        let vmm = String::from_utf8_lossy(&done.stderr).into_owned();
        format!(
            "{}\n{}",
            cmd::last_lines(&console, 12),
            cmd::last_lines(&vmm, 6)
        )
    };
    ensure!(
        done.status.code() != Some(124),
        "more than {LIMIT} s\n{}",
        words()
    );
    let exit = guest::exit_status(&console);
    match name.trim_start_matches("payload/") {
        "triple_fault" => {
            ensure!(
                !done.status.success(),
                "a triple fault gave status 0\n{}",
                words()
            );
            ensure!(exit.is_none(), "the payload ran on\n{}", words());
        }
        "reset" => {
            ensure!(done.status.success(), "{}\n{}", done.status, words());
            ensure!(exit.is_none(), "the reset did nothing\n{}", words());
        }
        _ => match exit {
            Some(0) => ensure!(done.status.success(), "{}\n{}", done.status, words()),
            Some(_) => bail!("{}", failures(&console)),
            None => bail!("no exit line ({})\n{}", done.status, words()),
        },
    }
    Ok(())
}

/// The lines of failed checks.
fn failures(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|l| l.starts_with("FAIL")).collect();
    if lines.is_empty() {
        cmd::last_lines(console, 12)
    } else {
        lines.join("\n")
    }
}
