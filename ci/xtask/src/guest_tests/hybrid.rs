//! Hosts with two kinds of CPUs, by the mock PMU: `cpu_core` counts on the first half of
//! them, `cpu_atom` on the other. What `--pmu type=` makes of them, and where vCPUs run.

use anyhow::{Context, Result, ensure};

use super::on_host::{ENDED, Hosted};
use super::table::KERNELS;
use super::{Clock, GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

const HYBRID: &str = "hybrid:gp=8";
/// A guest with a core vCPU and an atom one.
pub(super) const BOTH_KINDS: &str =
    "--pmu type=hybrid --cpus boot=2,core-types=[core=[0],atom=[1]]";
/// One CPU of each kind, with a last-level cache of its own.
pub(super) const TWO_CPUS: &str = "hybrid:gp=8:cpus=1+uncore:name=amd_l3:scope=core";

/// The four CPUs run by instructions: a host 6.1 does not bring several up so, and on the
/// wall such a host takes minutes for a guest.
const HOST: &str = "6.12";

/// Every test on a hybrid host.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = vec![
        one_kind("core", |seen, _| {
            counted_on(seen, "cpu_core", "vcpu0 Cpus_allowed_list: 0-1")
        }),
        one_kind("atom", |seen, _| {
            counted_on(seen, "cpu_atom", "vcpu0 Cpus_allowed_list: 2-3")
        }),
        row("refused", refused(), says_what_would_do),
        row("moved-away", moved_away(), stopped_with_the_reason),
        roams(),
    ];
    all.extend(KERNELS.map(hybrid_guest));
    all.extend(KERNELS.map(|kernel| sampled_hybrid_guest(HOST, kernel).daily_with("6.12")));
    all.push(sampled_hybrid_guest("6.1", "6.1").among_every_pair());
    all
}

fn row(name: &str, line: impl Into<String>, check: super::Check) -> GuestTest {
    GuestTest {
        host_kernel: HOST,
        mock_pmu: HYBRID,
        clock: Clock::Instructions,
        runs: Runs::OnHost,
        limit: 150,
        ..GuestTest::new(format!("hybrid/{name}"), line, check)
    }
}

/// A guest in the background; its kernel gets `append`.
fn guest(kernel: &str, flags: &str, append: &str, line: &str) -> String {
    let line = &format!("{line}; {ASK}");
    let run = Hosted {
        kernel,
        flags,
        append,
        line,
    };
    run.started()
}

/// Prints where the threads of the vCPUs may run, once the guest has printed `began`.
const WHERE: &str = "word began; \
     for t in /proc/$vmm/task/*; do \
       grep -q vcpu $t/comm && echo $(cat $t/comm) $(grep Cpus_allowed_list $t/status); done";

/// The tasks of vCPU 0.
const VCPU0: &str = "for t in /proc/$vmm/task/*; do grep -q vcpu0 $t/comm && v=${t##*/}; done";

/// All vCPUs are on one kind of CPUs, and counted there.
fn one_kind(kind: &str, check: super::Check) -> GuestTest {
    let run = guest(
        HOST,
        &format!("--pmu type={kind}"),
        "",
        "echo began; sleep 1; perf stat -x, -e instructions,cycles spin 3000000 2>&1",
    );
    let line = format!("{run}{WHERE}; {ENDED}");
    row(&format!("type-{kind}"), line, check)
}

/// The same on a host with two CPUs: the guest is on the first one.
pub(super) fn one_kind_of_two() -> GuestTest {
    let run = |kind| {
        let line = "echo began; perf stat -x, -e instructions,cycles spin 3000000 2>&1";
        let run = guest(HOST, &format!("--pmu type={kind}"), "", line);
        format!("{run}{WHERE}; {ENDED}; ")
    };
    let line = format!(
        "{}echo '=== atom' >&2; echo '=== atom'; {}",
        run("core"),
        run("atom")
    );
    GuestTest {
        mock_pmu: "hybrid:gp=8:cpus=1",
        ..GuestTest::new("hybrid", line, |seen, _| {
            let cut = |text: &str| {
                let (core, atom) = text.split_once("=== atom").unwrap_or_default();
                [core.to_owned(), atom.to_owned()]
            };
            let (consoles, vmms) = (cut(&seen.console), cut(&seen.vmm));
            let places = [
                ("cpu_core", "vcpu0 Cpus_allowed_list: 0"),
                ("cpu_atom", "vcpu0 Cpus_allowed_list: 1"),
            ];
            for ((console, vmm), (pmu, place)) in consoles.into_iter().zip(vmms).zip(places) {
                let part = Seen {
                    console,
                    vmm,
                    ..Seen::default()
                };
                counted_on(&part, pmu, place)?;
            }
            Ok(())
        })
    }
}

