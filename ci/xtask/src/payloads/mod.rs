//! The bare-metal payloads of guest-tests, on this machine's own `/dev/kvm`: they are
//! small enough for a KVM that emulates each instruction.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::report::Report;
use crate::{cmd, guest, programs};

mod neighbours;
mod pci;

/// Seconds that a payload may take.
const LIMIT: &str = "60";

/// Lines that perfvisor may write for one payload, whatever it does: this many, and
/// in each second so many more.
const MOST_LOG_LINES: u64 = 20;
const MORE_LOG_LINES: u64 = 2;

/// What `pmu_random` and `pci_random` write to the debug exit, as an exit status.
const RANDOM_WELL: i32 = 0x10 << 1 | 1;

/// All models but the hybrid pair.
const ALL: &[&str] = &[
    "intel-v1", "intel-v2", "intel-v3", "intel-v4", "intel-v5", "amd-k7", "amd-core", "amd-v2",
];
/// Those with a status register, of Intel.
const GLOBAL: &[&str] = &["intel-v2", "intel-v3", "intel-v4", "intel-v5"];
const AMD: &[&str] = &["amd-k7", "amd-core", "amd-v2"];
/// One without a status register, and one of each vendor with one.
const KINDS: &[&str] = &["intel-v2", "amd-core", "amd-v2"];

/// Models that a payload runs with; none stands for the default of `--pmu`.
fn models(payload: &str) -> &'static [&'static str] {
    match payload {
        "pmu_absent" | "pmu_random" | "pmi_habits" => ALL,
        "pmi_lvtpc" | "pmi_once" | "pmi_halt" | "pmi_in_nmi" | "rdpmc_index" => ALL,
        "rdpmc_user" | "rdpmc_doorbell" | "rdpmc_shapes" => ALL,
        "rdpmc_protected" => KINDS,
        "pmu_registers" | "pmi_freeze" | "pmu_count" | "pmu_overflow" => GLOBAL,
        "rdpmc_lost" | "rdpmc_island" => KINDS,
        "pmu_amd" => AMD,
        "pmu_v1" => &["intel-v1"],
        "pmu_cpuid" | "rdpmc_rewrite" | "exit_cost" => &["intel-v2"],
        "register_calls" | "register_cost" => &["intel-v2"],
        _ => &[],
    }
}

/// Further arguments of `perfvisor run`.
fn arguments(payload: &str) -> &'static [&'static str] {
    match payload {
        "pmu_random" => &["--debug-exit", "--cmdline", "ops=3000 seed=20240229"],
        "pmu_none" => &["--pmu", "type=auto,rdpmc=off"],
        _ => &[],
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
    match models(name) {
        [] => vec![run(None)],
        models => models.iter().copied().map(Some).map(run).collect(),
    }
}

/// The names of all runs.
pub(crate) fn names() -> Result<Vec<String>> {
    let payloads = programs::payload_names()?;
    let runs = payloads.iter().flat_map(|name| runs(name, Path::new("")));
    Ok(runs.map(|run| run.name).collect())
}

/// Runs every payload that the report wants.
pub(crate) fn run(report: &mut Report) {
    let names = match names() {
        Ok(names) => names,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    let mut names: Vec<_> = names.into_iter().filter(|n| report.wants(n)).collect();
    names.extend(neighbours::wanted(report));
    names.extend(pci::wanted(report));
    if names.is_empty() {
        return;
    }
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        for name in &names {
            report.skip(name, &format!("/dev/kvm: {error}"));
        }
        return;
    }
    let built = programs::payloads().and_then(|all| Ok((all, programs::perfvisor("testrelease")?)));
    let (all, perfvisor) = match built {
        Ok(built) => built,
        Err(error) => return report.fail("payloads", &format!("{error:#}")),
    };
    let runs = all.iter().flat_map(|(name, path)| runs(name, path));
    for run in runs.filter(|run| names.contains(&run.name)) {
        let began = Instant::now();
        match run_one(&perfvisor, &run) {
            Ok(Outcome::Passed) => report.settle(&run.name, began.elapsed(), Ok(())),
            Ok(Outcome::Skipped(reason)) => report.skip(&run.name, reason),
            Err(error) => report.settle(&run.name, began.elapsed(), Err(error)),
        }
    }
    neighbours::run(report, &perfvisor, &all);
    pci::run(report, &perfvisor, &all);
}

/// `perfvisor run` of a payload with its own arguments.
fn command(perfvisor: &Path, payload: &Path, model: Option<&str>) -> Command {
    let mut command = Command::new(perfvisor);
    command
        .args(["run", "--serial", "tty", "--kernel"])
        .arg(payload)
        .args(arguments(name_of(payload)))
        .stdin(Stdio::null());
    if let Some(model) = model {
        command.arg("--pmu").arg(format!("type=auto,model={model}"));
    }
    command
}

fn name_of(payload: &Path) -> &str {
    payload
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default()
}

/// What became of a payload that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// This machine's KVM does not let it pass.
    Skipped(&'static str),
}

fn run_one(perfvisor: &Path, run: &Run) -> Result<Outcome> {
    let mut of = command(perfvisor, &run.payload, run.model);
    if name_of(&run.payload) == pci::PAYLOAD {
        of.args(pci::arguments(pci::SEED)?);
    }
    finishes(&run.payload, &of)
}

/// Runs a command of [`command`], and judges it.
fn finishes(payload: &Path, of: &Command) -> Result<Outcome> {
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(of.get_program()).args(of.get_args());
    let began = Instant::now();
    let done = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start perfvisor")?;
    let console = String::from_utf8_lossy(&done.stdout);
    let log = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.code() != Some(124),
        "more than {LIMIT} s\n{}",
        words(&console, &log)
    );
    if is_kvms_leaf_7(&console, &log) {
        return Ok(Outcome::Skipped(KVMS_LEAF_7));
    }
    if name_of(payload) == "rdpmc_protected" && log.contains(NOT_EMULATED) {
        return Ok(Outcome::Skipped(KVMS_PROTECTED_MODE));
    }
    verdict(
        name_of(payload),
        done.status,
        began.elapsed(),
        &console,
        &log,
    )
    .map(|()| Outcome::Passed)
}

