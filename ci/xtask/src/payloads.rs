//! The bare-metal payloads of guest-tests, on this machine's own `/dev/kvm`: they are
//! small enough for a KVM that emulates each instruction.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::report::Report;
use crate::{cmd, guest, programs};

/// Seconds that a payload may take.
const LIMIT: &str = "60";

/// Models that a payload runs with; `None` is the default of `--pmu`.
fn models(payload: &str) -> &'static [Option<&'static str>] {
    match payload {
        "pmu_registers" => &[
            Some("intel-v2"),
            Some("intel-v3"),
            Some("intel-v4"),
            Some("intel-v5"),
        ],
        "pmu_count" | "pmu_overflow" => &[Some("intel-v2"), Some("intel-v4"), Some("intel-v5")],
        "pmu_cpuid" | "rdpmc_doorbell" | "rdpmc_rewrite" => &[Some("intel-v2")],
        "pmu_amd" => &[Some("amd-k7"), Some("amd-core"), Some("amd-v2")],
        _ => &[None],
    }
}

/// One run of a payload.
struct Run {
    name: String,
    payload: PathBuf,
    model: Option<&'static str>,
}

fn runs(name: &str, payload: &Path) -> Vec<Run> {
    let run = |model: Option<&'static str>| Run {
        name: format!(
            "payload/{name}{}",
            model.map(|m| format!("/{m}")).unwrap_or_default()
        ),
        payload: payload.to_owned(),
        model,
    };
    models(name).iter().copied().map(run).collect()
}

/// Runs every payload that the report wants.
pub(crate) fn run(report: &mut Report) {
    let all = match programs::payloads() {
        Ok(all) => all,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    let wanted: Vec<_> = all
        .into_iter()
        .flat_map(|(name, path)| runs(&name, &path))
        .filter(|run| report.wants(&run.name))
        .collect();
    if wanted.is_empty() {
        return;
    }
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        for run in &wanted {
            report.skip(&run.name, &format!("/dev/kvm: {error}"));
        }
        return;
    }
    let perfvisor = match programs::perfvisor("testrelease") {
        Ok(perfvisor) => perfvisor,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    for run in &wanted {
        report.step(&run.name, || run_one(&perfvisor, run));
    }
}

fn run_one(perfvisor: &Path, run: &Run) -> Result<()> {
    let mut command = Command::new("timeout");
    command
        .arg(LIMIT)
        .arg(perfvisor)
        .args(["run", "--serial", "tty", "--kernel"])
        .arg(&run.payload);
    if let Some(model) = run.model {
        command.arg("--pmu").arg(format!("type=auto,model={model}"));
    }
    let done = command
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
    match run
        .payload
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default()
    {
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
