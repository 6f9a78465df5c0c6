//! A host with kvm-intel, in Bochs: that what the other hosts show is so there, too. It has
//! a mock PMU, so that one boot serves every test; those that ask for it have a PMU by a
//! clock.
//!
//! No guest here spins with interrupts off and without `pause`: with such a guest Bochs
//! stands still for good (resources/README.md).

use anyhow::{Context, Result, ensure};

use super::hotplug;
use super::on_host::{ENDED, Hosted};
use super::{GuestTest, Runs, Seen, hybrid, payloads, rdpmc, snapshot, zeros};
use crate::complaints::{self, ASK};
use crate::nested::HostKind;
use crate::perf;

/// The word that asks for these tests.
const WORD: &str = "intel-host";
/// The host's counters, which count its TSC: in Bochs, instructions.
const CORE: &str = "core:gp=4";
/// Models of the payloads: each of Intel's, and one of AMD's.
const MODELS: [&str; 6] = [
    "intel-v1", "intel-v2", "intel-v3", "intel-v4", "intel-v5", "amd-v2",
];
/// Here a PMI hardly ever finds a halted vCPU (resources/README.md).
const BY_CHANCE: &str = "pmi_halt";

/// Every test on a host of Intel's.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = vec![doctor(), mock_pmu()];
    all.extend([
        by_clock("6.1"),
        by_clock("6.12"),
        by_host(),
        comes_and_goes(),
        on_host(zeros::of_intel()),
        row(snapshot::by_the_wall("snapshot", 1)),
    ]);
    all.extend(MODELS.map(bare_metal));
    // A boot of its own, with two CPUs, which are slower each.
    let hybrid = hybrid::one_kind_of_two();
    let mock_pmu = hybrid.mock_pmu;
    all.push(GuestTest {
        mock_pmu,
        ..on_host(hybrid)
    });
    all
}

/// `test`, on this host.
fn row(test: GuestTest) -> GuestTest {
    GuestTest {
        name: format!("{WORD}/{}", test.name),
        host: HostKind::Intel,
        mock_pmu: CORE,
        limit: 400,
        on_request: WORD,
        ..test
    }
}

/// The same with a line of the host's.
fn on_host(test: GuestTest) -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(test)
    }
}

/// Hardware virtualisation, and RDPMC of both levels.
fn doctor() -> GuestTest {
    let line = "grep -o -m 1 'GenuineIntel' /proc/cpuinfo; ls /sys/module | grep kvm_; \
                perfvisor doctor --json >/tmp/report; status=$?; cat /tmp/report; \
                echo status=$status";
    on_host(GuestTest::new("doctor", line, |seen, _| {
        seen.says("GenuineIntel")?;
        seen.says("kvm_intel")?;
        seen.says("status=0")?;
        seen.shows("gp-fault")
    }))
}

/// The module's own test.
fn mock_pmu() -> GuestTest {
    on_host(GuestTest::new(
        "mock-pmu",
        "mock-pmu-test core 4; echo test=$?",
        |seen, _| seen.says("test=0"),
    ))
}

fn bare_metal(model: &'static str) -> GuestTest {
    let test = payloads::row_without(BY_CHANCE, "6.12", model);
    row(GuestTest {
        name: format!("bare-metal/{model}"),
        ..test
    })
}

/// What perf shows of a PMU by a clock. The copy is short: the CPU is slow.
fn by_clock(guest_kernel: &'static str) -> GuestTest {
    row(GuestTest {
        guest_kernel,
        vmm: "--pmu type=software",
        ..GuestTest::new(
            format!("by-clock/guest-{guest_kernel}"),
            perf::line_with(COPY),
            |seen, _| {
                seen.succeeded()?;
                perf::cycles(&seen.console)?;
                perf::unsupported(&seen.console)?;
                profiled(seen)
            },
        )
    })
}

const COPY: &str = "rate='-F 100' count=100\n";

fn profiled(seen: &Seen) -> Result<()> {
    perf::hot_symbol(&seen.console, 3)?;
    perf::interrupts(&seen.console, &seen.vmm)
}

/// Counters of the host: instructions are counted exactly, samples come, and a program
/// reads its own counters by RDPMC.
fn by_host() -> GuestTest {
    let line = format!(
        "{}echo '=== loop'; perf stat -x, -e instructions spin 100000000 2>&1; \
         echo '=== alone'; selfmon fault; echo stranger=$?; selfmon enable 50; \
         selfmon open 50 0; selfmon unmapped 10 0; echo unmapped=$?; echo '=== end'",
        perf::line_with(COPY)
    );
    row(GuestTest {
        vmm: "--pmu type=auto",
        ..GuestTest::new("by-host", line, counted)
    })
}

fn counted(seen: &Seen, _: &GuestTest) -> Result<()> {
    /// Instructions of the loop.
    const LOOP: f64 = 1e8;
    seen.succeeded()?;
    ensure!(!seen.vmm_is_clock_derived(), "{}", seen.vmm);
    profiled(seen)?;
    let counts = perf::counts(perf::section(&seen.console, "loop")?, "instructions");
    let count = *counts.first().context("no count of instructions")?;
    crate::say!("{count} instructions of a loop of {LOOP}");
    ensure!((count - LOOP).abs() / LOOP < 0.02, "{count}, not {LOOP}");
    let alone = perf::section(&seen.console, "alone")?;
    rdpmc::exact(alone, 3)?;
    let died = rdpmc::died(alone);
    ensure!(died == 2, "2 programs were to fault, not {died}: {alone}");
    Ok(())
}

/// A vCPU comes, is counted on, and goes.
fn comes_and_goes() -> GuestTest {
    let run = Hosted {
        flags: "--cpus boot=1,max=2 --pmu type=software",
        line: &format!(
            "{}echo ready; until grep -q 1 online; do sleep 0.2; done; echo with=$(cat online); \
             perf stat -a -A -x, -e cycles sleep 0.3 2>&1; echo counted; \
             while [ -d cpu1 ]; do sleep 0.2; done; echo without=$(cat online); {ASK}",
            hotplug::UDEV
        ),
        ..Hosted::default()
    };
    let line = format!(
        "{}word ready; $ctl vcpu add 1; word counted; $ctl vcpu remove 1; word without; {ENDED}",
        run.started()
    );
    on_host(GuestTest::new("hotplug", line, |seen, _| {
        for text in ["with=0-1", "without=0", "status=0"] {
            seen.says(text)?;
        }
        for cpu in ["CPU0,", "CPU1,"] {
            let line = seen.console.lines().find(|line| line.starts_with(cpu));
            let line = line.with_context(|| format!("no count of {cpu}"))?;
            let count = line.split(',').nth(1).and_then(|n| n.parse::<u64>().ok());
            ensure!(count.is_some_and(|n| n > 0), "{line}");
        }
        complaints::none(&seen.console)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All but the hybrid one share one boot, and none runs unless it is asked for.
    #[test]
    fn one_host_serves_all() {
        for test in all() {
            assert!(test.name.starts_with("intel-host/"), "{}", test.name);
            assert_eq!(test.on_request, WORD, "{}", test.name);
            if test.mock_pmu == CORE {
                assert_eq!(test.nested_host(true), all()[0].nested_host(false));
            }
        }
    }
}
