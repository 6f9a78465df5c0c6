//! More counters wanted than there are: on a host whose PMU has four, beside a host
//! process that takes them all, with guests that multiplex, and with none at all.

use anyhow::{Context, Result, ensure};

use super::on_host::{ENDED, Hosted, with_pmu};
use super::said::{self, FOLLOW, counts_or_none, lost_for_a_while, steady};
use super::zeros::RATES;
use super::{Clock, GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};
use crate::perf;

/// Four counters on each CPU.
const MOCK_PMU: &str = "core:gp=4";

/// Every test of contention.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = Vec::new();
    all.extend([beside("6.12"), beside("6.1").among_every_pair()]);
    all.extend([shared("6.12"), shared("6.1").among_every_pair()]);
    all.extend([
        two_multiplexers("five-on-two", FIVE, "core:gp=2"),
        GuestTest {
            // Its many short turns lead the emulation into the warning below each second time.
            on_request: "ten-on-one",
            ..two_multiplexers("ten-on-one", TEN, "core:gp=1")
        },
    ]);
    all.extend([flexible(), pinned(), rotating(), idle()]);
    all
}

fn row(name: impl Into<String>, line: impl Into<String>, check: super::Check) -> GuestTest {
    GuestTest {
        mock_pmu: MOCK_PMU,
        limit: 200,
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

/// Those of a plain `perf stat`, and twice as many.
const FIVE: &str = "cycles,instructions,branches,branch-misses,stalled-cycles-frontend";
const TEN: &str = "cycles,instructions,branches,branch-misses,stalled-cycles-frontend,\
                   cache-references,cache-misses,L1-dcache-loads,L1-dcache-load-misses,L1-icache-loads";

/// A guest that was told of four counters shares them among more events, on a host that
/// has fewer than four: what `perf stat` shows is right within two in a hundred. How many
/// ticks the program takes is counted by the one event that has a counter all the time.
/// All cells of the table in vpmu/DESIGN.md are unit tests.
fn two_multiplexers(name: &'static str, events: &'static str, host: &'static str) -> GuestTest {
    let run = Hosted {
        flags: "--pmu type=auto,model=amd-v2",
        append: "nmi_watchdog=0",
        line: &format!(
            "echo === alone; perf stat -x, -e instructions spin 600000000 2>&1; \
             echo === shared; perf stat -x, -e {events} spin 600000000 2>&1; {ASK}"
        ),
        ..Hosted::default()
    };
    let line = format!("{}{}{ENDED}", with_pmu(host), run.started());
    GuestTest {
        clock: Clock::Instructions,
        runs: Runs::OnHost,
        // Where instructions are counted, a timer interrupt now and then finds the guest's
        // kernel in the handler of another one, with turns of any length.
        may_warn: &[" __hrtimer_run_queues+"],
        ..row(format!("two-multiplexers/{name}"), line, near_the_truth)
    }
}

fn near_the_truth(seen: &Seen, test: &GuestTest) -> Result<()> {
    seen.says("status=0")?;
    let events = if test.name.ends_with("ten-on-one") {
        TEN
    } else {
        FIVE
    };
    let due = events.split(',').count();
    let alone = perf::section(&seen.console, "alone")?;
    let [program] = perf::counts(alone, "instructions")[..] else {
        anyhow::bail!("one count of the program was due: {alone}");
    };
    let shared = perf::section(&seen.console, "shared")?;
    let (mut found, mut far) = (0, Vec::new());
    for (event, rate) in RATES {
        for count in perf::counts(shared, event) {
            let off = (count * 2_f64.powi(rate) / program - 1.0) * 100.0;
            crate::say!("{event}: {count}, {off:+.2} % off");
            found += 1;
            if off.abs() > 2.0 {
                far.push(event);
            }
        }
    }
    ensure!(
        found == due,
        "{found} of {due} events were counted: {shared}"
    );
    ensure!(far.is_empty(), "beyond 2 %: {far:?}");
    ensure!(total(seen, "scaled_reads")? > 0, "nothing was scaled");
    ensure!(total(seen, "rotations")? > 100, "nothing rotated");
    Ok(())
}

/// A guest whose counters a process of the host takes for a while.
struct Taken<'a> {
    policy: &'a str,
    /// What the guest runs.
    line: &'a str,
    /// Its counters.
    counters: u32,
    /// Their state when they are taken, and perhaps the last word of their line.
    lost: &'a str,
    /// How many counts the guest has said before. What it counts meanwhile is estimated by
    /// these: they are of the loop, and not of its start.
    first: usize,
    /// How many more it says before it has its counters back: all but the first of these
    /// have none of the time.
    more: usize,
}

/// Starts the guest, has the host's own perf take all counters in the middle, and asks
/// what became of the guest's before, during and after: again and again until they are
/// in the state that is due, for the guest stops them for moments, and a host that is
/// busy elsewhere is late.
fn taken(guest: &Taken<'_>) -> String {
    let Taken {
        policy,
        line,
        counters,
        lost,
        first,
        more,
    } = guest;
    let run = Hosted {
        flags: &format!("--pmu type=auto,policy={policy}"),
        line: &format!("{line}; {ASK}"),
        ..Hosted::default()
    };
    format!(
        "mkdir -p /g; cd /g; test -e usr || cpio -id <{{guest.cpio}} 2>/dev/null; cd /; \
         mkdir -p /g/proc /g/sys /g/dev; mount -t proc p /g/proc; mount -t sysfs s /g/sys; mount -t devtmpfs d /g/dev; \
         rm -f /g/go; mkfifo /g/go; {}{FOLLOW}word counting; follow instructions >/tmp/said & \
         show() {{ n=0; while [ $((n += 1)) -le 150 ]; do $ctl pmu >/tmp/pmu; \
           [ $(awk -v s=$1 -v w=$2 '$2 == s && (w == \"\" || $NF == w)' /tmp/pmu | wc -l) = {counters} ] && break; sleep 0.1; done; cat /tmp/pmu; }}; \
         said() {{ grep -c ,instructions, /tmp/console; }}; \
         until_more() {{ due=$(($(said) + $1)); until [ $(said) -ge $due ]; do sleep 0.2; done; }}; \
         echo '=== before'; until_more {first}; show counting; \
         chroot /g /usr/bin/perf stat -x, -a -e cycles:D,cycles:D,cycles:D,cycles:D cat /go 2>/tmp/hog & hog=$!; \
         echo '=== during'; show {lost}; until_more {more}; timeout 20 sh -c 'echo >/g/go'; wait $hog; \
         echo '=== after'; show counting; \
         echo '=== hog'; cat /tmp/hog; wait $vmm; echo '=== said'; cat /tmp/said; echo '=== console'; cat /tmp/console; \
         umount /g/proc /g/sys /g/dev",
        run.started()
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

/// What was counted from one count of the guest's console to the next.
fn intervals(seen: &Seen, console: &str) -> Result<Vec<said::Interval>> {
    let counts = counts_or_none(console, "instructions");
    said::intervals(perf::section(&seen.console, "said")?, &counts)
}

/// A host process takes every counter: the guest's flexible ones wait, what it reads is
/// an estimate, and they count again when the process is gone.
fn flexible() -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "taken/flexible",
            taken(&Taken {
                policy: "flexible",
                line: "echo counting; perf stat -x, -I 1000 -e instructions,cycles,branches \
                 spin 5000000000 2>&1",
                counters: 3,
                lost: "waiting scaled",
                first: 3,
                more: said::IN_A_ROW + 1,
            }),
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
                let console = section_to_the_end(&seen.console, "console")?;
                steady(&intervals(seen, console)?)?;
                complaints::none(console)?;
                ensure!(total(seen, "revocations")? >= 3, "{}", seen.vmm);
                ensure!(total(seen, "scaled_reads")? > 0, "{}", seen.vmm);
                Ok(())
            },
        )
    }
}