fn counted_on(seen: &Seen, pmu: &str, place: &str) -> Result<()> {
    seen.says(place)?;
    seen.says("status=0")?;
    complaints::none(&seen.console)?;
    ensure!(
        seen.vmm.contains(&format!("backing={pmu} ")),
        "{}",
        seen.vmm
    );
    for event in ["instructions", "cycles"] {
        let counts = perf::counts(&seen.console, event);
        ensure!(
            matches!(counts[..], [count] if count >= 3e6),
            "{event}: {counts:?}"
        );
    }
    Ok(())
}

/// What contradicts the host's PMUs starts nothing.
fn refused() -> String {
    let refuse =
        |flags: &str| format!("perfvisor run --kernel {{kernel-6.12}} {flags}; echo status=$?; ");
    [
        refuse("--pmu type=core --cpus boot=1,affinity=[0@[1,2]]"),
        refuse("--pmu type=atom --cpus boot=2,affinity=[1@[0]]"),
        refuse("--pmu type=cpu"),
        refuse("--pmu type=hybrid"),
        format!("taskset c {}", refuse("--pmu type=core")),
    ]
    .concat()
}

fn says_what_would_do(seen: &Seen, _: &GuestTest) -> Result<()> {
    let refused = seen.console.matches("status=2\n").count();
    ensure!(refused == 5, "{refused} of 5 were refused with status 2");
    for part in [
        "affinity=0@[1-2]: host PMU cpu_core, which counts for this vCPU, is on host CPUs 0-1 only",
        "affinity=1@[0]: host PMU cpu_atom, which counts for this vCPU, is on host CPUs 2-3 only",
        "--pmu type=cpu: no such host PMU; this host has",
        "core-types= is missing",
        "counts on host CPUs 0-1 only, and this process may run on 2-3",
    ] {
        ensure!(seen.vmm.contains(part), "{part:?} is not said");
    }
    Ok(())
}

/// A vCPU that spins is moved to the other kind.
fn moved_away() -> String {
    let run = guest(
        HOST,
        "--pmu type=core",
        "",
        "echo began; perf stat -x, -e instructions spin 900000000000",
    );
    format!(
        "{run}{WHERE}; sleep 2; {VCPU0}; taskset -p c $v >/dev/null; \
         wait $vmm; echo status=$?"
    )
}

fn stopped_with_the_reason(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.says("status=1")?;
    for part in ["vCPU 0 was moved to host CPUs ", "cpu_core", "0-1 only"] {
        ensure!(seen.vmm.contains(part), "{part:?} is not said");
    }
    Ok(())
}

/// Under `type=auto` the thread is moved back and forth, and loops of known length are
/// counted as that. What moves the thread executes instructions as well, and the clock counts all.
fn roams() -> GuestTest {
    let run = guest(
        HOST,
        "--pmu type=auto",
        "",
        "for n in 1 2 3; do perf stat -x, -e instructions spin 1000000000 2>&1; done; echo began",
    );
    let line = format!(
        "{run}sleep 1; {VCPU0}; n=0; \
         while kill -0 $vmm 2>/dev/null; do n=$((n + 1)); \
           taskset -p $((n % 2 ? 1 : 4)) $v >/dev/null 2>&1; sleep 0.3; done; \
         echo moves=$n; {ENDED}"
    );
    row("roams", line, |seen, _| {
        /// A part that did not count would be about half.
        const OFF: f64 = 0.03;
        seen.says("status=0")?;
        complaints::none(&seen.console)?;
        let mut lines = seen.console.lines();
        let moves = lines.find_map(|line| line.strip_prefix("moves="));
        let moves: u32 = moves.context("no moves")?.parse()?;
        ensure!(moves >= 8, "only {moves} moves");
        let counts = perf::counts(&seen.console, "instructions");
        ensure!(counts.len() == 3, "three counts were due: {counts:?}");
        for count in &counts {
            ensure!(
                (count / 1e9 - 1.0).abs() < OFF,
                "{count} of a loop of 10^9 instructions"
            );
        }
        crate::say!("{counts:?} while moved {moves} times");
        Ok(())
    })
}

