//! More counters wanted than there are: on a host whose PMU has four, beside a host
//! process that takes them all, with guests that multiplex, and with none at all.

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{Clock, GuestTest, Runs, Seen};
use crate::perf;

/// Four counters on each CPU.
const MOCK_PMU: &str = "core:gp=4";

/// Every test of contention.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = Vec::new();
    all.extend(KERNELS.map(beside));
    all.extend(["6.1", "6.12"].map(shared));
    all.extend([flexible(), pinned(), rotating(), idle()]);
    all
}

fn row(name: impl Into<String>, line: impl Into<String>, check: super::Check) -> GuestTest {
    GuestTest {
        mock_pmu: MOCK_PMU,
        limit: 300,
        ..GuestTest::new(format!("contention/{}", name.into()), line, check)
    }
}

/// Three events beside the one that is measured: as exact as alone.
fn beside(kernel: &'static str) -> GuestTest {
    GuestTest {
        host_kernel: kernel,
        guest_kernel: kernel,
        clock: Clock::Instructions,
        ..row(
            format!("beside-others/kernel-{kernel}"),
            "for n in 1 1 1 2; do perf stat -x, -e instructions,cycles,branches,cache-misses \
             spin ${n}000000000 2>&1; done",
            |seen, _| {
                seen.succeeded()?;
                perf::accurate(&seen.console, "instructions")
            },
        )
    }
}

/// Eight events of a guest with eight counters on four of the host: what it reads is
/// scaled, and right within two in a hundred. On a host 6.12 alone: the timers that
/// turns take wedge the emulation of a 6.1 one that counts instructions.
fn shared(kernel: &'static str) -> GuestTest {
    GuestTest {
        guest_kernel: kernel,
        clock: Clock::Instructions,
        vmm: "--pmu type=auto,model=intel-v2,gp=8",
        ..row(
            format!("eight-on-four/guest-{kernel}"),
            "perf stat -x, -e instructions,instructions:u,branches,branches:u,branch-misses,\
             cache-references,cache-misses,bus-cycles spin 2000000000 2>&1",
            |seen, _| {
                /// Instructions of the loop, and what its branches are of them on
                /// the mock PMU.
                const LOOP: f64 = 2e9;
                seen.succeeded()?;
                for (event, expected) in [("instructions", LOOP), ("branches", LOOP / 8.0)] {
                    let [count] = perf::counts(&seen.console, event)[..] else {
                        anyhow::bail!("one count of {event} was due");
                    };
                    let off = (count - expected).abs() / expected;
                    crate::say!("{event}: {:.2} % off", off * 100.0);
                    ensure!(off < 0.02, "{event}: {count} is {:.2} % off", off * 100.0);
                }
                ensure!(total(seen, "scaled_reads")? > 0, "nothing was scaled");
                ensure!(total(seen, "rotations")? > 100, "nothing rotated");
                Ok(())
            },
        )
    }
}

/// Starts the guest, has the host's own perf take all counters for four seconds in the
/// middle, and asks what became of the guest's before, during and after; again, if the
/// guest had just stopped them for a moment.
fn taken(policy: &str, guest: &str) -> String {
    format!(
        "mkdir -p /g; cd /g; test -e usr || cpio -id <{{guest.cpio}} 2>/dev/null; cd /; \
         mkdir -p /g/proc /g/sys /g/dev; mount -t proc p /g/proc; mount -t sysfs s /g/sys; mount -t devtmpfs d /g/dev; \
         rm -f /tmp/console; perfvisor run --kernel {{vmlinuz-6.12}} --initramfs {{guest.cpio}} \
           --memory size=256M --serial file=/tmp/console --api-socket path=/tmp/api --pmu type=auto,policy={policy} \
           --cmdline 'console=ttyS0 quiet perfvisor.run=\"{guest}\"' & vmm=$!; \
         until grep -qs counting /tmp/console; do sleep 0.2; done; sleep 2; \
         show() {{ for i in 1 2 3 4 5 6 7 8; do perfvisor ctl --api-socket /tmp/api pmu >/tmp/pmu; \
           grep -qE 'gp0 +(counting|waiting|error)' /tmp/pmu && break; done; cat /tmp/pmu; }}; \
         echo '=== before'; show; \
         chroot /g /usr/bin/perf stat -x, -a -e cycles:D,cycles:D,cycles:D,cycles:D sleep 4 2>/tmp/hog & hog=$!; \
         sleep 2; echo '=== during'; show; wait $hog; sleep 3; echo '=== after'; show; \
         echo '=== hog'; cat /tmp/hog; wait $vmm; echo '=== console'; cat /tmp/console; echo '=== end'; \
         umount /g/proc /g/sys /g/dev"
    )
}