/// The rest of the console after a headline: another console, with its own.
fn section_to_the_end<'a>(console: &'a str, name: &str) -> Result<&'a str> {
    let (_, after) = console
        .split_once(&format!("=== {name}\n"))
        .with_context(|| format!("it did not come to `{name}`"))?;
    Ok(after)
}

/// The same with pinned counters: they are in error, visibly, scale nothing, and are
/// back when the guest enables them again.
fn pinned() -> GuestTest {
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "taken/pinned",
            taken(&Taken {
                policy: "pinned",
                line: "echo counting; for i in 1 2 3 4 5 6 7 8; do \
                 perf stat -x, -e instructions spin 1000000000 2>&1; done",
                counters: 1,
                lost: "error",
                first: 1,
                more: 2,
            }),
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
                let console = section_to_the_end(&seen.console, "console")?;
                complaints::none(console)?;
                lost_for_a_while(&intervals(seen, console)?)
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
             echo '=== interrupts'; grep -E 'NMI|PMI' /proc/interrupts"
        ),
        |seen, _| {
            seen.succeeded()?;
            seen.says("multiplexed=10 missed=0")?;
            seen.says("lost=0")?;
            // The two that count in user mode alone have little to count.
            let sampled = seen.number("sampled=")?;
            ensure!((6..=8).contains(&sampled), "{sampled} events have samples");
            perf::interrupts(&seen.console, &seen.vmm)
        },
    )
}

/// A guest whose counters are all off: after a second no event is open on the host, and
/// no signal of ours makes it exit.
fn idle() -> GuestTest {
    let run = Hosted {
        flags: "--pmu type=auto",
        line: &format!("perf stat -e instructions spin 2000000000; {ASK}; echo stopped; sleep 600"),
        ..Hosted::default()
    };
    GuestTest {
        runs: Runs::OnHost,
        ..row(
            "idle",
            format!(
                "mount -t debugfs debug /sys/kernel/debug; {}events() {{ ls -l /proc/$vmm/fd | grep -c perf_event; }}; \
                 signals() {{ cat /sys/kernel/debug/kvm/$vmm-*/signal_exits; }}; \
                 until grep -qs stopped /tmp/console; do n=$(events); test $n -gt 0 && echo open=$n; sleep 0.5; done; \
                 sleep 4; kill -0 $vmm && echo left=$(events); before=$(signals); sleep 6; after=$(signals); \
                 kill -0 $vmm && echo before=$before && echo signals=$((after - before)); \
                 kill $vmm; wait $vmm; umount /sys/kernel/debug; cat /tmp/console",
                run.started()
            ),
            |seen, _| {
                let open = seen.console.lines().any(|line| line.starts_with("open="));
                ensure!(open, "no host event while the guest counted");
                complaints::none(&seen.console)?;
                seen.says("left=0")?;
                // The counters were on before, which takes signals.
                ensure!(seen.number("before=")? > 0, "no signal was counted");
                seen.says("signals=0")
            },
        )
    }
}
