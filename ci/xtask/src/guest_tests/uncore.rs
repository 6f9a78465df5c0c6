//! Uncore PMUs in a guest: whom Linux designates, before and after CPUs go, and
//! counts that go on while they do. The host's are the mock's.

use anyhow::{Context, Error, Result, ensure};

use super::energy::{self, Energy};
use super::hybrid::TWO_CPUS;
use super::on_host::{ENDED, Hosted};
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

/// The host's PMUs: of its CPUs, and of scopes.
pub(super) const SCOPED: &str =
    "core:gp=4+uncore:name=power+uncore:name=amd_l3+uncore:name=amd_df+uncore:name=amd_umc_0";

/// Accesses to a last-level cache.
const L3: &str = "amd_l3/event=0x04,umask=0xff/";

/// How often the designated vCPU is ejected and comes back.
const EJECTS: u32 = 10;

/// Every test of uncore PMUs but the storm.
pub(super) fn all() -> Vec<GuestTest> {
    vec![
        mock_itself(),
        masks_of_amd_v2(),
        masks_of_amd_core().among_every_pair(),
        ejects(),
        share(),
        host_cpu_offline(),
    ]
}

/// The mock's own test of them.
fn mock_itself() -> GuestTest {
    row("mock", "mock-pmu-test scoped", |seen, _| {
        seen.shows("0 failed\n")
    })
}

fn row(name: &str, line: impl Into<String>, check: super::Check) -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        mock_pmu: SCOPED,
        limit: 200,
        ..GuestTest::new(format!("uncore/{name}"), line, check)
    }
}

/// In the guest: prints the masks of its uncore PMUs, when CPU 2 goes offline and
/// comes back, when CPU 3 is ejected and comes back. `m` is the function that prints.
const MASKS: &str = "modprobe rapl; C=/sys/devices/system/cpu; cd /sys/bus/event_source/devices; \
     m() { echo mask-$1 $(for p in power amd_l3 amd_df amd_umc_0 amd_umc_1; do \
       [ -e $p/cpumask ] && echo $p=$(cat $p/cpumask); done); }; \
     m start; echo 0 >$C/cpu2/online; m offline; echo 1 >$C/cpu2/online; m online; \
     until [ ! -d $C/cpu3 ]; do sleep 0.1; done; m ejected; \
     until [ -d $C/cpu3 ]; do sleep 0.1; done; echo 1 >$C/cpu3/online; m back; ";

/// On the host, beside a guest with [`MASKS`].
const EJECT: &str =
    "word mask-online; $ctl vcpu remove 3; word mask-ejected; $ctl vcpu add 3; word mask-back; ";

/// A guest with four vCPUs that begins with [`MASKS`].
fn guest(kernel: &str, flags: &str, line: &str) -> String {
    let run = Hosted {
        kernel,
        flags,
        line: &format!("{MASKS}{line}{ASK}"),
        ..Hosted::default()
    };
    format!("{}{EJECT}", run.started())
}

/// Two dies of two cores on 6.12, where `power` of AMD's is the package's, and each
/// node has memory controllers of its own.
fn masks_of_amd_v2() -> GuestTest {
    let run = guest(
        "6.12",
        "--cpus boot=4,topology=1:2:2:1 --pmu type=auto,model=amd-v2 \
         --uncore power=on,amd_l3=on,amd_df=on,amd_umc=on",
        "",
    );
    row(
        "masks/amd-v2/1:2:2:1",
        format!("{run}{ENDED}"),
        |seen, _| {
            for (step, second) in DIES {
                seen.shows(&format!(
                "mask-{step} power=0 amd_l3=0,{second} amd_df=0,{second} amd_umc_0=0 amd_umc_1={second}\n"
            ))?;
            }
            ended_well(seen)
        },
    )
}

/// Who stands for the second die at each step: its first CPU, and whoever stays when
/// that one goes. One that comes back does not take over (rule R-242).
const DIES: [(&str, u32); 5] = [
    ("start", 2),
    ("offline", 3),
    ("online", 3),
    ("ejected", 2),
    ("back", 2),
];

/// One die of two cores with two threads on 6.1.
fn masks_of_amd_core() -> GuestTest {
    let run = guest(
        "6.1",
        "--cpus boot=4,topology=2:2:1:1 --pmu type=auto,model=amd-core \
         --uncore power=on,amd_l3=on,amd_df=on",
        "",
    );
    let check = |seen: &Seen, _: &GuestTest| {
        for (step, _) in DIES {
            seen.shows(&format!("mask-{step} power=0 amd_l3=0 amd_df=0\n"))?;
        }
        ended_well(seen)
    };
    row("masks/amd-core/2:2:1:1", format!("{run}{ENDED}"), check)
}

