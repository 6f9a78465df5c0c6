//! A Linux guest that is saved and restored again and again while perf samples and counts
//! in it.

mod disks;
mod moves;

use anyhow::{Context, Result, ensure};

use super::on_host::Hosted;
use super::{Clock, GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::{perf, say};

/// Instructions of the guest's loop.
const LOOP: u64 = 400_000_000;

/// A guest that counts by a host's counters is saved now and then; by the wall's clock, on
/// which what a loop counts is another number each time. On request, by each kind
/// of counters and by a clock that is exact, it is saved so often that it hardly runs in
/// between.
pub(super) fn all() -> Vec<GuestTest> {
    const ON_REQUEST: &str = "snapshot-often";
    let often = |test| GuestTest {
        on_request: ON_REQUEST,
        ..test
    };
    let by_instructions = |test| GuestTest {
        clock: Clock::Instructions,
        ..often(test)
    };
    vec![
        by_the_wall("snapshot/host-pmu", 4),
        disks::test(),
        moves::test(),
        by_instructions(Row::HOST_PMU.test("snapshot-often/host-pmu", 20, within::<1>)),
        by_instructions(Row::CLOCK.test("snapshot-often/clock", 20, within::<5>)),
    ]
}

/// A guest that counts by a host's counters, as often saved and restored as there are `lives`.
pub(super) fn by_the_wall(name: &str, lives: u32) -> GuestTest {
    let row = Row {
        period: 20_000_000,
        ..Row::HOST_PMU
    };
    row.test(name, lives, each_pmi_is_a_sample)
}

/// What counts in a guest.
struct Row {
    mock_pmu: &'static str,
    flags: &'static str,
    event: &'static str,
    /// Events between two samples.
    period: u64,
}

impl Row {
    const CLOCK: Self = Self {
        mock_pmu: "",
        flags: "",
        event: "cycles",
        period: 1_000_000,
    };
    const HOST_PMU: Self = Self {
        mock_pmu: "core:gp=4",
        flags: "--pmu type=auto,model=intel-v2",
        event: "instructions",
        period: 1_000_000,
    };

    /// The guest first counts the loop without being touched. Then it samples it, and is
    /// saved, ended and restored as often as there are `lives`; it prints a line each 20 ms
    /// of its time, and a life has at least one. The host prints what it has come to, which is
    /// its progress.
    fn test(&self, name: &str, lives: u32, check: super::Check) -> GuestTest {
        let (event, period) = (self.event, self.period);
        let run = Hosted {
            flags: self.flags,
            line: &format!(
                "{SAY_CLOCK}echo up; clock first; perf stat -x, -e {event} spin {LOOP} 2>&1 | sed s/^/plain,/; \
                 (echo echo spinning; echo exec spin {LOOP}) >/tmp/loop; \
                 perf record -q -e {event} -c {period} -o /tmp/data \
                   perf stat -x, -e {event} -o /tmp/counts sh /tmp/loop & record=$!; \
                 while kill -0 $record; do echo tick; sleep 0.02; done 2>/dev/null; wait $record; \
                 echo recorded=$?; sed s/^/lives,/ /tmp/counts; \
                 echo samples=$(perf script -i /tmp/data 2>/dev/null | grep -c {event}); \
                 echo lost=$(perf report -i /tmp/data --stats 2>/dev/null | grep -c LOST); \
                 {ASK}; clock last"
            ),
            ..Hosted::default()
        };
        let line = format!(
            "{}{WATCH_CLOCK}watch last & watch=$!; word up; echo up; watch first; word plain; echo counted; word spinning; echo began; life() {{ echo life $1; before=$(grep -c tick /tmp/console); \
               until [ $(grep -c tick /tmp/console) -gt $before ]; do sleep 0.01; done; \
               $ctl snapshot /tmp/life$1 --stop; wait $vmm; echo ended=$?; du -sk /tmp/life$1; \
               perfvisor run --restore /tmp/life$1 --api-socket /tmp/api & vmm=$!; \
               until $ctl info >/tmp/info; do sleep 0.01; done 2>/dev/null; rm -rf /tmp/life$1; \
               grep -c ^recorded /tmp/console; }}; \
             for n in $(seq {lives}); do life $n; done; echo lives={lives}; \
             wait $watch; wait $vmm; echo status=$?; cat /tmp/console",
            run.started()
        );
        GuestTest {
            runs: Runs::OnHost,
            mock_pmu: self.mock_pmu,
            limit: 200,
            ..GuestTest::new(name, line, check)
        }
    }
}

/// In the guest: `clock W` prints its clock again and again, behind the word W.
const SAY_CLOCK: &str = "clock() { for n in 1 2 3 4 5 6 7 8 9; do echo $1 $(date +%s); sleep 0.2; done; \
     echo $1 end; }; ";

/// `watch W` prints the seconds between the host's clock and what the guest says behind the
/// word W: the least, as a line of the guest may come late, and the host may look late.
const WATCH_CLOCK: &str = "watch() { word \"$1 [0-9]\"; least=999; \
     until grep -q \"^$1 end\" /tmp/console; do \
       clock=$(grep \"^$1 [0-9]\" /tmp/console | tail -n 1); off=$(($(date +%s) - ${clock#* })); \
       [ $off -lt $least ] && least=$off; sleep 0.1; done; \
     echo clock-off-$1=${least#-}; }; ";

/// The guest's clock is as right at the end as it was at first. A guest that boots on a busy
/// host is late from the start: its kernel counts ticks until it has found its clock.
fn clock_went_on(seen: &Seen) -> Result<()> {
    let (first, last) = (
        seen.number("clock-off-first=")?,
        seen.number("clock-off-last=")?,
    );
    say!("the guest's clock is off by {first} s at first and {last} s at the end");
    ensure!(
        first.abs_diff(last) <= 1,
        "the guest's clock was off by {first} s, and is by {last} s"
    );
    Ok(())
}

/// Every life ended well, and the guest has noticed none of it: its clock is right, and its
/// kernel complains of nothing. Gives the number of its samples, of which none is lost.
fn went_on(seen: &Seen) -> Result<u64> {
    let ended = seen.console.lines().filter(|line| *line == "ended=0");
    let (ended, lives) = (ended.count() as u64, seen.number("lives=")?);
    ensure!(ended == lives, "{ended} of {lives} lives ended well");
    let amid = seen.console.lines().filter(|line| *line == "0").count() as u64;
    ensure!(
        amid == lives,
        "the loop had ended after {amid} of {lives} lives"
    );
    seen.says_each(&["recorded=0", "lost=0", "status=0"])?;
    complaints::none(&seen.console)?;
    clock_went_on(seen)?;
    seen.number("samples=")
}

/// Each PMI of all lives is a sample.
fn each_pmi_is_a_sample(seen: &Seen, _: &GuestTest) -> Result<()> {
    let samples = went_on(seen)?;
    let (_, after) = seen
        .vmm
        .rsplit_once("pmis_injected=")
        .context("no totals")?;
    let pmis: u64 = after.split(' ').next().unwrap_or_default().parse()?;
    say!("{samples} samples of {pmis} PMIs");
    // The last may come when perf has stopped the event.
    ensure!(
        samples > 0 && (samples..=samples + 1).contains(&pmis),
        "{samples} samples of {pmis} PMIs"
    );
    Ok(())
}

/// The same, and the count is that of a loop that nobody touched within so many
/// thousandths.
fn within<const THOUSANDTHS: u32>(seen: &Seen, test: &GuestTest) -> Result<()> {
    each_pmi_is_a_sample(seen, test)?;
    let (plain, count) = (counted(seen, "plain,")?, counted(seen, "lives,")?);
    let off = (count / plain - 1.0) * 1000.0;
    say!("{count} for {plain}: {off:+.2} thousandths");
    ensure!(
        off.abs() <= f64::from(THOUSANDTHS),
        "the count is off by {off} thousandths"
    );
    Ok(())
}

/// The count of perf's line that begins with this word.
fn counted(seen: &Seen, word: &str) -> Result<f64> {
    let mut lines = seen
        .console
        .lines()
        .filter_map(|line| line.strip_prefix(word));
    let line = lines.find(|line| line.contains(",,"));
    let line = line.with_context(|| format!("no count behind `{word}`"))?;
    let counts = ["cycles", "instructions"].map(|event| perf::counts(line, event));
    let count = counts.iter().flatten().next().copied();
    count.with_context(|| format!("no count: {line}"))
}