/// How many counters of a `ctl pmu` are in a state, and how many of those are scaled.
fn in_state(text: &str, state: &str) -> (usize, usize) {
    let lines = text
        .lines()
        .filter(|l| l.split_whitespace().nth(1) == Some(state));
    let scaled = lines.clone().filter(|l| l.trim_end().ends_with("scaled"));
    (lines.count(), scaled.count())
}

/// A number of perfvisor's last line.
fn total(seen: &Seen, name: &str) -> Result<u64> {
    let key = format!(" {name}=");
    let (_, rest) = seen
        .vmm
        .rsplit_once(&key)
        .with_context(|| format!("no {name} in: {}", seen.vmm))?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    Ok(digits.unwrap_or_default().parse()?)
}

/// A host process takes every counter: the guest's flexible ones wait, what it reads is
/// an estimate, and they count again when the process is gone.
fn flexible() -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "taken/flexible",
            taken(
                "flexible",
                "echo counting; perf stat -x, -I 1000 -e instructions,cycles,branches \
                 spin 25000000000 2>&1",
            ),
            |seen, _| {
                let (before, during) = (
                    perf::section(&seen.console, "before")?,
                    perf::section(&seen.console, "during")?,
                );
                ensure!(in_state(before, "counting") == (3, 0), "before: {before}");
                ensure!(in_state(during, "waiting") == (3, 3), "during: {during}");
                let after = perf::section(&seen.console, "after")?;
                ensure!(in_state(after, "counting") == (3, 3), "after: {after}");
                ensure!(
                    perf::counts(perf::section(&seen.console, "hog")?, "cycles:D").len() == 4,
                    "the host's own events did not count"
                );
                let console = perf::section(&seen.console, "console")?;
                let rates = perf::interval_rates(console, "instructions");
                ensure!(rates.len() > 8, "{rates:?}");
                // The mock PMU counts the host's ticks: as many each second.
                let mut sorted = rates.clone();
                sorted.sort_by(f64::total_cmp);
                let usual = sorted[sorted.len() / 2];
                let is_usual = |r: &f64| (usual / 2.0..usual * 2.0).contains(r);
                ensure!(rates[1..].iter().all(is_usual), "not the same: {rates:?}");
                ensure!(total(seen, "revocations")? >= 3, "{}", seen.vmm);
                ensure!(total(seen, "scaled_reads")? > 0, "{}", seen.vmm);
                Ok(())
            },
        )
    }
}

/// The same with pinned counters: they are in error, visibly, scale nothing, and are
/// back when the guest enables them again.
fn pinned() -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "taken/pinned",
            taken(
                "pinned",
                "echo counting; for i in 1 2 3 4 5 6 7 8; do \
                 perf stat -x, -e instructions,task-clock spin 2500000000 2>&1; done",
            ),
            |seen, _| {
                let (before, during) = (
                    perf::section(&seen.console, "before")?,
                    perf::section(&seen.console, "during")?,
                );
                ensure!(in_state(before, "counting") == (1, 0), "before: {before}");
                ensure!(in_state(during, "error") == (1, 0), "during: {during}");
                let after = perf::section(&seen.console, "after")?;
                ensure!(in_state(after, "counting") == (1, 0), "after: {after}");
                ensure!(total(seen, "pinned_errors")? > 0, "{}", seen.vmm);
                ensure!(total(seen, "scaled_reads")? == 0, "{}", seen.vmm);
                ensure!(
                    seen.vmm
                        .contains("does not count: the host has no counter for it"),
                    "the error was not said: {}",
                    seen.vmm
                );
                let console = perf::section(&seen.console, "console")?;
                let counts = perf::counts(console, "instructions");
                let times = perf::task_clocks(console);
                ensure!(
                    counts.len() == 8 && times.len() == 8,
                    "{counts:?} {times:?}"
                );
                // The mock PMU counts the host's ticks: as many in each second.
                let rates: Vec<f64> = counts.iter().zip(&times).map(|(c, t)| c / t).collect();
                let usual = rates.iter().copied().fold(0.0, f64::max);
                let whole = rates.iter().filter(|r| **r > usual / 2.0).count();
                ensure!((3..8).contains(&whole), "whole ones and others: {rates:?}");
                ensure!(
                    rates[7] > usual / 2.0,
                    "the last one is not whole: {rates:?}"
                );
                Ok(())
            },
        )
    }
}

