//! perf in guests: that it works, how exact it is, and what it costs.

use anyhow::{Context, Result, ensure};

use super::on_host::Hosted;
use super::table::KERNELS;
use super::{Clock, GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::{kernels, perf};

/// Every test of perf.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = profiles();
    all.extend(KERNELS.map(|kernel| accuracy(kernel).daily_with("6.12")));
    all.extend(KERNELS.map(|kernel| privilege(kernel).daily_with("6.12")));
    all.extend([watchdog(), memory()]);
    all.extend(KERNELS.map(doctor));
    all
}

/// Each guest kernel on each host kernel, and each kernel with one vCPU and with four, at a
/// random address: stat and record. The same with the guest's kernel as an ELF file, and at
/// its link address. By the wall's clock: see [`perf::SLOW_HOST`].
fn profiles() -> Vec<GuestTest> {
    let nested = crate::place::no_native_guests().is_some();
    let row = |name: String, host_kernel, guest_kernel| GuestTest {
        host_kernel,
        guest_kernel,
        limit: 150,
        ..GuestTest::new(name, format!("{BOOTED}{}", perf::line(nested)), profiled)
    };
    let mut rows = vec![
        row("perf/vmlinux-6.1".into(), "6.12", "vmlinux-6.1").among_every_pair(),
        GuestTest {
            append: "nokaslr",
            ..row("perf/nokaslr".into(), "6.12", "vmlinuz-6.12")
        },
    ];
    for host_kernel in KERNELS {
        for guest_kernel in KERNELS {
            let vcpus = if host_kernel == guest_kernel { 4 } else { 1 };
            let name = format!("perf/host-{host_kernel}/guest-{guest_kernel}/{vcpus}-vcpu");
            rows.push(GuestTest {
                vcpus,
                ..row(name, host_kernel, as_shipped(guest_kernel))
            });
        }
    }
    rows
}

/// A kernel's file as the distribution has it, which unpacks itself to a random address.
fn as_shipped(series: &str) -> &'static str {
    match series {
        "6.1" => "vmlinuz-6.1",
        _ => "vmlinuz-6.12",
    }
}

/// What has booted.
const BOOTED: &str = "echo release=$(uname -r); echo vcpus=$(nproc); ls -d /share\n";

fn booted(seen: &Seen, test: &GuestTest) -> Result<()> {
    let series = kernels::series(test.guest_kernel);
    let release = format!("release={series}.");
    let booted = seen.console.lines().any(|line| line.starts_with(&release));
    ensure!(booted, "the console has no line `{release}`");
    seen.says(&format!("vcpus={}", test.vcpus))?;
    seen.says("/share")
}

fn profiled(seen: &Seen, test: &GuestTest) -> Result<()> {
    /// A slow host's samples are few, and some lie where the guest was left: at reads and
    /// writes of MSRs, and at what follows them.
    const AMONG_THE_FIRST: usize = 3;
    seen.succeeded()?;
    booted(seen, test)?;
    perf::cycles(&seen.console)?;
    // A machine with a PMU may count them.
    if seen.vmm_is_clock_derived() {
        perf::unsupported(&seen.console)?;
    }
    perf::hot_symbol(&seen.console, AMONG_THE_FIRST)?;
    perf::interrupts(&seen.console, &seen.vmm)
}

/// A loop of known length, on a clock of 1 ns for each instruction.
fn accuracy(guest_kernel: &'static str) -> GuestTest {
    GuestTest {
        host_kernel: guest_kernel,
        clock: Clock::Instructions,
        guest_kernel,
        limit: 120,
        ..GuestTest::new(
            format!("accuracy/kernel-{guest_kernel}"),
            "for n in 1 1 1 2; do perf stat -x, -e cycles spin ${n}000000000 2>&1; done",
            accurate,
        )
    }
}

fn accurate(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.succeeded()?;
    perf::accurate(&seen.console, "cycles")
}

/// User and kernel filters on a clock: a loop that hardly leaves user mode, and a
/// program that lives in system calls. On a host 6.12 alone: the timers of the samples
/// wedge the emulation of a 6.1 one that counts instructions now and then.
fn privilege(guest_kernel: &'static str) -> GuestTest {
    GuestTest {
        clock: Clock::InstructionsIfNested,
        guest_kernel,
        limit: 120,
        ..GuestTest::new(
            format!("privilege/guest-{guest_kernel}"),
            "for job in 'spin 1000000000' 'dd if=/dev/zero of=/dev/null bs=64k count=60000'; do \
               perf stat -x, -e cycles:u,cycles:k,cycles -o /tmp/stat $job 2>/dev/null; \
               cat /tmp/stat; done",
            told_apart,
        )
    }
}

