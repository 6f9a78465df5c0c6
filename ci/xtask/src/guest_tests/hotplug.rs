//! How a guest sees its vCPUs' places, and vCPUs that come and go under perf.
//!
//! In the rows of hot-plug a loop in the guest starts every vCPU that has come, as
//! udev would, and vCPU 3 coming is the word to end.

use anyhow::{Context, Result, ensure};

use super::on_host::{ENDED, Hosted};
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

/// How many operations a storm has; `STORM=1000 cargo xtask test hotplug/storm` asks
/// for more.
const OPERATIONS: u32 = 20;

/// Every test of topology and hot-plug.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all: Vec<_> = [
        topology(&CORES_IN_DIES, "intel-v2", "6.1"),
        topology(&CORES_IN_DIES, "amd-core", "6.12").among_every_pair(),
        topology(&THREADS, "intel-v2", "6.12").among_every_pair(),
        topology(&THREADS, "amd-core", "6.1"),
        topology(&CLUSTERS, "intel-v2", "6.12"),
    ]
    .into();
    all.extend([
        storm("6.1", "intel-v2").among_every_pair(),
        storm("6.12", "amd-core"),
        during_record(),
        host_events(),
    ]);
    all
}

/// A topology of four vCPUs, and what each shows of it.
struct Shape {
    flag: &'static str,
    /// Who shares the package, the die, the cluster, the core and the last cache.
    lists: [[&'static str; 5]; 4],
    cores: [u32; 4],
}

const CORES_IN_DIES: Shape = Shape {
    flag: "1:2:2:1",
    lists: [
        ["0-3", "0-1", "0", "0", "0-1"],
        ["0-3", "0-1", "1", "1", "0-1"],
        ["0-3", "2-3", "2", "2", "2-3"],
        ["0-3", "2-3", "3", "3", "2-3"],
    ],
    cores: [0, 1, 2, 3],
};

const THREADS: Shape = Shape {
    flag: "2:2:1:1",
    lists: [
        ["0-3", "0-3", "0-1", "0-1", "0-3"],
        ["0-3", "0-3", "0-1", "0-1", "0-3"],
        ["0-3", "0-3", "2-3", "2-3", "0-3"],
        ["0-3", "0-3", "2-3", "2-3", "0-3"],
    ],
    cores: [0, 0, 1, 1],
};

const CLUSTERS: Shape = Shape {
    flag: "1:2:2:1:1",
    lists: [
        ["0-3", "0-3", "0-1", "0", "0-3"],
        ["0-3", "0-3", "0-1", "1", "0-3"],
        ["0-3", "0-3", "2-3", "2", "0-3"],
        ["0-3", "0-3", "2-3", "3", "0-3"],
    ],
    cores: [0, 1, 2, 3],
};

/// Guest-contract §7.5, rule G-705: sysfs shows what was asked for.
fn topology(shape: &'static Shape, model: &'static str, guest_kernel: &'static str) -> GuestTest {
    const LINE: &str = "cd /sys/devices/system/cpu; for n in 0 1 2 3; do cd cpu$n/topology; \
         echo cpu$n package=$(cat physical_package_id) core=$(cat core_id) \
         $(cat package_cpus_list) $(cat die_cpus_list) \
         $(cat cluster_cpus_list) $(cat core_cpus_list) \
         $(cat ../cache/index3/shared_cpu_list); cd ../..; done";
    let flags = match (shape.flag, model) {
        ("1:2:2:1", "intel-v2") => {
            "--cpus boot=4,topology=1:2:2:1 --pmu type=software,model=intel-v2"
        }
        ("1:2:2:1:1", _) => "--cpus boot=4,topology=1:2:2:1:1 --pmu type=software,model=intel-v2",
        ("1:2:2:1", _) => "--cpus boot=4,topology=1:2:2:1 --pmu type=software,model=amd-core",
        (_, "intel-v2") => "--cpus boot=4,topology=2:2:1:1 --pmu type=software,model=intel-v2",
        _ => "--cpus boot=4,topology=2:2:1:1 --pmu type=software,model=amd-core",
    };
    GuestTest {
        guest_kernel,
        vmm: flags,
        ..GuestTest::new(
            format!("topology/{}/{model}/guest-{guest_kernel}", shape.flag),
            LINE,
            shows_shape,
        )
    }
}

fn shows_shape(seen: &Seen, test: &GuestTest) -> Result<()> {
    seen.succeeded()?;
    let shapes = [&CORES_IN_DIES, &THREADS, &CLUSTERS];
    let of = |s: &&Shape| test.vmm.contains(&format!("topology={} ", s.flag));
    let shape = shapes.into_iter().find(of);
    let shape = shape.context("the test is of no shape")?;
    for (cpu, (lists, core)) in shape.lists.iter().zip(shape.cores).enumerate() {
        let lists = lists.join(" ");
        seen.says(&format!("cpu{cpu} package=0 core={core} {lists}"))?;
    }
    Ok(())
}

/// In the guest: starts every vCPU that comes, as udev would, in the folder of the CPUs.
/// One that is gone again before that is no news, in the middle of other lines least of all.
pub(super) const UDEV: &str = "cd /sys/devices/system/cpu; \
     while sleep 0.1; do for f in cpu*/online; do grep -qs 0 $f && echo 1 >$f; done; done 2>/dev/null & ";

/// A guest that runs `line` beside [`UDEV`], and has said `ready`.
fn guest(kernel: &str, flags: &str, line: &str) -> String {
    let run = Hosted {
        kernel,
        flags,
        line: &format!("{UDEV}{line}"),
        ..Hosted::default()
    };
    format!("{}word ready; ", run.started())
}

/// The end of the guest's line: waits for the word, which is vCPU 3, and its start, ends
/// the load, and says what was. What perf still prints comes before that.
fn ending() -> String {
    format!(
        "until [ -d cpu3 ]; do sleep 0.2; done; kill $load; \
         while pidof perf >/dev/null; do sleep 0.2; done; sleep 3; \
         n=0; until grep -q 3 online || [ $((n += 1)) -gt 100 ]; do sleep 0.2; done; \
         echo online=$(cat online); {ASK}"
    )
}

/// How many operations a storm is to have.
pub(super) fn storm_operations() -> u32 {
    let wanted = std::env::var("STORM").ok().and_then(|n| n.parse().ok());
    wanted.unwrap_or(OPERATIONS)
}

/// vCPUs 1 and 2 come and go at random while `perf stat -a` runs over and over. Nothing
/// is left of those that went: the VMM has as many descriptors and threads, and as much
/// memory of its own, as when it had done each once.
fn storm(guest_kernel: &'static str, model: &str) -> GuestTest {
    let operations = storm_operations();
    let counting =
        "while :; do perf stat -a -x, -e cycles sleep 1 2>&1; done & load=$!; echo ready; ";
    let run = guest(
        guest_kernel,
        &format!("--cpus boot=1,max=4 --pmu type=software,model={model}"),
        &format!("{counting}{}", ending()),
    );
    let line = format!(
        "{run} size() {{ echo $1 fds=$(ls /proc/$vmm/fd | wc -l) tasks=$(ls /proc/$vmm/task | wc -l) \
           $(grep VmData /proc/$vmm/status); }}; \
         for c in 1 2; do $ctl vcpu add $c; done; sleep 2; \
         for c in 1 2; do $ctl vcpu remove $c; done; sleep 1; size before; \
         t1=0; t2=0; r=1; n=0; failed=0; \
         while [ $n -lt {operations} ]; do n=$((n+1)); \
           r=$(((r*1103515245+12345) % 2147483648)); c=$((r/65536 % 2 + 1)); \
           if eval [ \\$t$c = 0 ]; then $ctl vcpu add $c >/dev/null; else $ctl vcpu remove $c >/dev/null; fi || failed=$((failed+1)); \
           eval \"t$c=\\$((1-t$c))\"; sleep 0.$((r/65536/2 % 6)); [ $((n % 20)) != 0 ] || echo operation $n; done; \
         for c in 1 2; do if eval [ \\$t$c = 1 ]; then $ctl vcpu remove $c; fi; done; sleep 1; size after; \
         echo done=$n failed=$failed; \
         $ctl vcpu remove 0; $ctl vcpu remove 1; $ctl vcpu add 4; $ctl vcpu add 3; {ENDED}"
    );
    GuestTest {
        runs: Runs::OnHost,
        host_kernel: guest_kernel,
        guest_kernel,
        limit: 120 + u64::from(operations) * 2,
        ..GuestTest::new(
            format!("hotplug/storm/guest-{guest_kernel}"),
            line,
            nothing_is_left,
        )
    }
}

fn nothing_is_left(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.shows(" failed=0\n")?;
    seen.says("status=0")?;
    seen.shows("online=0,3\n")?;
    ensure!(
        perf::counts(&seen.console, "cycles")
            .iter()
            .any(|&n| n > 0.0),
        "perf stat -a has counted nothing"
    );
    for refusal in ["boot CPU", "not plugged in", "accepted: 0 to 3"] {
        ensure!(seen.vmm.contains(refusal), "nobody said `{refusal}`");
    }
    sizes_stay(seen)?;
    complaints::none(&seen.console)
}

/// The VMM has as many descriptors and threads after a storm as before it, and as
/// much memory.
pub(super) fn sizes_stay(seen: &Seen) -> Result<()> {
    /// A heap grows in steps of 132 KiB.
    const KIB: u64 = 1024;
    let ([fds, tasks, data], after) = (sizes(seen, "before")?, sizes(seen, "after")?);
    crate::say!("before {fds} {tasks} {data}, after {after:?}");
    ensure!(after[0] == fds, "{fds} descriptors, then {}", after[0]);
    ensure!(after[1] == tasks, "{tasks} threads, then {}", after[1]);
    ensure!(after[2] <= data + KIB, "{data} KiB, then {}", after[2]);
    Ok(())
}

/// Descriptors, threads and KiB of `WORD fds=1 tasks=2 VmData: 3 kB`.
fn sizes(seen: &Seen, word: &str) -> Result<[u64; 3]> {
    let start = format!("{word} fds=");
    let line = seen.console.lines().find(|line| line.starts_with(&start));
    let line = line.with_context(|| format!("no line `{start}`"))?;
    let numbers = line.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|n| n.parse().ok()).collect();
    let numbers: Option<[u64; 3]> = numbers.try_into().ok();
    numbers.with_context(|| format!("three numbers are due: {line}"))
}

/// Shell functions of the host: `total` prints how many overflows there were so far,
/// `more` waits for 10 more of them, and `gone N` removes vCPU N, however long the guest
/// takes: one that let its time pass may still let the vCPU go, and is asked again.
const RECORDING: &str = "total() { $ctl info --json | grep -o 'overflows.:[0-9]*' | cut -d: -f2; }; \
     more() { due=$(($(total) + 10)); until [ $(total) -ge $due ]; do sleep 1; done; }; \
     gone() { until $ctl vcpu list | grep -q \"vCPU $1: not plugged in\"; do $ctl vcpu remove $1; done; }; ";

/// What a vCPU did before it left is part of every total, once.
fn totals_are_kept(seen: &Seen) -> Result<()> {
    let number = |text: &str| text.parse::<u64>().context("a total is due");
    let lines = seen.console.lines();
    let told: Vec<_> = lines.filter_map(|l| l.strip_prefix("overflows=")).collect();
    let [with, without] = told[..] else {
        anyhow::bail!("two totals are due: {told:?}");
    };
    let (with, without) = (number(with)?, number(without)?);
    let last = seen.vmm.split_once("overflows=").map(|(_, rest)| rest);
    let last = last.and_then(|rest| rest.split(' ').next());
    let last = number(last.unwrap_or_default())?;
    crate::say!("overflows: {with} with three vCPUs, {without} with one, {last} at the end");
    ensure!(
        0 < with && with <= without && without <= last,
        "overflows went back: {with}, {without}, {last}"
    );
    Ok(())
}

/// vCPUs leave while `perf record -a` samples on them, which are busy, and the last but
/// one goes. The record ends when vCPU 1 has left, however long that takes.
fn during_record() -> GuestTest {
    let run = guest(
        "6.12",
        "--cpus boot=3,max=4 --pmu type=software",
        &format!(
            "load=; for n in 1 2 3; do while :; do :; done & load=$load\\ $!; done; (echo echo recording; \
             echo while [ -d /sys/devices/system/cpu/cpu1 ] \\; do sleep 0.2 \\; done) >/tmp/load; echo ready; \
             perf record -B -N -a -e cycles -F 100 -o /tmp/perf.data sh /tmp/load 2>&1; echo record=$?; \
             echo report=$(perf report -i /tmp/perf.data --stdio 2>/dev/null | grep -c %); {}",
            ending()
        ),
    );
    let line = format!(
        "{run}{RECORDING} word recording; more; echo overflows=$(total); gone 2; more; gone 1; \
         $ctl info; word report; echo overflows=$(total); $ctl vcpu add 3; {ENDED}"
    );
    let check = |seen: &Seen, _: &GuestTest| {
        totals_are_kept(seen)?;
        for text in [
            "vCPUs     1 of 4",
            "record=0\n",
            "status=0\n",
            "online=0,3\n",
        ] {
            seen.shows(text)?;
        }
        ensure!(seen.number("report=")? > 0, "the report is empty");
        ensure!(!seen.vmm.contains("perfvisor: vCPU"), "{}", seen.vmm);
        complaints::none(&seen.console)
    };
    GuestTest {
        runs: Runs::OnHost,
        ..GuestTest::new("hotplug/during-record", line, check)
    }
}

/// On a host with a PMU: the events of a vCPU that goes are closed, also while eight of
/// its counters take turns on four. And the guest may eject one that nobody asked for
/// (rule G-702).
fn host_events() -> GuestTest {
    let own_eject = "until [ -d cpu2 ]; do sleep 0.2; done; \
                     echo 1 >/sys/bus/acpi/devices/ACPI0007:02/eject; ";
    let run = guest(
        "6.12",
        "--cpus boot=2,max=4 --pmu type=auto,model=intel-v2,gp=8",
        &format!(
            "while :; do :; done & load=$!; while :; do :; done & load=$load\\ $!; \
             (echo echo ready; echo exec sleep 1000) >/tmp/load; \
             perf stat -a -e instructions,instructions:u,branches,branches:u,branch-misses,\
cache-references,cache-misses,bus-cycles sh /tmp/load & load=$load\\ $!; {own_eject}{}",
            ending()
        ),
    );
    let line = format!(
        "{run} events() {{ echo events $1=$(ls -l /proc/$vmm/fd | grep -c perf_event); }}; \
         sleep 2; events before; $ctl vcpu remove 1; events without; $ctl vcpu add 1; sleep 2; events again; \
         $ctl info --json | grep -o 'rotations.:[0-9]*'; \
         $ctl vcpu add 2; until $ctl vcpu list | grep -q \"vCPU 2: not plugged in\"; do sleep 0.2; done; \
         echo ejected; $ctl vcpu add 3; {ENDED}"
    );
    let check = |seen: &Seen, _: &GuestTest| {
        let count = |word: &str| -> Result<u32> {
            let start = format!("events {word}=");
            let number = seen.console.lines().find_map(|l| l.strip_prefix(&start));
            Ok(number.context(start.clone())?.parse()?)
        };
        let (before, without) = (count("before")?, count("without")?);
        crate::say!("host events: {before}, {without} without vCPU 1");
        ensure!(without > 0, "nothing counts on vCPU 0");
        ensure!(before == 2 * without, "{before} events, then {without}");
        ensure!(count("again")? <= before, "{} events", count("again")?);
        let rotations = seen.number("rotations\":")?;
        ensure!(rotations > 10, "{rotations} rotations: nothing took turns");
        seen.says("ejected")?;
        seen.says("online=0-1,3")?;
        seen.says("status=0")?;
        complaints::none(&seen.console)
    };
    GuestTest {
        runs: Runs::OnHost,
        mock_pmu: "core:gp=4",
        ..GuestTest::new("hotplug/host-events", line, check)
    }
}
