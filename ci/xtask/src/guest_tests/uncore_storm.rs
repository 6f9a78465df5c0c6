//! Uncore PMUs while vCPUs come and go at random: nothing is lost, and nothing is
//! left of those that went.

use anyhow::{Context, Result, ensure};

use super::hotplug::{self, UDEV};
use super::on_host::{ENDED, Hosted, host_mhz};
use super::uncore::SCOPED;
use super::{GuestTest, Runs, Seen};
use crate::complaints::{self, ASK};

/// What the mock counts of each event for a tick of the host's TSC; of energy, 2^-32 J.
const RATES: [(&str, f64); 3] = [
    ("power/energy-pkg/", 16.0 / 4_294_967_296.0),
    ("amd_l3/event=0x04,umask=0xff/", 1.0 / 16.0),
    ("amd_df/event=0x07,umask=0x38/", 1.0 / 32.0),
];

/// The storm.
pub(super) fn all() -> Vec<GuestTest> {
    vec![storm()]
}

/// In the guest: after vCPU 3 has come and gone, counts everywhere, and of CPU 0's
/// scopes, over and over; ends when vCPU 0 has been alone for eight seconds.
fn guest_line() -> String {
    let events: Vec<_> = RATES.iter().map(|(event, _)| *event).collect();
    format!(
        "modprobe rapl; {UDEV}echo ready; until [ -d cpu3 ]; do sleep 0.2; done; while [ -d cpu3 ]; do sleep 0.2; done; sleep 6; \
         E={}; \
         while :; do perf stat -a -x, -e cycles,$E sleep 1 2>&1 | sed s/^/all:/; done & a=$!; \
         while :; do perf stat -C 0 -x, -e $E sleep 2 2>&1 | sed s/^/one:/; done & b=$!; \
         echo counting; n=0; \
         while [ $n -lt 8 ]; do sleep 1; n=$((n+1)); [ $(cat online) = 0 ] || n=0; done; \
         kill $a $b; sleep 4; echo quiet; sleep 12; echo online=$(cat online); \
         {ASK}",
        events.join(",")
    )
}

fn storm() -> GuestTest {
    let operations = hotplug::storm_operations();
    let run = Hosted {
        flags: "--cpus boot=1,max=4,topology=1:2:2:1 --pmu type=auto,model=amd-v2 \
                --uncore power=on,amd_l3=on,amd_df=on,amd_umc=on,share=raw",
        line: &guest_line(),
        ..Hosted::default()
    };
    let line = format!(
        "{}size() {{ echo $1 fds=$(ls /proc/$vmm/fd | wc -l) tasks=$(ls /proc/$vmm/task | wc -l) \
           $(grep VmData /proc/$vmm/status); }}; \
         grep -m1 MHz /proc/cpuinfo; word ready; \
         for c in 1 2 3; do $ctl vcpu add $c; done; sleep 2; \
         for c in 1 2 3; do $ctl vcpu remove $c; done; sleep 1; size before; word counting; \
         t1=0; t2=0; t3=0; r=1; n=0; failed=0; \
         while [ $n -lt {operations} ]; do n=$((n+1)); \
           r=$(((r*1103515245+12345) % 2147483648)); c=$((r/65536 % 3 + 1)); \
           if eval [ \\$t$c = 0 ]; then $ctl vcpu add $c >/dev/null; else $ctl vcpu remove $c >/dev/null; fi || failed=$((failed+1)); \
           eval \"t$c=\\$((1-t$c))\"; sleep 0.$((r/65536/3 % 6)); [ $((n % 20)) != 0 ] || echo operation $n; done; \
         for c in 1 2 3; do if eval [ \\$t$c = 1 ]; then $ctl vcpu remove $c; fi; done; \
         word quiet; sleep 6; size after; echo done=$n failed=$failed; $ctl pmu; \
         {ENDED}",
        run.started()
    );
    GuestTest {
        runs: Runs::OnHost,
        mock_pmu: SCOPED,
        limit: 180 + u64::from(operations) * 3,
        ..GuestTest::new("uncore/storm/amd-v2/1:2:2:1", line, check)
    }
}

