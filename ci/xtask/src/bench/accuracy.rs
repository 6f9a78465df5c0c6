//! How far `perf stat` in a guest is from what a loop of known length executes.

use anyhow::{Context, Result};

use super::Run;
use super::figure::{Figure, Most, Values};
use crate::guest_tests::{GuestTest, Seen};
use crate::perf;

/// Instructions of the loop; also cycles, on a clock of 1 ns for each instruction.
const LOOP: f64 = 2e9;
const PERCENT: &str = "%";
/// What four events are, and eight: the first is the one that is looked at.
const FOUR: &str = "instructions,instructions:u,branches,branches:u";
const EIGHT: &str = "instructions,instructions:u,branches,branches:u,branch-misses,\
                     cache-references,cache-misses,bus-cycles";

/// Alone on a clock and on a host's counter, and with turns on the host's counters.
pub(super) fn all() -> Vec<Run> {
    let told = |counters| match counters {
        8 => "--pmu type=auto,model=intel-v2,gp=8",
        _ => "--pmu type=auto,model=intel-v2,gp=4",
    };
    vec![
        // As the guest test `accuracy`, whose guest has the default PMU.
        run("error_alone", "", "", "cycles"),
        run("error_alone_host_pmu", "core:gp=4", told(4), "instructions"),
        run("error_4_on_2", "core:gp=2", told(4), FOUR),
        run("error_8_on_4", "core:gp=4", told(8), EIGHT),
    ]
}

fn run(name: &str, mock_pmu: &'static str, vmm: &'static str, events: &str) -> Run {
    let test = GuestTest {
        mock_pmu,
        vmm,
        limit: 200,
        ..GuestTest::new(
            format!("bench/accuracy/{name}"),
            format!("perf stat -x, -e {events} spin 2000000000 2>&1"),
            |_, _| Ok(()),
        )
    };
    // Turns on shared counters are an estimate.
    let most = if name.contains("_on_") { 2.0 } else { 1.0 };
    let figure = Figure {
        key: "error_of_the_loop".into(),
        ..Figure::new(name, PERCENT, Some(Most::Value(most)))
    };
    Run {
        test,
        figures: vec![figure],
        read: error,
    }
}

/// What the first event counted is off, in percent of the loop.
fn error(seen: &Seen) -> Result<Values> {
    seen.succeeded()?;
    let counts = ["cycles", "instructions"].map(|event| perf::counts(&seen.console, event));
    let count = *counts.iter().flatten().next().context("no count")?;
    let error = (count - LOOP).abs() / LOOP * 100.0;
    Ok([("error_of_the_loop".to_owned(), error)].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(console: &str) -> Result<f64> {
        let seen = Seen {
            console: console.into(),
            ..Seen::default()
        };
        Ok(error(&seen)?["error_of_the_loop"])
    }

    #[test]
    fn the_error_is_that_of_the_first_event() {
        let line = "1980000000,,instructions,1,50.00,,\n5,,branches,1,50.00,,\n";
        let end = "=== complaints\n=== end\nperfvisor.exit=0\n";
        assert!((of(&format!("{line}{end}")).unwrap() - 1.0).abs() < 1e-9);
        assert!(of(end).is_err());
        assert!(of(line).is_err());
    }
}
