//! `perfvisor ctl` and a Linux guest: what it shows while perf counts, that a paused
//! guest stands, and that the power button reaches the guest's kernel.

use anyhow::{Context, Result, ensure};

use super::{GuestTest, Runs, Seen};

/// Every test of the control API.
pub(super) fn all() -> Vec<GuestTest> {
    vec![GuestTest {
        runs: Runs::OnHost,
        ..GuestTest::new("control", LINE, controlled)
    }]
}

/// The guest spins under `perf stat` and prints a line a second, with the count of its
/// event device's interrupt.
const LINE: &str = "perfvisor run --kernel {vmlinuz-6.12} --initramfs {guest.cpio} \
       --memory size=256M --serial file=/tmp/console --api-socket path=/tmp/api \
       --cmdline 'console=ttyS0 quiet perfvisor.run=\"perf stat -e cycles spin 900000000000 & \
                  while sleep 1; do echo tick $(grep Ged /proc/interrupts); done\"' & \
     vmm=$!; ctl='perfvisor ctl --api-socket /tmp/api'; \
     until grep -q ^tick /tmp/console; do sleep 1; done; sleep 3; \
     $ctl info && $ctl pmu && $ctl pause; sleep 1; \
     $ctl --json pmu >/tmp/first; cp /tmp/console /tmp/before; sleep 4; \
     $ctl --json pmu >/tmp/second; cmp /tmp/first /tmp/second && cmp /tmp/console /tmp/before && echo stands; \
     $ctl resume; sleep 4; cmp -s /tmp/console /tmp/before || echo goes on; \
     $ctl --json pmu >/tmp/third; cmp -s /tmp/first /tmp/third || echo counts on; \
     echo before $(tail -n 1 /tmp/console); $ctl shutdown; sleep 4; echo after $(tail -n 1 /tmp/console); \
     stat -c mode=%a /tmp/api; $ctl shutdown --force; wait $vmm; echo ended=$?; \
     test -e /tmp/api || echo removed";

fn controlled(seen: &Seen, _: &GuestTest) -> Result<()> {
    for text in [
        "state     running",
        "counting",
        "cycles",
        "stands",
        "goes on",
        "counts on",
        "mode=600",
        "ended=0",
        "removed",
    ] {
        seen.shows(text)?;
    }
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
