//! A guest that counts, and writes its memory and looks at it, moves from one process to
//! another again and again, also past destinations that do not take it.

use anyhow::{Context, Result, ensure};

use super::super::on_host::Hosted;
use super::super::{GuestTest, Runs, Seen};
use super::{SAY_CLOCK, WATCH_CLOCK, clock_went_on};
use crate::complaints::{self, ASK};
use crate::say;

/// Times that it moves.
const MOVES: usize = 3;

/// What the guest does, until it gets a second vCPU: it copies two MiB of random bytes and
/// compares them, and reads its disk, while perf counts. It prints a line for each time.
const IN_THE_GUEST: &str = "\
    modprobe virtio_blk; dd if=/dev/urandom of=/tmp/piece bs=64k count=32 2>/dev/null; \
    md5sum </tmp/piece >/tmp/sum; md5sum </dev/vda >/tmp/disk; \
    perf stat -a -x, -e cycles -I 200 -o /tmp/counts sleep 1000 & counter=$!; echo up; \
    until [ -e /sys/devices/system/cpu/cpu1 ]; do cp /tmp/piece /tmp/copy; \
      md5sum </tmp/copy | cmp -s - /tmp/sum || echo wrong memory; \
      echo 1 >/proc/sys/vm/drop_caches; md5sum </dev/vda | cmp -s - /tmp/disk || echo wrong disk; \
      echo tick; done; \
    kill $counter; sed s/^/count,/ /tmp/counts; ";

/// The line of the host. `$api` and `$console` are those of the process that has the guest.
const ON_THE_HOST: &str = "\
    word up; api=/tmp/api; console=/tmp/console; \
    more() { m=$(grep -c tick $console); until [ $(grep -c tick $console) -gt $m ]; do sleep 0.05; done; }; \
    next() { rm -f /tmp/in; perfvisor run --incoming socket=/tmp/in --serial file=/tmp/con$1 \
      --api-socket path=/tmp/api$1 $2 & next=$!; until [ -S /tmp/in ]; do sleep 0.1; done; }; \
    migrate() { perfvisor ctl --api-socket $api migrate \"$@\"; }; \
    next 7; kill -STOP $next; migrate --to socket=/tmp/in >/tmp/said 2>&1 & ctl=$!; sleep 2; \
    migrate --cancel; echo cancel=$?; wait $ctl; echo cancelled=$?; tail -n 1 /tmp/said; kill -KILL $next; more; \
    next 8; kill -STOP $next; migrate --to socket=/tmp/in >/tmp/said 2>&1 & ctl=$!; sleep 2; \
    kill -KILL $next; wait $ctl; echo died=$?; tail -n 1 /tmp/said; more; \
    next 9 '--disk path=/tmp/disk'; migrate --to socket=/tmp/in >/tmp/said 2>&1; echo locked=$?; \
    tail -n 1 /tmp/said; wait $next; echo refused=$?; more; \
    for n in $(seq MOVES); do next $n; migrate --to socket=/tmp/in >/tmp/said 2>&1; echo moved=$?; \
      tail -n 1 /tmp/said | sed 's/^/figures: /'; wait $vmm; echo ended=$?; vmm=$next; api=/tmp/api$n; console=/tmp/con$n; more; done; \
    perfvisor ctl --api-socket $api vcpu add 1; \
    until grep -q '^last' $console; do sleep 0.1; done; mv /tmp/console /tmp/con0; ln -s $console /tmp/console; ";

/// The test.
pub(super) fn test() -> GuestTest {
    let run = Hosted {
        flags: "--cpus boot=1,max=2 --disk path=/tmp/disk,readonly=on",
        line: &format!("{SAY_CLOCK}clock first; {IN_THE_GUEST}{ASK}; clock last"),
        ..Hosted::default()
    };
    let line = format!(
        "dd if=/dev/urandom of=/tmp/disk bs=64k count=16 2>/dev/null; {}{WATCH_CLOCK}watch first; {}watch last; \
         wait $vmm; echo status=$?; cat /tmp/con[0-9]",
        run.started(),
        ON_THE_HOST.replace("MOVES", &MOVES.to_string())
    );
    GuestTest {
        runs: Runs::OnHost,
        limit: 240,
        // On a machine at a third of its speed, where the guest stood for up to 1 s, one of
        // its times had no count; this is not understood yet.
        on_request: "migrate",
        ..GuestTest::new("migrate/linux", line, whole)
    }
}

/// The guest stayed where it could not go and moved where it could, and noticed nothing.
fn whole(seen: &Seen, _: &GuestTest) -> Result<()> {
    let lines = |wanted: &str| seen.console.lines().filter(|line| *line == wanted).count();
    let figures = seen.console.lines();
    for line in figures.filter(|line| line.starts_with("figures: ")) {
        say!("{line}");
    }
    ensure!(
        lines("moved=0") == MOVES && lines("ended=8") == MOVES,
        "not every move went well"
    );
    seen.says_each(&[
        "cancel=0",
        "cancelled=1",
        "died=1",
        "locked=1",
        "refused=2",
        "status=0",
    ])?;
    ensure!(
        lines("wrong memory") == 0 && lines("wrong disk") == 0,
        "bytes were lost"
    );
    let counts = counts(&seen.console)?;
    let (first, last) = (counts.first(), counts.last());
    say!("{} counts, from {first:?} to {last:?}", counts.len());
    ensure!(counts.len() > 10, "{} counts", counts.len());
    for pair in counts.windows(2) {
        ensure!(pair[0].0 < pair[1].0, "time goes back: {pair:?}");
    }
    // The guest has one vCPU: no more cycles than 10 GHz in the time since the line before.
    for pair in counts.windows(2) {
        let most = (pair[1].0 - pair[0].0) * 1e10;
        ensure!(pair[1].1 <= most, "too many cycles: {pair:?}");
    }
    // While the guest stands, its clock goes on.
    let empty = counts.iter().filter(|(_, count)| *count == 0.0).count();
    say!("{empty} of {} times count nothing", counts.len());
    ensure!(empty <= MOVES, "{empty} times count nothing");
    complaints::none(&seen.console)?;
    clock_went_on(seen)
}

/// The times of `perf stat -I`, in seconds, and the counts since the time before.
fn counts(console: &str) -> Result<Vec<(f64, f64)>> {
    let lines = console
        .lines()
        .filter_map(|line| line.strip_prefix("count,"));
    let lines = lines.filter(|line| line.contains("cycles"));
    lines
        .map(|line| {
            let mut words = line.split(',');
            let time = words.next().context("no time")?.trim().parse();
            let count = words.next().context("no count")?.trim().parse();
            Ok((time?, count.with_context(|| line.to_owned())?))
        })
        .collect()
}