fn ended_well(seen: &Seen) -> Result<()> {
    seen.says("status=0")?;
    complaints::none(&seen.console)
}

/// `perf stat` of energy while the designated vCPU of the second die leaves and comes
/// back, twenty times: no gap, no jump, and as much as the host's PMU has counted.
fn ejects() -> GuestTest {
    let counting = "while sleep 0.1; do for f in $C/cpu*/online; do \
           grep -qs 0 $f && echo 1 >$f && echo up; done; done & \
         echo while [ -d $C/cpu1 ] \\; do sleep 0.2 \\; done >/tmp/w; ";
    let counting = format!(
        "{counting}{}; echo counting; \
         perf stat -a -x, -e power/energy-pkg/ -I 200 -o /tmp/o sh /tmp/w; cat /tmp/o; {}; ",
        energy::WATCH_MOVES,
        energy::SHOW_MOVES
    );
    let run = guest(
        "6.1",
        "--cpus boot=4,topology=1:2:2:1 --pmu type=auto,model=intel-v2 --uncore power=on,share=raw",
        &counting,
    );
    let line = format!(
        "{run}grep -m1 MHz /proc/cpuinfo; word counting; n=0; failed=0; \
         while [ $n -lt {EJECTS} ]; do n=$((n+1)); c=$((2 + (n + 1) % 2)); \
           $ctl vcpu remove $c >/dev/null && $ctl vcpu add $c >/dev/null || failed=$((failed+1)); \
           until [ $(grep -c ^up /tmp/console) -ge $n ]; do sleep 0.1; done; done; \
         echo failed=$failed; $ctl vcpu remove 1; {ENDED}"
    );
    let check = |seen: &Seen, _: &GuestTest| {
        for (step, second) in DIES {
            seen.shows(&format!("mask-{step} power=0,{second}\n"))?;
        }
        seen.shows("failed=0\n")?;
        // The two dies together are shown what the host's one package spends; one of
        // them nothing while the guest's Linux moves its event.
        let energy = Energy::read(seen)?;
        let moving = energy::time_of_moves(seen, EJECTS)?;
        energy.is_whole(energy::mock_watts(seen)?, moving / 2.0)?;
        energy.is_steady()?;
        ended_well(seen)
    };
    GuestTest {
        limit: 200,
        ..row("ejects/intel-v2/1:2:2:1", line, check)
    }
}

/// The guest's part by CPU time, while one other process wants the host's only CPU: the
/// part of the CPU that the host's scheduler gave to the VMM's process.
fn share() -> GuestTest {
    let counting = "echo counting; \
         perf stat -a -x, -e power/energy-pkg/ -I 1000 -o /tmp/o spin 2000000000; \
         echo counted; cat /tmp/o; ";
    let run = guest(
        "6.12",
        "--cpus boot=4,topology=2:2:1:1 --pmu type=auto,model=intel-v2 --uncore power=on,share=cputime",
        counting,
    );
    let line = format!(
        "ticks() {{ set -- $(cat /proc/$1/stat); echo $(({TICKS})); }}; \
         {run}grep -m1 MHz /proc/cpuinfo; word counting; before=$(ticks $vmm); \
         while :; do :; done & busy=$!; word counted; \
         echo guest-ticks=$(($(ticks $vmm) - before)) other-ticks=$(ticks $busy); \
         wait $vmm; echo status=$?; kill $busy; cat /tmp/console"
    );
    let check = |seen: &Seen, _: &GuestTest| {
        for (step, _) in DIES {
            seen.shows(&format!("mask-{step} power=0\n"))?;
        }
        let energy = Energy::read(seen)?;
        let part = energy.total() / (energy::mock_watts(seen)? * energy.time());
        let (guest, other) = (ticks(seen, "guest-ticks=")?, ticks(seen, "other-ticks=")?);
        let due = guest / (guest + other);
        crate::say!(
            "the guest's part is {part:.3} of {:.2} s, {due:.3} of the CPU time",
            energy.time()
        );
        ensure!(
            (part - due).abs() < 0.15,
            "a part of {due:.3} of the energy is due, {part:.3} is shown"
        );
        ended_well(seen)
    };
    row("share/intel-v2/2:2:1:1", line, check)
}

