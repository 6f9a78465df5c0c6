//! What counting costs the programs of a Linux guest: how much longer a loop takes under a
//! sampling and a counting perf, and a program whose two tasks switch at each step.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::Run;
use super::figure::{Figure, Most, Values};
use crate::guest_tests::{GuestTest, Seen};

/// Instructions of the loop: a second, on a clock of 1 ns for each instruction.
const LOOP: &str = "1000000000";
/// Steps of the two tasks.
const STEPS: u32 = 500;
/// A mock of a host PMU with as many counters as the guest is told of.
const HOST_PMU: &str = "core:gp=4";
const TOLD: &str = "--pmu type=auto,model=intel-v2,gp=4";

const FOUR: &str = "cycles,instructions,branches,branch-misses";
const EIGHT: &str = "cycles,instructions,branches,branch-misses,cache-references,\
                     cache-misses,bus-cycles,instructions:u";

/// A figure of the loop: its name, perf's words, the most that is wanted in percent.
type Slowdown = (&'static str, &'static str, f64);

const RECORD: &str = "perf record -q -o /tmp/data -F 999 -e cycles";
const BY_CLOCK: [Slowdown; 2] = [
    ("slowdown_record_999", RECORD, 6.9),
    (
        "slowdown_stat_levels",
        "perf stat -o /tmp/counts -e cycles,cycles:u,cycles:k,ref-cycles",
        0.5,
    ),
];
const ON_HOST_PMU: [Slowdown; 2] = [
    ("slowdown_record_999_host_pmu", RECORD, 6.9),
    (
        "slowdown_stat_plain_host_pmu",
        "perf stat -o /tmp/counts -e cycles,instructions,branches,branch-misses",
        0.19,
    ),
];

/// A figure of the two tasks: its name, what is counted in each, the most that is wanted in
/// times.
const SWITCHING: [(&str, &str, f64); 3] = [
    ("times_switching_1_host_pmu", "cycles", 3.7),
    ("times_switching_4_host_pmu", FOUR, 6.5),
    ("times_switching_8_host_pmu", EIGHT, 8.5),
];

/// The loop's on a clock and on a host's counters, and the tasks' on a host's counters.
pub(super) fn all() -> Vec<Run> {
    vec![
        slowdown("clock", "", "", &BY_CLOCK),
        slowdown("host-pmu", HOST_PMU, TOLD, &ON_HOST_PMU),
        switching(),
    ]
}

fn slowdown(
    name: &str,
    mock_pmu: &'static str,
    vmm: &'static str,
    rows: &'static [Slowdown],
) -> Run {
    let mut line = format!("spin {LOOP} plain");
    for (name, perf, _) in rows {
        // Writing to a string does not fail.
        let _ = write!(line, "; {perf} spin {LOOP} {name}");
    }
    let test = GuestTest {
        mock_pmu,
        vmm,
        limit: 200,
        ..GuestTest::new(format!("bench/slowdown/{name}"), line, |_, _| Ok(()))
    };
    Run {
        test,
        figures: rows
            .iter()
            .map(|(name, _, most)| Figure::new(*name, "%", Some(Most::Value(*most))))
            .collect(),
        read: percent_longer,
    }
}

/// `perf bench -f simple` prints the seconds alone.
fn switching() -> Run {
    let tasks = format!("perf bench -f simple sched pipe -l {STEPS}");
    let mut line = format!("echo bench plain $({tasks})");
    for (name, events, _) in SWITCHING {
        let _ = write!(
            line,
            "; echo bench {name} $(perf stat -o /tmp/counts -e {events} {tasks})"
        );
    }
    let test = GuestTest {
        mock_pmu: HOST_PMU,
        vmm: TOLD,
        limit: 200,
        ..GuestTest::new("bench/switching", line, |_, _| Ok(()))
    };
    Run {
        test,
        figures: SWITCHING
            .map(|(name, _, most)| Figure::new(name, "x", Some(Most::Value(most))))
            .into(),
        read: times_longer,
    }
}

/// Each number of a run over the one called `plain`.
fn times_longer(seen: &Seen) -> Result<Values> {
    seen.succeeded()?;
    let mut values = super::as_printed(seen)?;
    let plain = values.remove("plain").context("no plain run")?;
    for value in values.values_mut() {
        *value /= plain;
    }
    Ok(values)
}

fn percent_longer(seen: &Seen) -> Result<Values> {
    let mut values = times_longer(seen)?;
    for value in values.values_mut() {
        *value = (*value - 1.0) * 100.0;
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_is_held_against_the_plain_run() {
        let seen = Seen {
            console: "bench plain 200\nbench a 210\n=== complaints\n=== end\nperfvisor.exit=0\n"
                .into(),
            ..Seen::default()
        };
        assert!((times_longer(&seen).unwrap()["a"] - 1.05).abs() < 1e-9);
        assert!((percent_longer(&seen).unwrap()["a"] - 5.0).abs() < 1e-9);
    }
}