fn check(seen: &Seen, _: &GuestTest) -> Result<()> {
    for text in [
        " failed=0\n",
        "status=0\n",
        "online=0\n",
        " amd_l3 1: designated is none, was vCPU ",
        " amd_l3 1: designated is vCPU ",
    ] {
        seen.shows(text)?;
    }
    hotplug::sizes_stay(seen)?;
    for (event, rate) in RATES {
        let everywhere = windows(&seen.console, "all:", event);
        ensure!(
            everywhere.iter().flatten().any(|window| window.count > 0.0),
            "perf stat -a has counted nothing of {event}"
        );
        let ratio = shown(seen, event)? / rate;
        crate::say!("{event}: {ratio:.3} of the host's");
        ensure!(
            (0.9..1.1).contains(&ratio),
            "the guest has seen {ratio:.3} of what the host counted of {event}"
        );
    }
    complaints::none(&seen.console)
}

/// What was counted of CPU 0's scopes for a tick of the host, in all windows together. The
/// time is the event's own: perf's windows are longer by what their beginning and end take.
fn shown(seen: &Seen, event: &str) -> Result<f64> {
    let windows = windows(&seen.console, "one:", event);
    ensure!(windows.len() > 2, "{} windows of {event}", windows.len());
    let (mut count, mut ns) = (0.0, 0.0);
    for window in windows {
        let window = window.with_context(|| format!("a window has no count of {event}"))?;
        count += window.count;
        ns += window.ns;
    }
    Ok(count / (ns * host_mhz(seen)? / 1_000.0))
}

/// What `perf stat -x,` has shown of an event in one window.
#[derive(Debug, Clone, Copy)]
struct Window {
    count: f64,
    /// How long the event was on.
    ns: f64,
}

/// The windows of an event; `None` for one in which it was not counted.
fn windows(console: &str, mark: &str, event: &str) -> Vec<Option<Window>> {
    let of_event = format!(",{event},");
    let lines = console.lines().filter_map(|line| line.strip_prefix(mark));
    let window = |line: &str| {
        let (count, (_, after)) = (line.split(',').next()?, line.split_once(&of_event)?);
        Some(Window {
            count: count.trim().parse().ok()?,
            ns: after.split(',').next()?.parse().ok()?,
        })
    };
    lines
        .filter(|line| line.contains(&of_event))
        .map(window)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "one:7.45,Joules,power/energy-pkg/,2000000000,100.00,,\n\
        all:<not counted>,,amd_l3/event=0x04,umask=0xff/,0,100.00,,\n\
        one:125000000,,amd_l3/event=0x04,umask=0xff/,2000000000,100.00,,\n";

    #[test]
    fn windows_and_counts_are_read() {
        let console = format!("cpu MHz\t\t: 1000.000\n{}", LINES.repeat(3));
        let seen = |console: String| Seen {
            console,
            ..Seen::default()
        };
        let whole = seen(console.clone());
        let (power, l3) = (RATES[0], RATES[1]);
        assert!((shown(&whole, l3.0).unwrap() / l3.1 - 1.0).abs() < 1e-9);
        let power = shown(&whole, power.0).unwrap() / power.1;
        assert!((power - 1.0).abs() < 0.01, "{power}");
        assert!(windows(&console, "all:", l3.0).iter().all(Option::is_none));
        let few = format!("cpu MHz\t\t: 1000.000\n{LINES}");
        assert!(shown(&seen(few), l3.0).is_err(), "one window is too few");
        let gap = console.replace("125000000,", "<not counted>,");
        assert!(shown(&seen(gap), l3.0).is_err(), "nothing was counted");
    }
}