fn told_apart(seen: &Seen, _: &GuestTest) -> Result<()> {
    /// The part of the cycles that the right level must have.
    const MOST: f64 = 0.9;
    seen.succeeded()?;
    let count = |name| perf::counts(&seen.console, name);
    let (user, kernel, all) = (count("cycles:u"), count("cycles:k"), count("cycles"));
    let ([spin_u, dd_u], [spin_k, dd_k], [spin, dd]) = (&user[..], &kernel[..], &all[..]) else {
        anyhow::bail!("two counts of each were due: {user:?} {kernel:?} {all:?}");
    };
    crate::say!(
        "user part of a loop {:.3}, kernel part of a copy {:.3}",
        spin_u / spin,
        dd_k / dd
    );
    ensure!(
        spin_u / spin > MOST,
        "cycles:u of a loop: {spin_u} of {spin}"
    );
    ensure!(dd_k / dd > MOST, "cycles:k of a copy: {dd_k} of {dd}");
    for (u, k, all) in [(spin_u, spin_k, spin), (dd_u, dd_k, dd)] {
        let off = (u + k - all).abs() / all;
        ensure!(off < 0.01, "{u} and {k} are not {all}");
    }
    Ok(())
}

/// The NMI watchdog beside `perf stat -I`: it takes a counter for good, and its NMI
/// comes after as many busy seconds as it is told, ten if it is not.
fn watchdog() -> GuestTest {
    GuestTest {
        clock: Clock::InstructionsIfNested,
        limit: 200,
        ..GuestTest::new(
            "watchdog",
            "echo 3 >/proc/sys/kernel/watchdog_thresh; echo 1 >/proc/sys/kernel/nmi_watchdog; \
             echo watchdog=$(cat /proc/sys/kernel/nmi_watchdog); \
             perf stat -a -I 100 -e cycles -o /tmp/stat sleep 3; \
             echo intervals=$(grep -c ' cycles' /tmp/stat); \
             echo missed=$(grep -c '<not' /tmp/stat); \
             spin 4000000000; \
             echo '=== interrupts'; grep -E 'NMI|PMI' /proc/interrupts",
            watched,
        )
    }
}

fn watched(seen: &Seen, _: &GuestTest) -> Result<()> {
    seen.succeeded()?;
    seen.says("watchdog=1")?;
    seen.says("missed=0")?;
    let intervals = seen.number("intervals=")?;
    // The tool may be late for some.
    ensure!(intervals >= 25, "{intervals} of 30 intervals");
    perf::interrupts(&seen.console, &seen.vmm)
}

/// What a VMM with one vCPU takes besides the guest's memory.
fn memory() -> GuestTest {
    let run = Hosted {
        line: &format!("perf stat true; {ASK}; echo up; sleep 600"),
        ..Hosted::default()
    };
    GuestTest {
        runs: Runs::OnHost,
        ..GuestTest::new(
            "memory",
            format!(
                "{}word up; \
             awk '/^Size:/ {{ ram = ($2 == 262144) }} /^Pss:/ && !ram {{ sum += $2 }} \
                  END {{ print \"pss=\" sum }}' /proc/$vmm/smaps; \
             kill $vmm; wait $vmm; echo ended=$?; cat /tmp/console",
                run.started()
            ),
            lean,
        )
    }
}

fn lean(seen: &Seen, _: &GuestTest) -> Result<()> {
    /// KiB. The larger part is the program itself, of which a build without link-time
    /// optimisation has more: 3,772 in all.
    const MOST: u64 = 4096;
    seen.says("ended=143")?;
    complaints::none(&seen.console)?;
    let pss = seen.number("pss=")?;
    crate::say!("perfvisor takes {pss} KiB besides the guest's memory");
    ensure!(
        pss < MOST,
        "perfvisor takes {pss} KiB besides the guest's memory"
    );
    Ok(())
}

/// `doctor` knows the nested hosts: RDPMC is 0 on one and faults on the other.
pub(super) fn doctor(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        host_kernel,
        runs: Runs::OnHost,
        ..GuestTest::new(
            format!("doctor/host-{host_kernel}"),
            "perfvisor doctor --json >/tmp/report; status=$?; cat /tmp/report; echo status=$status",
            diagnosed,
        )
    }
}

fn diagnosed(seen: &Seen, test: &GuestTest) -> Result<()> {
    seen.says("status=0")?;
    let json = seen.console.split("status=").next().unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(json).context("not JSON")?;
    ensure!(!report.is_null(), "the report is empty");
    // A machine of our own has a class of its own.
    if crate::place::no_native_guests().is_some() {
        let class = if test.host_kernel == "6.1" {
            "silent-zero"
        } else {
            "gp-fault"
        };
        seen.shows(class)?;
        seen.shows("clock-derived")?;
    }
    Ok(())
}