/// A guest with both kinds. By instructions, and with a second vCPU that comes up when
/// the kernel has booted: where QEMU emulates CPUs in turns, each message between two
/// that are busy takes a turn, which is long on the wall.
fn hybrid_guest(kernel: &'static str) -> GuestTest {
    let name = format!("guest-{kernel}/type-hybrid");
    row(&name, in_hybrid_guest(kernel, ""), both_kinds)
}

/// The same on the wall's clock, where the emulation stands timers that expire all the
/// time (resources/README.md), and each kind samples.
pub(super) fn sampled_hybrid_guest(host_kernel: &'static str, kernel: &'static str) -> GuestTest {
    let sample = "; m=1; for pmu in core atom; do \
         taskset $m perf record -c 2000000 -e cpu_$pmu/cycles/ -o /tmp/data spin 100000000 2>&1; m=2; \
         echo $pmu.samples=$(perf script -i /tmp/data 2>/dev/null | grep -c spin); done; \
         echo === interrupts; grep -e NMI -e PMI /proc/interrupts";
    GuestTest {
        host_kernel,
        guest_kernel: kernel,
        mock_pmu: TWO_CPUS,
        clock: Clock::Wall,
        ..row(
            &format!("host-{host_kernel}/guest-{kernel}/sampled"),
            in_hybrid_guest(kernel, sample),
            both_sample,
        )
    }
}

/// A hundred million cycles or more of each, two million a sample, and as many NMIs as
/// there were PMIs.
fn both_sample(seen: &Seen, _: &GuestTest) -> Result<()> {
    each_on(seen, "0", "1")?;
    for kind in ["core", "atom"] {
        let samples = seen.number(&format!("{kind}.samples="))?;
        ensure!(samples >= 25, "cpu_{kind}: {samples} samples of 50 or more");
    }
    perf::interrupts(&seen.console, &seen.vmm)
}

/// Starts such a guest, which counts on each kind and then runs `more`.
fn in_hybrid_guest(kernel: &str, more: &str) -> String {
    let run = guest(
        kernel,
        BOTH_KINDS,
        "maxcpus=1",
        &format!(
            "echo began; echo 1 > /sys/devices/system/cpu/cpu1/online; \
             dmesg | grep -o Performance.Events:.*; \
             grep . /sys/bus/event_source/devices/cpu_*/cpus; for m in 1 2; do \
             taskset $m perf stat -x, -e cpu_core/instructions/,cpu_atom/instructions/ \
             spin 3000000 2>&1; done{more}"
        ),
    );
    format!("{run}{WHERE}; {ENDED}")
}

fn both_kinds(seen: &Seen, _: &GuestTest) -> Result<()> {
    each_on(seen, "0-1", "2-3")
}

/// vCPU 0 was on the host's CPUs `core`, vCPU 1 on `atom`, and each counted there and
/// nowhere else.
fn each_on(seen: &Seen, core: &str, atom: &str) -> Result<()> {
    seen.says(&format!("vcpu0 Cpus_allowed_list: {core}"))?;
    seen.says(&format!("vcpu1 Cpus_allowed_list: {atom}"))?;
    seen.says_each(&[
        "status=0",
        "Performance Events: Alderlake Hybrid events, AnyThread deprecated, \
             full-width counters, Intel PMU driver.",
        "/sys/bus/event_source/devices/cpu_core/cpus:0",
        "/sys/bus/event_source/devices/cpu_atom/cpus:1",
    ])?;
    complaints::none(&seen.console)?;
    let core = perf::counts(&seen.console, "cpu_core/instructions/");
    let atom = perf::counts(&seen.console, "cpu_atom/instructions/");
    // The kind that the program was not on has no count, or 0.
    ensure!(
        core.first().is_some_and(|count| *count >= 3e6),
        "core: {core:?}"
    );
    ensure!(
        atom.last().is_some_and(|count| *count >= 3e6),
        "atom: {atom:?}"
    );
    let others = core.iter().skip(1).chain(atom.iter().rev().skip(1));
    ensure!(
        others.clone().all(|count| *count == 0.0),
        "core: {core:?}, atom: {atom:?}"
    );
    Ok(())
}
