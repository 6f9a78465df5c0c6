//! No event of `perf stat`, `-d` and `-d -d` is shown as a number that nobody counted: a
//! default guest sees the AMD PMU where the host counts all of them, and `<not
//! supported>` where it does not; what an operator forces is named.

use anyhow::{Context, Result, ensure};

use super::on_host::{Hosted, with_pmu};
use super::table::KERNELS;
use super::{Clock, GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

/// The host that these rows share with others. They load its PMU anew with other words.
const MOCK_PMU: &str = "core:gp=4";

/// The events that these commands open, and one in how many ticks each is on the mock PMU
/// (resources/mock-pmu/README.md), as a power of two.
pub(super) const RATES: [(&str, i32); 17] = [
    ("cycles", 0),
    ("instructions", 0),
    ("branches", 3),
    ("branch-misses", 8),
    ("cache-references", 6),
    ("cache-misses", 10),
    ("stalled-cycles-frontend", 4),
    ("stalled-cycles-backend", 5),
    ("L1-dcache-loads", 2),
    ("L1-dcache-load-misses", 7),
    ("L1-dcache-prefetches", 9),
    ("L1-icache-loads", 1),
    ("L1-icache-load-misses", 11),
    ("dTLB-loads", 12),
    ("dTLB-load-misses", 13),
    ("iTLB-loads", 14),
    ("iTLB-load-misses", 15),
];

/// What is counted from outside meanwhile: as many monitors as there may be, in two rows.
const OUTSIDE: [[&str; 8]; 2] = [
    [
        "cycles",
        "instructions",
        "branches",
        "branch-misses",
        "L1-icache-loads",
        "L1-icache-load-misses",
        "iTLB-loads",
        "iTLB-load-misses",
    ],
    [
        "cycles",
        "stalled-cycles-frontend",
        "stalled-cycles-backend",
        "L1-dcache-loads",
        "L1-dcache-load-misses",
        "L1-dcache-prefetches",
        "dTLB-loads",
        "dTLB-load-misses",
    ],
];

/// Every test of zeros.
pub(super) fn all() -> Vec<GuestTest> {
    let row = |name: &str, line, check| GuestTest {
        mock_pmu: MOCK_PMU,
        clock: Clock::Instructions,
        runs: Runs::OnHost,
        limit: 200,
        ..GuestTest::new(format!("zeros/{name}"), line, check)
    };
    let counted = |(kernel, outside): (&'static str, [&str; 8])| {
        row(
            &format!("counted/guest-{kernel}"),
            counted(kernel, &outside),
            amd_counts,
        )
    };
    let mut all: Vec<_> = KERNELS.into_iter().zip(OUTSIDE).map(counted).collect();
    all.push(row("missing", missing(), intel_says_so));
    all
}

/// A default guest on a host of Intel's.
pub(super) fn of_intel() -> GuestTest {
    let line = counted_by("6.12", 20_000_000, &OUTSIDE_INTEL);
    GuestTest::new("zeros", line, intel_counts)
}

/// What is counted from outside of an Intel guest: all that it can count.
const OUTSIDE_INTEL: [&str; 6] = [
    "cycles",
    "instructions",
    "branches",
    "branch-misses",
    "cache-references",
    "cache-misses",
];

/// In the guest: the three commands, each around a busy loop of so many instructions.
fn stats(instructions: u32) -> String {
    format!(
        "for d in plain -d -dd; do echo === stat $d; \
         perf stat -x, ${{d##plain}} spin {instructions} 2>&1; done"
    )
}
/// Instructions on a host that is fast enough.
const MANY: u32 = 100_000_000;

/// A default guest on a host that has every event, and enough counters for the guest's and
/// for those who look from outside.
fn counted(kernel: &'static str, outside: &[&str]) -> String {
    counted_by(kernel, MANY, outside)
}

fn counted_by(kernel: &'static str, instructions: u32, outside: &[&str]) -> String {
    let run = Hosted {
        kernel,
        line: &format!("{}; {ASK}; sleep 600", stats(instructions)),
        ..Hosted::default()
    };
    format!(
        "{}{}until $ctl info >/dev/null 2>&1; do sleep 0.2; done; \
         for event in {}; do $ctl monitor add $event >/dev/null; done; \
         word '=== end'; $ctl pause; echo '=== outside'; $ctl monitor list; \
         $ctl shutdown --force; wait $vmm; echo status=$?; echo '=== console'; cat /tmp/console",
        with_pmu("core:gp=16"),
        run.started(),
        outside.join(" ")
    )
}

/// The lines of `perf stat -x,` that are of hardware events: count, event, percentage of
/// the time that it ran.
fn lines(stat: &str) -> impl Iterator<Item = (&str, &str, f64)> {
    stat.lines().filter_map(|line| {
        let fields: Vec<_> = line.trim_end().split(',').collect();
        let (count, event, percent) = (*fields.first()?, *fields.get(2)?, fields.get(4)?);
        let known = RATES.iter().any(|(name, _)| *name == event) || event.contains("LLC");
        Some((count, event, percent.parse().ok()?)).filter(|_| known)
    })
}

/// A count that `perf stat` shows.
#[derive(Debug, PartialEq)]
struct Counted<'a> {
    event: &'a str,
    count: f64,
    /// Of the time.
    percent: f64,
}