/// How perfvisor says that KVM had to emulate an instruction that it does not know.
const NOT_EMULATED: &str = "with an internal error (suberror 1";

const KVMS_PROTECTED_MODE: &str = "this machine's KVM does not emulate a 32-bit kernel's IRET; \
                                   the nested hosts run this payload";

const KVMS_LEAF_7: &str = "this machine's KVM shows guests the host's own CPUID leaf 07H; \
                           the nested hosts run this payload";

/// Whether a payload complains of features of leaf 07H alone, and perfvisor has said that
/// KVM shows them against the table.
fn is_kvms_leaf_7(console: &str, log: &str) -> bool {
    let mut failed = console
        .lines()
        .filter(|l| l.starts_with("FAIL "))
        .peekable();
    failed.peek().is_some()
        && failed.all(|line| line.contains(" CPUID 0x7 "))
        && log.contains("KVM shows the guest CPU features that its CPUID table does not offer")
}

/// The ends of what the guest and perfvisor said.
fn words(console: &str, log: &str) -> String {
    format!(
        "{}\n{}",
        cmd::last_lines(console, 12),
        cmd::last_lines(log, 6)
    )
}

/// Whether a payload ended as it should.
fn verdict(
    payload: &str,
    status: ExitStatus,
    took: Duration,
    console: &str,
    log: &str,
) -> Result<()> {
    let words = || words(console, log);
    let lines = log.lines().count() as u64;
    let most = MOST_LOG_LINES + MORE_LOG_LINES * took.as_secs();
    ensure!(
        lines <= most,
        "{lines} lines in perfvisor's log, at most {most}\n{}",
        words()
    );
    let exit = guest::exit_status(console);
    match payload {
        "triple_fault" => {
            ensure!(
                !status.success(),
                "a triple fault gave status 0\n{}",
                words()
            );
            ensure!(exit.is_none(), "the payload ran on\n{}", words());
        }
        "reset" => {
            ensure!(status.success(), "{status}\n{}", words());
            ensure!(exit.is_none(), "the reset did nothing\n{}", words());
        }
        "pmu_random" | "pci_random" => {
            let failed = failures(console);
            ensure!(
                status.code() == Some(RANDOM_WELL),
                "{status}: {failed}\n{}",
                words()
            );
        }
        "rdpmc_lost" => ensure!(
            log.contains("reads do not reach us") == console.contains("RDPMC is silent")
                && exit == Some(0),
            "G-504 is said where it is not so, or the other way round, or {}\n{}",
            failures(console),
            words()
        ),
        _ => match exit {
            Some(0) => ensure!(status.success(), "{status}\n{}", words()),
            Some(_) => bail!("{}", failures(console)),
            None => bail!("no exit line ({status})\n{}", words()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leaf_7_may_be_kvms_and_only_if_perfvisor_says_so() {
        let fault = "FAIL s1.1 CPUID 0x7 HLE: expected false, got true (hex)\n";
        let other = "FAIL s1.1 CPUID 0x1 PDCM: expected true, got false (hex)\n";
        let said = "WARN KVM shows the guest CPU features that its CPUID table does not offer: HLE";
        assert!(is_kvms_leaf_7(fault, said));
        assert!(!is_kvms_leaf_7(fault, ""));
        assert!(!is_kvms_leaf_7(&format!("{fault}{other}"), said));
        assert!(!is_kvms_leaf_7("perfvisor.exit=0\n", said));
    }
}
