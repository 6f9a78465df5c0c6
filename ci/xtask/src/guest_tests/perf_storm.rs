//! Random uses of `perf_event_open(2)` in a guest, with a fixed seed, as a fuzzer of
//! perf makes them (`guest-tests/src/programs/perf_storm.rs`): the guest's kernel has
//! nothing to complain of, and the VMM keeps its size.

use anyhow::{Context, Result, ensure};

use super::hotplug;
use super::on_host::{ENDED, Hosted};
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};

/// A storm.
struct Storm {
    /// The most operations.
    operations: u32,
    /// The most seconds, of the guest's.
    seconds: u32,
}

/// In every run of the tests.
const SHORT: Storm = Storm {
    operations: 600,
    seconds: 30,
};
/// On request: ten minutes.
const LONG: Storm = Storm {
    operations: u32::MAX,
    seconds: 600,
};
/// Operations before the sizes of the VMM are looked at first.
const FIRST: u32 = 200;
/// The guest's own bound of samples a second, of each event: above it a slow CPU does
/// nothing else.
const MOST_SAMPLES: u32 = 100;
/// The most lines that the VMM may log, whatever the guest does for however long.
const MOST_LINES: usize = 100;

/// On a clock, and on a PMU of the host's.
pub(super) fn all() -> Vec<GuestTest> {
    let clock = ("clock", "", "--pmu type=software");
    let host_pmu = ("host-pmu", "core:gp=4", "--pmu type=auto");
    let long = |kind| GuestTest {
        on_request: "perf-storm-long",
        ..row("perf-storm-long", kind, &LONG)
    };
    vec![
        row("perf-storm", clock, &SHORT),
        row("perf-storm", host_pmu, &SHORT),
        long(clock),
        long(host_pmu),
    ]
}

/// vCPU 2 comes and goes where the host has looked and the guest may go on. The guest tells
/// that it has seen the vCPU before the host takes it away again.
fn guest_line(storm: &Storm) -> String {
    let Storm {
        operations,
        seconds,
    } = storm;
    format!(
        "cd /sys/devices/system/cpu; \
         at() {{ echo $1; until [ -d cpu2 ]; do sleep 0.2; done; echo came-$1; while [ -d cpu2 ]; do sleep 0.2; done; }}; \
         echo -1 >/proc/sys/kernel/perf_event_paranoid; \
         echo {MOST_SAMPLES} >/proc/sys/kernel/perf_event_max_sample_rate; at boot; \
         perf_storm 7 {FIRST}; echo first=$?; at warm; \
         perf_storm 20261129 {operations} {seconds}; echo storm=$?; at calm; {ASK}"
    )
}

fn row(
    name: &str,
    (kind, mock_pmu, flags): (&str, &'static str, &str),
    storm: &Storm,
) -> GuestTest {
    let run = Hosted {
        flags: &format!("--cpus boot=2,max=3 {flags} 2>/tmp/log"),
        line: &guest_line(storm),
        ..Hosted::default()
    };
    let line = format!(
        "{}size() {{ echo $1 fds=$(ls /proc/$vmm/fd | wc -l) tasks=$(ls /proc/$vmm/task | wc -l) \
           $(grep VmData /proc/$vmm/status); }}; \
         go() {{ $ctl vcpu add 2; word came-$1; $ctl vcpu remove 2 && echo went; }}; \
         word boot; go boot; word warm; sleep 2; size before; go warm; word calm; sleep 2; size after; go calm; \
         echo === log; cat /tmp/log; echo === end; {ENDED}",
        run.started()
    );
    GuestTest {
        runs: Runs::OnHost,
        mock_pmu,
        limit: 240 + 2 * u64::from(storm.seconds),
        ..GuestTest::new(format!("{name}/{kind}"), line, check)
    }
}

fn check(seen: &Seen, _: &GuestTest) -> Result<()> {
    for text in ["first=0\n", "storm=0\n", "status=0\n"] {
        seen.shows(text)?;
    }
    let storm = opened(&seen.console)?;
    // One in some ten attributes fits; a storm of refusals alone shows nothing.
    ensure!(storm > 20, "the storm has opened {storm} events only");
    hotplug::sizes_stay(seen)?;
    let log = crate::perf::section(&seen.console, "log")?;
    let lines = log.lines().count();
    ensure!(lines <= MOST_LINES, "the VMM has logged {lines} lines");
    complaints::none(&seen.console)
}

/// Events that were opened in the second, the large storm.
fn opened(console: &str) -> Result<u64> {
    let mut lines = console.lines().filter(|l| l.starts_with("operations="));
    let line = lines.next_back().context("no line `operations=`")?;
    let word = line
        .split(' ')
        .find_map(|word| word.strip_prefix("opened="));
    let word = word.with_context(|| format!("no number of events: {line}"))?;
    word.parse().with_context(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_storm_counts() {
        let console = "operations=300 opened=5 refused=9 read=3\n\
            operations=2000 opened=55 refused=90 read=30\n";
        assert_eq!(opened(console).unwrap(), 55);
        assert!(opened("operations=3 opened=x\n").is_err());
    }
}