/// The counts of one of the commands, by event. A 0 that ran, or a line that is neither a
/// count nor says that there is none, is an error.
fn counts<'a>(seen: &'a Seen, command: &str) -> Result<Vec<Counted<'a>>> {
    let stat = perf::section(&seen.console, &format!("stat {command}"))?;
    let mut counts = Vec::new();
    for (count, event, percent) in lines(stat) {
        if count.starts_with('<') {
            ensure!(count == "<not supported>", "{event} is {count}");
            continue;
        }
        let count: f64 = count
            .parse()
            .with_context(|| format!("{event} is {count}"))?;
        ensure!(count > 0.0 || percent == 0.0, "{event} is 0 at {percent} %");
        counts.push(Counted {
            event,
            count,
            percent,
        });
    }
    ensure!(
        !counts.is_empty(),
        "perf stat {command} counted nothing: {stat}"
    );
    Ok(counts)
}

fn amd_counts(seen: &Seen, _: &GuestTest) -> Result<()> {
    let model = " model=amd-v2 ";
    ensure!(seen.vmm.contains(model), "no {model}: {}", seen.vmm);
    let compared = true_counts(seen, [("plain", 5), ("-d", 7), ("-dd", 13)])?;
    ensure!(compared >= 9, "{compared} were compared");
    Ok(())
}

/// The same for a guest whose model has no events of caches and TLBs: it says so.
fn intel_counts(seen: &Seen, _: &GuestTest) -> Result<()> {
    let model = " model=intel-";
    ensure!(seen.vmm.contains(model), "no {model}: {}", seen.vmm);
    let compared = true_counts(seen, [("plain", 4), ("-d", 4), ("-dd", 4)])?;
    ensure!(compared == 12, "{compared} were compared");
    for command in ["-d", "-dd"] {
        let stat = perf::section(&seen.console, &format!("stat {command}"))?;
        let refused = "<not supported>,,L1-dcache-loads";
        ensure!(stat.contains(refused), "no {refused}: {stat}");
    }
    Ok(())
}

/// Each count of the three commands is as many as the mock PMU has had ticks for, and as
/// the host counted from outside. Each command counts so many events at least. Returns how
/// many counts were compared with those from outside.
fn true_counts(seen: &Seen, commands: [(&str, usize); 3]) -> Result<usize> {
    /// What may lie between the truth and a count that the guest's kernel scaled, which ran
    /// for some ten of that kernel's turns; and what was attached a little later.
    const NEAR: f64 = 0.12;
    /// The same for an exact one.
    const EXACT: f64 = 0.005;
    ensure!(!seen.vmm.contains("reads 0"), "{}", seen.vmm);
    complaints::none(&seen.console)?;
    let outside = monitors(perf::section(&seen.console, "outside")?)?;
    let out = |event: &str| {
        let found = outside.iter().find(|(name, _)| *name == event);
        found.map(|(_, count)| *count)
    };
    let all_cycles = out("cycles").context("no cycles from outside")?;
    let mut compared = 0;
    for (command, least) in commands {
        let counts = counts(seen, command)?;
        ensure!(counts.len() >= least, "perf stat {command}: {counts:?}");
        let cycles = counts.iter().find(|counted| counted.event == "cycles");
        let cycles = cycles.context("perf stat counted no cycles")?.count;
        let near = if counts.iter().all(|counted| counted.percent > 99.0) {
            EXACT
        } else {
            NEAR
        };
        for Counted { event, count, .. } in &counts {
            let known = RATES.iter().find(|(name, _)| name == event);
            let (_, rate) = known.context("known")?;
            let off = count * 2_f64.powi(*rate) / cycles - 1.0;
            crate::say!("{event}: {count}, {:.2} % off", off * 100.0);
            ensure!(off.abs() < near, "{event}: {count} beside {cycles} cycles");
            if let Some(all) = out(event) {
                let off = count / cycles / (all / all_cycles) - 1.0;
                ensure!(off.abs() < NEAR, "{event}: {count}, from outside {all}");
                ensure!(*count <= all, "{event}: {count}, from outside {all}");
                compared += 1;
            }
        }
    }
    ensure!(!seen.vmm.contains("uncounted="), "{}", seen.vmm);
    seen.says("status=0")?;
    Ok(compared)
}

