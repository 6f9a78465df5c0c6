//! Hosts with a mock PMU: that it is what a hardware PMU is, and that the guest's
//! counters are backed by it.

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{Clock, GuestTest, Runs, Seen};
use crate::perf;

/// Four counters on each CPU.
const CORE: &str = "core:gp=4";
/// Two kinds of CPUs, and PMUs of scopes beside them.
const HYBRID: &str = "hybrid:gp=4+uncore:scope=package+uncore:name=power+uncore:name=amd_l3+uncore:name=amd_df+uncore:name=amd_umc_0";

/// Every test with a mock PMU.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = Vec::new();
    for host_kernel in KERNELS {
        all.extend([
            on_host(host_kernel, "core", CORE, "mock-pmu-test core 4"),
            on_host(
                host_kernel,
                "hybrid",
                HYBRID,
                "mock-pmu-test hybrid 4 && mock-pmu-test uncore && mock-pmu-test scoped && \
                 cd /sys/devices/system/cpu && for n in 3 2 1; do \
                 echo 0 >cpu$n/online && echo 1 >cpu$n/online || exit; done && \
                 mock-pmu-test hybrid 4 && mock-pmu-test scoped",
            ),
        ]);
        let guests = [levels(host_kernel), sampling(host_kernel)];
        all.extend(guests.map(|test| test.daily_with("6.12")));
    }
    all.extend([accuracy("6.12"), accuracy("6.1").among_every_pair()]);
    all.extend([raw(), raw_denied()]);
    all
}

fn row(
    host_kernel: &'static str,
    name: &str,
    line: impl Into<String>,
    check: super::Check,
) -> GuestTest {
    GuestTest {
        host_kernel,
        guest_kernel: host_kernel,
        mock_pmu: CORE,
        clock: Clock::Instructions,
        vmm: "--pmu type=auto",
        ..GuestTest::new(format!("mock/host-{host_kernel}/{name}"), line, check)
    }
}

/// The module's own test, then its removal; the host's kernel complains of neither. It
/// is loaded again, for the tests that follow.
fn on_host(host_kernel: &'static str, name: &str, mock_pmu: &'static str, test: &str) -> GuestTest {
    let line = format!(
        "({test}); echo test=$?; rmmod mock_pmu; echo rmmod=$?; \
         insmod /modules/mock_pmu.ko spec=$(cat /job/mock-pmu); echo insmod=$?; \
         dmesg | sed '1,/mock_pmu: loading/d' | \
             grep -E 'WARNING:|BUG:|Oops|Call Trace|refcount_t|sleeping function'; echo end"
    );
    let hybrid_6_1 = mock_pmu == HYBRID && host_kernel == "6.1";
    GuestTest {
        mock_pmu,
        // Several CPUs do not come up by instructions there.
        clock: if hybrid_6_1 {
            Clock::Wall
        } else {
            Clock::Instructions
        },
        runs: Runs::OnHost,
        ..row(host_kernel, &format!("pmu-{name}"), line, well_behaved)
    }
}

fn well_behaved(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.shows("test=0\nrmmod=0\ninsmod=0\nend\n")
}

/// `instructions` of a loop of known length, four times, by the host's counters.
fn accuracy(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        limit: 120,
        ..row(
            host_kernel,
            "accuracy",
            "for n in 1 1 1 2; do perf stat -x, -e instructions spin ${n}000000000 2>&1; done",
            |seen, _| {
                backed_by_cpu(seen)?;
                perf::accurate(&seen.console, "instructions")
            },
        )
    }
}

/// A loop in user mode, and a program that lives in system calls.
fn levels(host_kernel: &'static str) -> GuestTest {
    row(
        host_kernel,
        "user-and-kernel",
        "perf stat -x, -e cycles:u,cycles:k spin 200000000 2>&1; \
         perf stat -x, -e cycles:u,cycles:k dd if=/dev/zero of=/dev/null bs=64k count=30000 2>&1",
        split_by_level,
    )
}

fn split_by_level(seen: &Seen, _: &GuestTest) -> Result<()> {
    backed_by_cpu(seen)?;
    let (user, kernel) = (
        perf::counts(&seen.console, "cycles:u"),
        perf::counts(&seen.console, "cycles:k"),
    );
    let ([in_loop, in_calls], [of_loop, of_calls]) = (&user[..], &kernel[..]) else {
        anyhow::bail!("two counts each were due: {user:?}, {kernel:?}");
    };
    let share = in_loop / (in_loop + of_loop);
    ensure!(share > 0.9, "the loop is {share:.2} user mode");
    let share = of_calls / (in_calls + of_calls);
    ensure!(share > 0.9, "the system calls are {share:.2} kernel mode");
    Ok(())
}

/// Samples by the host's overflow signal. By the wall's clock: see
/// [`perf::SLOW_HOST`].
fn sampling(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        clock: Clock::Wall,
        limit: 150,
        ..row(host_kernel, "sampling", perf::sampling_line(), |seen, _| {
            seen.succeeded()?;
            backed_by_cpu(seen)?;
            perf::hot_symbol(&seen.console, 3)?;
            perf::interrupts(&seen.console, &seen.vmm)
        })
    }
}

/// A code that is no generic event of the guest's vendor, and that the host counts as
/// its cycles.
const RAW: &str = "perf stat -x, -e r3c,cycles spin 200000000 2>&1";

/// A raw event is counted where the operator lets it.
fn raw() -> GuestTest {
    GuestTest {
        vmm: "--pmu type=auto,model=amd-v2,filter=all",
        ..row("6.12", "raw", RAW, |seen, _| {
            backed_by_cpu(seen)?;
            let (raw, cycles) = (
                perf::counts(&seen.console, "r3c"),
                perf::counts(&seen.console, "cycles"),
            );
            let ([raw], [cycles]) = (&raw[..], &cycles[..]) else {
                anyhow::bail!("a count each was due: {raw:?}, {cycles:?}");
            };
            ensure!((raw - cycles).abs() / cycles < 0.01, "{raw}, {cycles}");
            Ok(())
        })
    }
}

/// And where not, it is said.
fn raw_denied() -> GuestTest {
    GuestTest {
        vmm: "--pmu type=auto,model=amd-v2",
        ..row("6.12", "raw-denied", RAW, |seen, _| {
            backed_by_cpu(seen)?;
            ensure!(
                perf::counts(&seen.console, "r3c") == [0.0],
                "a denied event was counted"
            );
            ensure!(
                seen.vmm.contains("the filter does not admit raw AMD event"),
                "nothing was said: {}",
                seen.vmm
            );
            Ok(())
        })
    }
}

fn backed_by_cpu(seen: &Seen) -> Result<()> {
    seen.succeeded()?;
    let line = seen.vmm.lines().rfind(|l| l.contains("backing="));
    let line = line.context("perfvisor does not say what backs the counters")?;
    ensure!(line.contains("backing=cpu "), "{line}");
    Ok(())
}