/// A guest that multiplexes by itself: sampling at 4,000 Hz for ten seconds loses
/// nothing of ours, and `perf stat` shows the part of the time that each event had.
/// Where a PMI takes as long as in an emulation, the guest's kernel throttles its
/// events and lowers `perf_event_max_sample_rate`, which it says and we pass on.
fn rotating() -> GuestTest {
    const EVENTS: &str = "instructions,cycles,branches,branch-misses,cache-references,\
                          cache-misses,instructions:u,branches:u";
    row(
        "rotating",
        format!(
            "perf stat -e {EVENTS},cycles:u,cycles:k spin 1000000000 2>&1 | tee /tmp/stat; \
             echo multiplexed=$(grep -c '%)' /tmp/stat) missed=$(grep -c '<not' /tmp/stat); \
             perf record -F 4000 -e {EVENTS} -o /tmp/data sh -c 'e=$(($(date +%s) + 10)); \
               while [ $(date +%s) -lt $e ]; do dd if=/dev/zero of=/dev/null bs=64k count=500 2>/dev/null; done' 2>&1; \
             perf report -i /tmp/data --stats >/tmp/stats 2>/dev/null; echo lost=$(grep -c LOST /tmp/stats); \
             grep -E '(SAMPLE|THROTTLE) events' /tmp/stats; \
             echo sampled=$(grep -A1 '^[a-z].* stats:' /tmp/stats | grep -c 'SAMPLE events'); \
             echo max rate $(cat /proc/sys/kernel/perf_event_max_sample_rate); \
             echo '=== interrupts'; grep -E 'NMI|PMI' /proc/interrupts; \
             echo '=== complaints'; \
             dmesg | grep -E 'Uhhuh|unknown reason|irq loop|unchecked MSR|WARNING|perf: [^i]'; \
             echo '=== end'"
        ),
        |seen, _| {
            seen.succeeded()?;
            seen.shows("multiplexed=10 missed=0")?;
            seen.shows("lost=0")?;
            // The two that count in user mode alone have little to count.
            let sampled = |n: &u32| seen.console.contains(&format!("sampled={n}"));
            ensure!((6..=8).any(|n| sampled(&n)), "events without a sample");
            perf::no_complaints(&seen.console)?;
            perf::interrupts(&seen.console, &seen.vmm)
        },
    )
}

/// A guest whose counters are all off: after a second no event is open on the host, and
/// no signal of ours makes it exit.
fn idle() -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "idle",
            "mount -t debugfs debug /sys/kernel/debug; rm -f /tmp/console; \
             perfvisor run --kernel {vmlinuz-6.12} --initramfs {guest.cpio} \
               --memory size=256M --serial file=/tmp/console --pmu type=auto \
               --cmdline 'console=ttyS0 quiet perfvisor.run=\"perf stat -e instructions sleep 3; echo stopped; sleep 15\"' & \
             vmm=$!; events() { ls -l /proc/$vmm/fd | grep -c perf_event; }; \
             signals() { cat /sys/kernel/debug/kvm/$vmm-*/signal_exits; }; \
             until grep -qs stopped /tmp/console; do n=$(events); test $n -gt 0 && echo open=$n; sleep 0.5; done; \
             sleep 4; echo left=$(events); before=$(signals); sleep 6; echo signals=$(($(signals) - before)); \
             kill $vmm; wait $vmm; umount /sys/kernel/debug",
            |seen, _| {
                ensure!(
                    seen.console.contains("open=1"),
                    "no host event while the guest counted"
                );
                seen.shows("left=0")?;
                seen.shows("signals=0")
            },
        )
    }
}
