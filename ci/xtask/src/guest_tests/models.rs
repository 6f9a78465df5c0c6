//! Every guest PMU model with a stock kernel: its driver binds, says the right
//! numbers, counts and samples, and complains of nothing.

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Seen};
use crate::perf;

/// One model, and what every guest kernel makes of it.
struct Row {
    flags: &'static str,
    /// What the kernel calls its driver.
    driver: &'static str,
    /// Bits of a counter.
    width: u32,
    /// A bit for each counter that the driver uses.
    mask: u64,
}

const fn row(flags: &'static str, driver: &'static str, mask: u64) -> Row {
    Row {
        flags,
        driver,
        width: 48,
        mask,
    }
}

const INTEL: &str = "generic architected perfmon, full-width counters, Intel PMU driver.";
const INTEL_V5: &str =
    "generic architected perfmon, AnyThread deprecated, full-width counters, Intel PMU driver.";
const AMD: &str = "AMD PMU driver.";
const AMD_CORE: &str = "Fam17h+ core perfctr, AMD PMU driver.";

/// Every model; a hybrid guest needs a hybrid host, and is a row of `hybrid`.
const ROWS: [Row; 7] = [
    Row {
        width: 40,
        ..row(
            "--pmu type=software,model=intel-v1",
            "generic architected perfmon v1, core PMU driver.",
            0x3,
        )
    },
    row("--pmu type=software,model=intel-v2", INTEL, 0x7_0000_000f),
    row(
        "--pmu type=software,model=intel-v4,gp=6",
        INTEL,
        0x7_0000_003f,
    ),
    row(
        "--pmu type=software,model=intel-v5",
        INTEL_V5,
        0x7_0000_00ff,
    ),
    row("--pmu type=software,model=amd-k7", AMD, 0xf),
    row("--pmu type=software,model=amd-core", AMD_CORE, 0x3f),
    row("--pmu type=software,model=amd-v2", AMD_CORE, 0x3f),
];

/// Samples at a rate that a nested host can bear, and of as much work ([`perf::SLOW_HOST`]);
/// without build-ids, which cost as much as the samples: the rows of `perf` have them.
const LINE: &str = "\
echo '=== driver'
dmesg | grep -E 'Performance Events|bit width|(event|global_ctrl) mask'
echo '=== perf stat'
perf stat -e cycles spin 50000000 2>&1 || exit
echo '=== perf record'
count=1000; case $(uname -r) in 6.1.*) count=400; esac
dd=\"dd if=/dev/zero of=/dev/null bs=1M count=$count\"
perf record -B -N -e cycles -F 100 -o /tmp/perf.data $dd 2>&1 || exit
echo '=== perf report'
perf report -i /tmp/perf.data --stdio --stdio-color never --percent-limit 0.5 2>&1 || exit
echo '=== interrupts'
grep -E 'CPU0|NMI|PMI' /proc/interrupts";

/// Every model with every guest kernel: the kernels by turns, and on request the other pairs.
/// Each on a host of its guest's kernel, which spreads the work over two hosts.
pub(super) fn all() -> Vec<GuestTest> {
    let turn = |n: usize| ROWS.iter().zip(KERNELS.into_iter().cycle().skip(n));
    let always = turn(0).map(|(row, kernel)| test(row, kernel, kernel));
    let others = turn(1).map(|(row, kernel)| test(row, kernel, kernel).among_every_pair());
    always.chain(others).collect()
}

/// Every model with these kernels of host and guest.
pub(super) fn on(
    host_kernel: &'static str,
    guest_kernel: &'static str,
) -> impl Iterator<Item = GuestTest> {
    let all = ROWS.iter();
    all.map(move |row| test(row, host_kernel, guest_kernel))
}

fn test(row: &Row, host_kernel: &'static str, guest_kernel: &'static str) -> GuestTest {
    let model = row.flags.rsplit("model=").next().unwrap_or_default();
    let model = model.split(',').next().unwrap_or_default();
    let name = format!("model/{model}/guest-{guest_kernel}");
    GuestTest {
        host_kernel,
        guest_kernel,
        vmm: row.flags,
        ..GuestTest::new(name, LINE, works)
    }
}

fn works(seen: &Seen, test: &GuestTest) -> Result<()> {
    const AMONG_THE_FIRST: usize = 3;
    let row = ROWS.iter().find(|row| row.flags == test.vmm);
    let row = row.context("the test is in no row")?;
    seen.succeeded()?;
    driver(&seen.console, row)?;
    perf::cycles(&seen.console)?;
    perf::hot_symbol(&seen.console, AMONG_THE_FIRST)?;
    if row.driver.contains("AMD") {
        return perf::interrupts_of_amd(&seen.console, &seen.vmm);
    }
    perf::interrupts(&seen.console, &seen.vmm)
}

/// The kernel's own words of what it found.
fn driver(console: &str, row: &Row) -> Result<()> {
    let text = perf::section(console, "driver")?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.contains(name));
        line.and_then(|line| line.rsplit(' ').next())
            .with_context(|| format!("the kernel does not say its `{name}`"))
    };
    let said = text
        .lines()
        .find_map(|line| line.split("Performance Events: ").nth(1));
    let said = said.context("the kernel says nothing of a PMU")?.trim();
    ensure!(
        said == row.driver,
        "the driver is `{said}`, not `{}`",
        row.driver
    );
    let width: u32 = value("bit width:")?.trim().parse()?;
    ensure!(
        width == row.width,
        "counters of {width} bits, not {}",
        row.width
    );
    // Linux 7 has another name for it.
    let mask = value("event mask:").or_else(|_| value("global_ctrl mask:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16)?;
    ensure!(
        mask == row.mask,
        "the counters are {mask:x}, not {:x}",
        row.mask
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DMESG: &str = "\
=== driver
[    0.58] Performance Events: Fam17h+ core perfctr, AMD PMU driver.
[    0.59] ... bit width:              48
[    0.60] ... event mask:             000000000000003f
=== perf stat
";

    #[test]
    fn the_kernels_words_are_compared_with_the_row() {
        let row = &ROWS[5];
        driver(DMESG, row).unwrap();
        for (what, instead) in [
            ("Fam17h+ core perfctr, ", ""),
            ("48", "40"),
            ("3f", "0f"),
            ("... bit width", "..."),
            ("Performance Events", "Software Events"),
        ] {
            assert!(
                driver(&DMESG.replace(what, instead), row).is_err(),
                "{what}"
            );
        }
    }
}
