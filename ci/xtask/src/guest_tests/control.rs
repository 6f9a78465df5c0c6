//! `perfvisor ctl` and a Linux guest: what it shows while perf counts, that a paused
//! guest stands, and that the power button reaches the guest's kernel.

use anyhow::{Context, Result, ensure};

use super::on_host::Hosted;
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};

/// Every test of the control API.
pub(super) fn all() -> Vec<GuestTest> {
    vec![GuestTest {
        runs: Runs::OnHost,
        limit: 180,
        ..GuestTest::new("control", line(), controlled)
    }]
}

/// The guest spins under `perf stat` and prints a line a second, with the count of its
/// event device's interrupt. What follows something is awaited by those lines and not by
/// the clock: `ticks N` waits for so many more and shows the last whole one. The loop is
/// asked again if it was not what ran in that moment.
fn line() -> String {
    let run = Hosted {
        line: &format!(
            "perf stat -e cycles spin 900000000000 & sleep 5; {ASK}; \
             while sleep 1; do echo tick $(grep Ged /proc/interrupts); done"
        ),
        ..Hosted::default()
    };
    format!(
        "{}ticks() {{ due=$(($(grep -c ^tick /tmp/console) + $1)); \
           until [ $(grep -c ^tick /tmp/console) -ge $due ]; do sleep 0.2; done; \
           grep ^tick /tmp/console | tail -n 2 | head -n 1; }}; \
         word '=== end'; ticks 2; $ctl info; \
         for n in 1 2 3 4 5 6 7 8; do $ctl pmu >/tmp/pmu; grep -q counting /tmp/pmu && break; done; cat /tmp/pmu; \
         $ctl pause; sleep 1; \
         $ctl --json pmu >/tmp/first; cp /tmp/console /tmp/before; sleep 4; \
         $ctl --json pmu >/tmp/second; cmp /tmp/first /tmp/second && cmp /tmp/console /tmp/before && echo stands; \
         $ctl resume; ticks 3 && echo goes on; \
         $ctl --json pmu >/tmp/third; cmp -s /tmp/first /tmp/third || echo counts on; \
         echo before $(ticks 2); $ctl shutdown; echo after $(ticks 3); \
         stat -c mode=%a /tmp/api; $ctl shutdown --force; wait $vmm; echo ended=$?; \
         test -e /tmp/api || echo removed; cat /tmp/console",
        run.started()
    )
}

fn controlled(seen: &Seen, _: &GuestTest) -> Result<()> {
    for text in ["state     running", "counting", "cycles"] {
        seen.shows(text)?;
    }
    seen.says_each(&[
        "stands",
        "goes on",
        "counts on",
        "mode=600",
        "ended=0",
        "removed",
    ])?;
    complaints::none(&seen.console)?;
    let (before, after) = (interrupts(seen, "before")?, interrupts(seen, "after")?);
    ensure!(
        after == before + 1,
        "the power button's interrupt: {before} before, {after} after it was pressed"
    );
    Ok(())
}

/// The count in `WORD tick 24: 1 IO-APIC 16-edge ACPI:Ged`.
fn interrupts(seen: &Seen, word: &str) -> Result<u64> {
    let start = format!("{word} tick ");
    let line = seen.console.lines().find(|line| line.starts_with(&start));
    let line = line.with_context(|| format!("no line `{start}`"))?;
    let count = line.split_whitespace().nth(3);
    count
        .with_context(|| format!("no event device: {line}"))?
        .parse()
        .with_context(|| format!("no count: {line}"))
}