/// The counts of `ctl monitor list`, by event.
fn monitors(list: &str) -> Result<Vec<(&str, f64)>> {
    let mut all = Vec::new();
    for one in list.split("monitor ").skip(1) {
        let (head, lines) = one.split_once('\n').context("a monitor is two lines")?;
        let (_, event) = head.split_once(": ").context("a monitor has an event")?;
        let event = event.split(',').next().unwrap_or_default();
        // vCPU, state, two times with their unit, count, scaled count.
        let words = lines
            .lines()
            .nth(1)
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        let count = words.context("a monitor counts")?.get(6).copied();
        all.push((event, count.context("a monitor has a count")?.parse()?));
    }
    Ok(all)
}

/// A host without the events of caches: the default guest, then one that is made to be
/// AMD's, and one that may count architectural events alone.
fn missing() -> String {
    let default = Hosted {
        line: &format!("{}; {ASK}", stats(MANY)),
        ..Hosted::default()
    };
    let forced = Hosted {
        flags: "--pmu model=amd-v2",
        line: "perf stat -x, -e cycles,L1-dcache-loads,r1ff spin 100000000 2>&1; echo counted; sleep 600",
        ..Hosted::default()
    };
    format!(
        "{}{}wait $vmm; cat /tmp/console; echo '=== forced' >&2; echo '=== forced'; {}word counted; \
         echo '=== ctl'; $ctl pmu; $ctl info; echo '=== console'; $ctl shutdown --force; wait $vmm; \
         echo status=$?; cat /tmp/console",
        with_pmu("core:gp=4:cache=off"),
        default.started(),
        forced.started()
    )
}

fn intel_says_so(seen: &Seen, _: &GuestTest) -> Result<()> {
    let (default, forced) = seen
        .vmm
        .split_once("=== forced")
        .context("there was no second guest")?;
    let why =
        "model intel-v2 (an AMD guest takes stalled-cycles-frontend, stalled-cycles-backend, L1-";
    ensure!(default.contains(why), "no {why}: {default}");
    ensure!(!default.contains("reads 0"), "{default}");
    for command in ["plain", "-d", "-dd"] {
        let events: Vec<_> = counts(seen, command)?
            .into_iter()
            .map(|counted| counted.event)
            .collect();
        ensure!(
            events.contains(&"cycles") && events.contains(&"branch-misses"),
            "{events:?}"
        );
        let named = |event: &&str| event.contains("cache") || event.contains("TLB");
        ensure!(!events.iter().any(named), "perf stat {command}: {events:?}");
    }
    ensure!(!default.contains("uncounted="), "{default}");
    // The guest that is made to be AMD's cannot be told, and its operator is.
    let warning =
        "nothing counts stalled-cycles-frontend, stalled-cycles-backend, L1-dcache-loads,";
    ensure!(forced.contains(warning), "no {warning}: {forced}");
    let ctl = perf::section(&seen.console, "ctl")?;
    ensure!(ctl.contains("nothing counts L1-dcache-loads ("), "{ctl}");
    ensure!(ctl.contains("uncounted L1-dcache-loads ("), "{ctl}");
    ensure!(forced.contains(" uncounted=L1-dcache-loads:"), "{forced}");
    ensure!(forced.contains(",r1ff:"), "{forced}");
    seen.says("status=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(stat: &str) -> Seen {
        Seen {
            console: format!("=== stat -d\n{stat}\n=== end\n"),
            ..Seen::default()
        }
    }

    #[test]
    fn a_zero_is_found_and_what_is_not_supported_is_none() {
        let good = "7.1,msec,task-clock,7100000,100.00,1,CPUs utilized\n\
                    12,,cycles,7100000,50.00,,\n\
                    <not supported>,,LLC-loads,0,100.00,,\n\
                    0,,branches,0,0.00,,";
        let found = seen(good);
        let found: Vec<_> = counts(&found, "-d").unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|c| (c.event, c.count, c.percent))
            .collect();
        assert_eq!(found, [("cycles", 12.0, 50.0), ("branches", 0.0, 0.0)]);
        for bad in [
            "0,,branches,7100000,50.00,,",
            "<not counted>,,cycles,0,0.00,,",
        ] {
            let found = seen(&format!("{good}\n{bad}"));
            assert!(counts(&found, "-d").is_err(), "{bad}");
        }
    }

    #[test]
    fn monitors_are_read() {
        let list = "monitor 0: cycles, flexible, all vCPUs\n  vCPU  state    enabled  running  count  scaled\n  \
                    0     counting  4 ns     4 ns     10     10\n\
                    monitor 1: L1-dcache-loads, flexible, all vCPUs\n  vCPU\n  0  counting  4 ns  4 ns  3  3\n";
        assert_eq!(
            monitors(list).unwrap(),
            [("cycles", 10.0), ("L1-dcache-loads", 3.0)]
        );
    }
}
