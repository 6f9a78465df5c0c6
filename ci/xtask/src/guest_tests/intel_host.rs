//! A host with kvm-intel, in Bochs: that what the other hosts show is so there, too. It has
//! a mock PMU, so that one boot serves every test; those that ask for it have a PMU by a
//! clock.
//!
//! No guest here spins with interrupts off and without `pause`: with such a guest Bochs
//! stands still for good (resources/README.md).

use super::table::KERNELS;
use super::{GuestTest, Runs, payloads};
use crate::nested::HostKind;
use crate::perf;

/// The word that asks for these tests.
const WORD: &str = "intel-host";
/// The host's counters, which count its TSC: in Bochs, instructions.
const CORE: &str = "core:gp=4";
/// Models of the payloads. With each they take some two minutes of CPU time.
const MODELS: [&str; 4] = ["intel-v1", "intel-v2", "intel-v3", "intel-v4"];

/// Every test on a host of Intel's.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = vec![doctor(), mock_pmu()];
    all.extend(KERNELS.map(by_clock));
    all.extend(MODELS.map(bare_metal));
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

/// Hardware virtualisation, and RDPMC of both levels.
fn doctor() -> GuestTest {
    let line = "grep -o -m 1 'GenuineIntel' /proc/cpuinfo; ls /sys/module | grep kvm_; \
                perfvisor doctor --json >/tmp/report; status=$?; cat /tmp/report; \
                echo status=$status";
    row(GuestTest {
        runs: Runs::OnHost,
        ..GuestTest::new("doctor", line, |seen, _| {
            seen.says("GenuineIntel")?;
            seen.says("kvm_intel")?;
            seen.says("status=0")?;
            seen.shows("gp-fault")
        })
    })
}

/// The module's own test.
fn mock_pmu() -> GuestTest {
    row(GuestTest {
        runs: Runs::OnHost,
        ..GuestTest::new(
            "mock-pmu",
            "mock-pmu-test core 4; echo test=$?",
            |seen, _| seen.says("test=0"),
        )
    })
}

fn bare_metal(model: &'static str) -> GuestTest {
    let test = payloads::row("6.12", model);
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
                perf::hot_symbol(&seen.console, 3)?;
                perf::interrupts(&seen.console, &seen.vmm)
            },
        )
    })
}

const COPY: &str = "rate='-F 100' count=100\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// They share one boot, and none runs unless it is asked for.
    #[test]
    fn one_host_serves_all() {
        for test in all() {
            assert!(test.name.starts_with("intel-host/"), "{}", test.name);
            assert_eq!(test.on_request, WORD, "{}", test.name);
            assert_eq!(test.nested_host(true), all()[0].nested_host(false));
        }
    }
}
