//! Monitors beside a Linux guest's perf: what an operator counts from outside and what
//! the guest counts itself agree, and who comes first where counters are short.

use anyhow::{Context, Result, ensure};

use super::hybrid::{BOTH_KINDS, TWO_CPUS};
use super::on_host::Hosted;
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

/// Every test of monitors.
pub(super) fn all() -> Vec<GuestTest> {
    let row = |name: &str, line, check| GuestTest {
        runs: Runs::OnHost,
        limit: 180,
        ..GuestTest::new(format!("monitors/{name}"), line, check)
    };
    vec![
        GuestTest {
            mock_pmu: "core:gp=4",
            ..row(
                "mock",
                line("--pmu type=auto", INSTRUCTIONS, SPIN, SHORT),
                on_the_mock,
            )
        },
        GuestTest {
            mock_pmu: TWO_CPUS,
            ..row(
                "hybrid",
                line(BOTH_KINDS, INSTRUCTIONS, SPIN_ON_BOTH, ""),
                on_both_kinds,
            )
        },
        row(
            "clock",
            line("--pmu type=software", REF_CYCLES, SPIN, ""),
            on_the_clock,
        ),
    ]
}

/// Beside these, the guest's watchdog counts nothing.
const INSTRUCTIONS: &str = "instructions";
const REF_CYCLES: &str = "ref-cycles";

/// In the guest: keeps a vCPU busy to the end.
const SPIN: &str = "spin 900000000000";
/// The same on either vCPU, while perf looks on.
const SPIN_ON_BOTH: &str = "sh /tmp/both";

/// Four pinned monitors on four counters, and away again.
const SHORT: &str = "for i in 1 2 3 4; do $ctl monitor add cycles,policy=pinned; done; sleep 2; look short; \
     for i in 1 2 3 4; do $ctl monitor remove $i; done; sleep 2; look after; ";

/// The guest spins under a perf that counts everything in it. It is looked at once every
/// vCPU counts the event, and while it stands, so that both counts are of the same instant.
fn line(flags: &str, event: &str, load: &str, more: &str) -> String {
    let run = Hosted {
        flags,
        line: &format!(
            "echo taskset 1 {SPIN} \\& taskset 2 {SPIN} >/tmp/both; \
             (sleep 5; {ASK}) & perf stat -a -e {event} {load}"
        ),
        ..Hosted::default()
    };
    format!(
        "{}look() {{ $ctl pause >/dev/null; echo \"=== $1\"; $ctl pmu; $ctl resume >/dev/null; }}; \
         all_count() {{ $ctl pmu >/tmp/pmu 2>/dev/null && \
           [ $(grep -cE '^ *(gp|fixed). +counting +{event} ' /tmp/pmu) = $(grep -c ^vCPU /tmp/pmu) ]; }}; \
         until all_count; do sleep 0.5; done; \
         $ctl monitor add {event}; sleep 1; look first; sleep 5; look second; {more}\
         echo '=== end'; $ctl monitor list; $ctl monitor remove 0 >/dev/null && $ctl monitor list; \
         word '=== end'; $ctl shutdown --force; wait $vmm; echo ended=$?; cat /tmp/console",
        run.started()
    )
}

/// The value of a line of `ctl pmu` that counts an event: counter, state, the guest's
/// event, the host's, two times with their unit, value.
fn value(text: &str, counter: &str, event: &str) -> Result<f64> {
    let words = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>());
    let mut fitting = words.filter(|words| {
        words.first().is_some_and(|name| name.starts_with(counter))
            && words.get(1) == Some(&"counting")
            && words.iter().skip(2).take(2).any(|word| *word == event)
    });
    let line = fitting.next();
    let line = line.with_context(|| format!("no {counter} counts {event}: {text}"))?;
    let unit = line.iter().rposition(|word| *word == "ns");
    let value = unit.and_then(|unit| line.get(unit + 1));
    Ok(value.context("a line without a value")?.parse()?)
}

/// Between the two looks both have counted the same on each vCPU, but for the moments in
/// which the guest has its PMU disabled; a clock's counts are rounded, each for itself.
fn agree(seen: &Seen, guest: &str, event: &str, vcpus: usize) -> Result<()> {
    let look = |name| -> Result<Vec<&str>> {
        let section = perf::section(&seen.console, name)?;
        Ok(section.split("\nvCPU ").skip(1).collect())
    };
    let (first, second) = (look("first")?, look("second")?);
    ensure!(
        (first.len(), second.len()) == (vcpus, vcpus),
        "{vcpus} vCPUs are due"
    );
    for (first, second) in first.into_iter().zip(second) {
        let counted = |counter| -> Result<f64> {
            Ok(value(second, counter, event)? - value(first, counter, event)?)
        };
        let (inside, outside) = (counted(guest)?, counted("monitor0")?);
        let off = (outside - inside) / outside;
        crate::say!(
            "{event}: {inside} inside, {outside} outside: {:.3} %",
            off * 100.0
        );
        ensure!(outside > 1e6, "{event}: {outside} only");
        ensure!(
            (-1e-6..0.005).contains(&off),
            "{event}: {inside} inside, {outside} outside"
        );
    }
    let end = perf::section(&seen.console, "end")?;
    let heads = end.matches("monitor 0: ").count();
    ensure!(heads == 1, "listed once, and not when it is gone: {end}");
    complaints::none(&seen.console)?;
    seen.says("ended=0")
}

fn on_the_clock(seen: &Seen, _: &GuestTest) -> Result<()> {
    agree(seen, "fixed", REF_CYCLES, 1)
}

/// A core and an atom vCPU, each on its PMU of the host's.
fn on_both_kinds(seen: &Seen, _: &GuestTest) -> Result<()> {
    agree(seen, "fixed", INSTRUCTIONS, 2)
}

/// pinned monitors come before flexible ones, and those before the guest's.
fn on_the_mock(seen: &Seen, _: &GuestTest) -> Result<()> {
    agree(seen, "gp", INSTRUCTIONS, 1)?;
    let states = |look| -> Result<(usize, usize)> {
        let text = perf::section(&seen.console, look)?;
        let in_state = |state: &str| {
            let of_event = |l: &&str| l.contains(INSTRUCTIONS) && l.contains(state);
            text.lines().filter(of_event).count()
        };
        Ok((in_state(" counting "), in_state(" waiting ")))
    };
    let short = perf::section(&seen.console, "short")?;
    let pinned = short.lines().filter(|l| l.trim_end().ends_with("pinned"));
    let counting = pinned.filter(|l| l.contains(" counting ")).count();
    ensure!(counting == 4, "the pinned monitors: {short}");
    ensure!(states("short")? == (0, 2), "the other two: {short}");
    let after = perf::section(&seen.console, "after")?;
    ensure!(
        states("after")? == (2, 0),
        "the counters come back: {after}"
    );
    ensure!(
        after.lines().any(|l| l.trim_end().ends_with("scaled")),
        "{after}"
    );
    Ok(())
}
