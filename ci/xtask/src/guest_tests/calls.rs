//! How many system calls of the host an access of the guest costs, as the host's kernel
//! counts them: one to run on, and none beside it for all that changes nothing.
//!
//! The payload `register_calls` makes each access few times and many times; the
//! tracepoint of system calls counts those of the vCPU's thread by their numbers. What is
//! more in the second run is the accesses'. A console would have its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::{Clock, GuestTest, Runs};

/// What `register_calls` can do, in its order.
const ACCESSES: [AccessKind; 8] = [
    AccessKind::new("IN from a port of nobody", 1, 0),
    AccessKind::new("RDMSR of a constant", 1, 0),
    AccessKind::new("RDMSR of an event select", 1, 0),
    AccessKind::new("WRMSR of an event select, unchanged", 1, 0),
    AccessKind::new("WRMSR of the global control, unchanged", 1, 0),
    AccessKind::new("a stop and a start of four counters", 2, 2 * 4),
    AccessKind::new("RDMSR of a counter", 1, 1),
    AccessKind::new("RDPMC in the kernel", 1, 1),
];

const FEW: u64 = 10;
const MANY: u64 = 1_010;
/// Calls of a thousand accesses that are nobody's: a look at the counters, the thread's
/// time once a millisecond.
const BESIDE: u64 = 30;

/// Calls by which two starts may differ: what an entry costs is tried until it was long
/// enough, and each interruption is one more.
const STARTS: u64 = 60;

/// Numbers of system calls.
const READ: u64 = 0;
const IOCTL: u64 = 16;

/// One kind of access.
#[derive(Debug, Clone, Copy)]
struct AccessKind {
    name: &'static str,
    /// How often it leaves the guest.
    exits: u64,
    /// How many counters of a host PMU are read for it.
    reads: u64,
}

impl AccessKind {
    const fn new(name: &'static str, exits: u64, reads: u64) -> Self {
        Self { name, exits, reads }
    }
}

const HOST_PMU: &str = "core:gp=4";

/// On a clock, and on a host's counters.
pub(super) fn all() -> Vec<GuestTest> {
    vec![
        row("accesses/system-calls", ""),
        row("accesses/system-calls/host-pmu", HOST_PMU),
    ]
}

fn row(name: &str, mock_pmu: &'static str) -> GuestTest {
    let kinds: Vec<String> = (0..ACCESSES.len()).map(|what| what.to_string()).collect();
    let line = format!(
        "mount -t tracefs none /sys/kernel/tracing 2>/dev/null; \
         at=/sys/kernel/tracing/events/raw_syscalls/sys_enter; \
         calls() {{ \
           echo 'hist:keys=id if comm == \"vcpu0\"' >$at/trigger || exit 1; \
           perfvisor run --serial null --kernel {{payloads}}register_calls \
             --pmu type=auto,model=intel-v2 --cmdline \"what=$1 times=$2\" </dev/null || exit 1; \
           sed -n \"s/^{{ id: *\\([0-9]*\\) *}} hitcount: *\\([0-9]*\\).*/calls $1 $2 \\1 \\2/p\" $at/hist; \
           echo '!hist:keys=id if comm == \"vcpu0\"' >$at/trigger; \
         }}; \
         for what in {}; do calls $what {FEW}; calls $what {MANY}; done",
        kinds.join(" ")
    );
    GuestTest {
        mock_pmu,
        // By the wall's clock a slow machine looks at its counters between any two accesses.
        clock: Clock::Instructions,
        runs: Runs::OnHost,
        limit: 120,
        ..GuestTest::new(name, line, |seen, test| {
            ensure!(
                seen.status == 0,
                "the line ended with status {}",
                seen.status
            );
            enough(&seen.console, !test.mock_pmu.is_empty())
        })
    }
}

/// Calls by their numbers, of each kind of access and number of accesses.
type Counted = BTreeMap<(usize, u64), BTreeMap<u64, u64>>;

fn counted(console: &str) -> Counted {
    let mut counted = Counted::new();
    for line in console.lines() {
        let numbers = line.trim_end().strip_prefix("calls ");
        let numbers = numbers.into_iter().flat_map(|rest| rest.split(' '));
        let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
        if let [what, times, call, count] = numbers[..]
            && let Ok(what) = usize::try_from(what)
        {
            counted
                .entry((what, times))
                .or_default()
                .insert(call, count);
        }
    }
    counted
}

/// That each access costs the calls that it must, and no more.
fn enough(console: &str, has_host_pmu: bool) -> Result<()> {
    let counted = counted(console);
    let mut wrong = String::new();
    for (what, kind) in ACCESSES.iter().enumerate() {
        let of = |times| {
            counted
                .get(&(what, times))
                .with_context(|| format!("{kind:?}: no count"))
        };
        let (few, many) = (of(FEW)?, of(MANY)?);
        let more = |call| -> u64 {
            let count = |of: &BTreeMap<u64, u64>| of.get(&call).copied().unwrap_or_default();
            count(many).saturating_sub(count(few))
        };
        let reads = if has_host_pmu { kind.reads } else { 0 };
        let due = |call| match call {
            IOCTL => (MANY - FEW) * kind.exits,
            READ => (MANY - FEW) * reads,
            _ => 0,
        };
        ensure!(
            more(IOCTL) + STARTS >= due(IOCTL),
            "{}: {many:?} is no count of all",
            kind.name
        );
        for call in many.keys().copied() {
            if more(call) > due(call) + BESIDE + STARTS {
                let (more, due) = (more(call), due(call));
                let _ = writeln!(
                    wrong,
                    "{}: system call {call}: {more}, not {due}",
                    kind.name
                );
            }
        }
    }
    ensure!(wrong.is_empty(), "of {} accesses:\n{wrong}", MANY - FEW);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a host without a PMU says of accesses of which one kind costs `extra` calls.
    fn console(extra: &str) -> String {
        let mut text = String::new();
        for (what, kind) in ACCESSES.iter().enumerate() {
            for times in [FEW, MANY] {
                let ioctls = 40 + times * kind.exits;
                text +=
                    &format!("calls {what} {times} 16 {ioctls}\r\ncalls {what} {times} 228 9\n");
            }
        }
        text + extra
    }

    #[test]
    fn a_call_too_many_is_found() {
        enough(&console(""), false).unwrap();
        enough(&console("calls 6 1010 0 25\n"), false).unwrap();
        for extra in ["calls 3 1010 16 2060\n", "calls 3 1010 223 1000\n"] {
            let found = enough(&console(extra), false).unwrap_err().to_string();
            assert!(found.contains(ACCESSES[3].name), "{found}");
            assert_eq!(found.lines().count(), 2, "{found}");
        }
    }

    #[test]
    fn reads_are_those_of_a_host_pmu() {
        let reads = "calls 6 10 0 10\ncalls 6 1010 0 1010\n";
        enough(&console(reads), true).unwrap();
        assert!(enough(&console(reads), false).is_err());
        assert!(enough(&console("calls 6 1010 0 2010\n"), true).is_err());
    }

    #[test]
    fn what_was_not_counted_is_no_zero() {
        assert!(enough("", false).is_err());
        assert!(enough(&console("calls 0 1010 16 41\n"), false).is_err());
    }
}
