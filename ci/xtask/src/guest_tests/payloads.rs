//! Bare-metal payloads on both nested hosts: RDPMC is a silent 0 on the one and faults
//! on the other, whatever this machine's own KVM does (guest-contract §5.6, §5.7).

use anyhow::{Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Runs, Seen};
use crate::nested::Job;
use crate::place::Place;
use crate::{perf, programs};

const PAYLOADS: [&str; 10] = [
    "rdpmc_user",
    "rdpmc_index",
    "rdpmc_island",
    "rdpmc_lost",
    "pmi_habits",
    "pmi_lvtpc",
    "pmi_halt",
    "pmi_in_nmi",
    "pmi_once",
    "pmu_absent",
];
const MODELS: [&str; 3] = ["intel-v4", "amd-core", "amd-v2"];

/// The payload that looks at CPUID, and the only model that it knows: run beside the first
/// of [`MODELS`], as this machine's own KVM may show guests another leaf 07H.
const CPUID: (&str, &str) = ("pmu_cpuid", "intel-v2");

/// The payloads that need a host whose RDPMC faults, and that host's kernel.
const FAULTS: ([&str; 2], &str) = (["rdpmc_shapes", "rdpmc_protected"], "6.12");

/// Where the payloads are, in a line.
const FOLDER: &str = "{payloads}";

/// Every run of payloads in a nested host.
pub(super) fn all() -> Vec<GuestTest> {
    let mut rows = Vec::new();
    for host_kernel in KERNELS {
        rows.extend(MODELS.iter().map(|model| row(host_kernel, model)));
    }
    rows
}

/// A payload says `perfvisor.exit=` as a Linux guest does, of which more is asked: here
/// its word is `payload.exit=`.
pub(super) fn row(host_kernel: &'static str, model: &str) -> GuestTest {
    row_without("", host_kernel, model)
}

/// The same, without this payload.
pub(super) fn row_without(absent: &str, host_kernel: &'static str, model: &str) -> GuestTest {
    let wanted = PAYLOADS.iter().filter(|payload| **payload != absent);
    let runs = wanted.map(|payload| (*payload, model));
    let runs = runs.chain((model == MODELS[0]).then_some(CPUID));
    let faults = FAULTS.0.iter().filter(|_| host_kernel == FAULTS.1);
    let runs = runs.chain(faults.map(|payload| (*payload, model)));
    let lines = runs.map(|(payload, model)| {
        format!(
            "echo '=== {payload}'; perfvisor run --serial tty --kernel {FOLDER}{payload} \
             --pmu type=software,model={model} </dev/null >/tmp/payload; echo status=$?; \
             sed s/^perfvisor.exit=/payload.exit=/ /tmp/payload; "
        )
    });
    GuestTest {
        host_kernel,
        runs: Runs::OnHost,
        limit: 180,
        ..GuestTest::new(
            format!("bare-metal/host-{host_kernel}/{model}"),
            lines.collect::<String>() + "echo '=== end'",
            passed,
        )
    }
}

fn passed(seen: &Seen, test: &GuestTest) -> Result<()> {
    let others = FAULTS.0.into_iter().chain([CPUID.0]);
    let runs = |payload: &&str| test.line.contains(&format!("'=== {payload}'"));
    for payload in PAYLOADS.into_iter().chain(others).filter(runs) {
        let text = perf::section(&seen.console, payload)?;
        let says = |due: &str| text.lines().any(|line| line == due);
        let ended = says("payload.exit=0") && says("status=0");
        ensure!(ended, "{payload}: {text}");
    }
    Ok(())
}

/// Gives `job` the payloads that `line` names, and the line their places.
///
/// # Errors
/// If they do not build.
pub(super) fn place(line: &str, place: &Place, job: &mut Job) -> Result<String> {
    if !line.contains(FOLDER) {
        return Ok(line.to_owned());
    }
    for (name, path) in programs::payloads()? {
        if names(line, &name) {
            job.add(format!("images/{name}"), &path)?;
        }
    }
    Ok(line.replace(FOLDER, &place.job_file("")))
}

/// Whether `line` names a payload, and not only one with a longer name.
fn names(line: &str, payload: &str) -> bool {
    let rest = line.split(FOLDER).skip(1);
    let is_end = |c: char| !(c.is_alphanumeric() || c == '_');
    rest.filter_map(|rest| rest.strip_prefix(payload))
        .any(|after| after.chars().next().is_none_or(is_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_payloads_that_it_names() {
        let line = "perfvisor run --kernel {payloads}pmu_count; {payloads}reset";
        for (payload, named) in [
            ("pmu_count", true),
            ("reset", true),
            ("pmu", false),
            ("count", false),
            ("perfvisor", false),
        ] {
            assert_eq!(names(line, payload), named, "{payload}");
        }
    }

    #[test]
    fn each_payload_has_ended_well() {
        let one = |payload: &str, exit: &str| {
            format!("=== {payload}\nstatus=0\npayload {payload}\n{exit}\n")
        };
        let console = |exit: &str| {
            PAYLOADS.map(|payload| one(payload, exit)).concat() + &one(CPUID.0, exit) + "=== end\n"
        };
        let seen = |console| Seen {
            console,
            ..Seen::default()
        };
        let test = &row("6.1", MODELS[0]);
        passed(&seen(console("payload.exit=0")), test).unwrap();
        let without = console("payload.exit=0").replace("=== pmu_cpuid", "");
        assert!(passed(&seen(without), test).is_err());
        assert!(passed(&seen(console("payload.exit=01")), test).is_err());
        assert!(passed(&seen(console("")), test).is_err());
    }
}