/// In `/proc/PID/stat`: the clock ticks of user and of kernel mode.
const TICKS: &str = "${14} + ${15}";

/// The clock ticks that the host printed behind this word.
fn ticks(seen: &Seen, word: &str) -> Result<f64> {
    let parts = seen.console.split_once(word);
    let (_, after) = parts.with_context(|| format!("no {word}"))?;
    let number = after.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("no number behind {word}: {number}"))
}

/// In the guest: says when the second cache counts, stands still and counts again, and ends
/// when it stands still once more. No step waits for a time: a slow machine takes longer.
const STANDSTILL: &str = "c() { grep -s CPU1, /tmp/o | tail -n1 | cut -d, -f3; }; \
     till() { until [ 0$(c) $1 0 ]; do sleep 0.2; done; echo $2; }; \
     till -gt counts; till -eq stands; till -gt goes-on; till -eq ends; ";

/// The only host CPU of the guest's second cache goes offline and comes back. What the
/// guest counts there stands still meanwhile, which `ctl pmu` says, and goes on; the
/// first cache is not concerned.
fn host_cpu_offline() -> GuestTest {
    let counting = format!(
        "mkfifo /tmp/f; perf stat -a -A -x, -I 500 -o /tmp/o -e {L3} cat /tmp/f & exec 3>/tmp/f; \
         {STANDSTILL}exec 3>&-; wait; cat /tmp/o; {ASK}"
    );
    let run = Hosted {
        flags: "--cpus boot=2,topology=1:1:2:1 --pmu type=software,model=amd-v2 --uncore amd_l3=on",
        line: &counting,
        ..Hosted::default()
    };
    let line = format!(
        "{}online=/sys/devices/system/cpu/cpu1/online; \
         shown() {{ until $ctl pmu >/tmp/pmu && grep -q \"$1\" /tmp/pmu; do sleep 0.5; done; cat /tmp/pmu; }}; \
         word counts; echo 0 >$online; word stands; echo '=== offline'; shown offline; \
         echo 1 >$online; word goes-on; echo '=== back'; shown gap; \
         echo 0 >$online; word ends; echo 1 >$online; {ENDED}",
        run.started()
    );
    let check = |seen: &Seen, _: &GuestTest| {
        let section = |name| perf::section(&seen.console, name);
        ensure!(section("offline")?.contains("1 (offline)"));
        ensure!(section("back")?.contains("with a gap: 1 so far"));
        let still = |cpu| Ok::<_, Error>(stretches(&l3_counts(&seen.console, cpu)?));
        let (first, second) = (still("CPU0")?, still("CPU1")?);
        ensure!(
            first == [true] && second == [true, false, true, false],
            "the first cache: {first:?}, the second: {second:?}"
        );
        ended_well(seen)
    };
    GuestTest {
        mock_pmu: TWO_CPUS,
        ..row("host-cpu-offline", line, check)
    }
}

/// What `perf stat -I -A` has shown of a CPU's cache.
fn l3_counts(console: &str, cpu: &str) -> Result<Vec<u64>> {
    let lines = console.lines().filter(|line| line.contains(L3));
    let words = lines.map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
    let ours = words.filter(|words| words.get(1) == Some(&cpu));
    let count = |words: Vec<&str>| words.get(2).and_then(|word| word.parse().ok());
    ours.map(|words| count(words).context("a count is due"))
        .collect()
}

/// Whether something was counted, by turns.
fn stretches(counts: &[u64]) -> Vec<bool> {
    let mut turns: Vec<_> = counts.iter().map(|count| *count > 0).collect();
    turns.dedup();
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_found() {
        let console = "0.5,CPU0,17,,amd_l3/event=0x04,umask=0xff/,5,100.00,,\n\
                       0.5,CPU1,9,,amd_l3/event=0x04,umask=0xff/,5,100.00,,\n\
                       1.0,CPU1,0,,amd_l3/event=0x04,umask=0xff/,5,100.00,,\n\
                       1.5,CPU1,8,,amd_l3/event=0x04,umask=0xff/,5,100.00,,\n";
        assert_eq!(l3_counts(console, "CPU0").unwrap(), [17]);
        let second = l3_counts(console, "CPU1").unwrap();
        assert_eq!(stretches(&second), [true, false, true]);
        assert!(l3_counts(&console.replace("17", "<not counted>"), "CPU0").is_err());
    }
}
