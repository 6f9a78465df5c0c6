//! When a host, or a process tree of ours, is given up.
//!
//! The wall's clock tells how fast the machine is, and not whether the work goes on. So a
//! watch goes by three things that are the same on a slow machine and on a fast one: what
//! is printed, the CPU time that was used since, and whether any CPU was wanted at all.
//!
//! | since the last byte that was printed | means |
//! |---|---|
//! | hardly any CPU wanted for [`Patience::idle`] | it has slept through its wake-up |
//! | [`Patience::work`] of CPU time used | it computes, and comes to nothing |
//!
//! A process that waits for a CPU wants one: a machine that is busy with other things
//! slows it down, and gives no reason to end it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// How often a watch looks.
pub(crate) const PERIOD: Duration = Duration::from_secs(2);
/// Of a second's CPU, what an idle process may want.
const IDLE_SHARE: f64 = 0.15;

/// How long to wait for the next sign of progress, and for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// CPU time that may go by without a byte of output.
    pub(crate) work: Duration,
    /// For how long hardly any CPU may be wanted, without a byte of output.
    pub(crate) idle: Duration,
}

impl Patience {
    /// The usual idle time: several times what any test sleeps.
    pub(crate) const IDLE: Duration = Duration::from_secs(90);
}

/// Why something was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It used this much CPU time and printed nothing.
    Silent(Duration),
    /// It wanted hardly any CPU for this long, and printed nothing.
    Idle(Duration),
    /// It took longer than it may on any machine.
    TooLong(Duration),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(work) => write!(
                f,
                "it printed nothing while it used {} s of CPU time",
                work.as_secs()
            ),
            Self::Idle(time) => write!(
                f,
                "it printed nothing and hardly used a CPU for {} s",
                time.as_secs()
            ),
            Self::TooLong(limit) => write!(f, "it took more than {} s", limit.as_secs()),
        }
    }
}

/// What the threads of a process tree have had of the CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    /// CPU time that they used.
    pub(crate) used: Duration,
    /// How long they were ready and waited for a CPU.
    pub(crate) waited: Duration,
}

/// Watches for progress.
#[derive(Debug)]
pub(crate) struct Watch {
    patience: Patience,
    last: (Instant, Effort),
    /// CPU time and idle time since the last progress.
    silent: Duration,
    idle: Duration,
}

impl Watch {
    /// A watch that begins now.
    pub(crate) fn new(patience: Patience, now: Instant, effort: Effort) -> Self {
        Self {
            patience,
            last: (now, effort),
            silent: Duration::ZERO,
            idle: Duration::ZERO,
        }
    }

    /// Something was printed.
    pub(crate) fn progress(&mut self) {
        self.silent = Duration::ZERO;
        self.idle = Duration::ZERO;
    }

    /// Whether a look is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.last.0) >= PERIOD
    }

    /// Takes in what was done since the last look. Returns why to give up, if it is time.
    pub(crate) fn look(&mut self, now: Instant, effort: Effort) -> Option<Why> {
        let (then, before) = std::mem::replace(&mut self.last, (now, effort));
        let took = now.duration_since(then);
        let used = effort.used.saturating_sub(before.used);
        let wanted = used + effort.waited.saturating_sub(before.waited);
        self.silent += used;
        if wanted.as_secs_f64() < took.as_secs_f64() * IDLE_SHARE {
            // We may have slept ourselves: with the machine, or for want of a CPU.
            self.idle += took.min(2 * PERIOD);
        } else {
            self.idle = Duration::ZERO;
        }
        if self.silent >= self.patience.work {
            return Some(Why::Silent(self.silent));
        }
        (self.idle >= self.patience.idle).then_some(Why::Idle(self.idle))
    }
}

impl Effort {
    /// That of a process and its descendants. Nothing if it has ended.
    pub(crate) fn of_tree(root: u32) -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let all: BTreeMap<u32, Stat> = numbered
            .filter_map(|pid: u32| Some((pid, Stat::read(pid)?)))
            .collect();
        let mut sum = Self::default();
        for (&pid, stat) in &all {
            if is_within(pid, root, &all) {
                sum.used += stat.used;
                sum.waited += waited(pid);
            }
        }
        sum
    }
}

/// Whether a process is `root` or a descendant of it.
fn is_within(pid: u32, root: u32, all: &BTreeMap<u32, Stat>) -> bool {
    let mut at = pid;
    // No line of ancestors is longer, even if the list changed while it was read.
    for _ in 0..=all.len() {
        if at == root {
            return true;
        }
        match all.get(&at) {
            Some(stat) => at = stat.parent,
            None => return false,
        }
    }
    false
}

/// A process's parent, and the CPU time of its threads and of its children that ended.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    used: Duration,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Of proc_pid_stat(5): fields 4, and 14 to 17 in ticks of 10 ms.
    fn parse(line: &str) -> Option<Self> {
        const TICK: Duration = Duration::from_millis(10);
        // The name, in parentheses, may have blanks and parentheses.
        let (_, after) = line.rsplit_once(')')?;
        let mut fields = after.split_whitespace().skip(1);
        let parent = fields.next()?.parse().ok()?;
        let times = fields.skip(9).take(4);
        let ticks: u32 = times.map(|t| t.parse::<u32>().unwrap_or(0)).sum();
        Some(Self {
            parent,
            used: TICK * ticks,
        })
    }
}

/// How long the threads of a process waited for a CPU; nothing if the kernel does not tell.
fn waited(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let of_thread = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    };
    threads
        .filter_map(of_thread)
        .map(Duration::from_nanos)
        .sum()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    const S: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        work: Duration::from_secs(100),
        idle: Duration::from_secs(60),
    };

    /// Looks every two seconds at something that in each second uses a CPU for `used` of
    /// it and waits for one for `waited`, and prints each `prints` seconds. Returns the
    /// seconds until it is given up, within two hours.
    fn given_up(used: f64, waited: f64, prints: Option<u32>) -> Option<(u32, Why)> {
        let began = Instant::now();
        let mut watch = Watch::new(PATIENCE, began, Effort::default());
        for second in (2..7200).step_by(2) {
            if prints.is_some_and(|n| second % n == 0) {
                watch.progress();
            }
            let effort = Effort {
                used: S.mul_f64(used) * second,
                waited: S.mul_f64(waited) * second,
            };
            if let Some(why) = watch.look(began + S * second, effort) {
                return Some((second, why));
            }
        }
        None
    }

    #[test]
    fn a_host_that_prints_goes_on_however_slow_it_is() {
        assert_eq!(given_up(1.0, 0.0, Some(80)), None);
        assert_eq!(given_up(0.08, 0.92, Some(1000)), None);
        assert_eq!(given_up(0.0, 0.0, Some(50)), None);
    }

    #[test]
    fn a_host_that_does_nothing_is_given_up_soon() {
        for used in [0.0, 0.05] {
            let (second, why) = given_up(used, 0.02, None).unwrap();
            assert_eq!((second, why), (60, Why::Idle(60 * S)));
        }
    }

    #[test]
    fn a_host_that_spins_is_given_up_by_its_own_time() {
        let (second, why) = given_up(1.0, 0.0, None).unwrap();
        assert_eq!((second, why), (100, Why::Silent(100 * S)));
        // A machine that is slowed to a third, and one to a twelfth: as much work.
        let (second, why) = given_up(0.25, 0.75, None).unwrap();
        assert_eq!((second, why), (400, Why::Silent(100 * S)));
        assert!(given_up(1.0 / 12.0, 11.0 / 12.0, None).unwrap().0 >= 1190);
    }

    #[test]
    fn a_sleep_of_the_machine_is_not_one_of_the_host() {
        let began = Instant::now();
        let mut watch = Watch::new(PATIENCE, began, Effort::default());
        assert_eq!(watch.look(began + 3600 * S, Effort::default()), None);
        watch.look(began + 3602 * S, Effort::default());
        assert!(watch.idle < 10 * S, "{watch:?}");
    }

    #[test]
    fn names_of_processes_do_not_confuse() {
        let line = "12 (a) b (c) S 7 12 12 0 -1 4194304 9 8 0 0 150 50 30 20 20 0 1 0 9 9";
        let expected = Stat {
            parent: 7,
            used: Duration::from_millis(2500),
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("12 (a"), None);
    }

    /// Ends the process, and all that it started, with the test.
    struct Ends(Child);

    impl Drop for Ends {
        fn drop(&mut self) {
            let group = format!("-{}", self.0.id());
            let kill = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ended = kill.is_ok_and(|status| status.success()) || self.0.kill().is_ok();
            let _reaped = self.0.wait();
        }
    }

    #[test]
    fn work_of_descendants_counts() {
        let line = "sh -c 'while :; do :; done' & wait";
        let child = Command::new("timeout")
            .args(["60", "sh", "-c", line])
            .process_group(0)
            .spawn();
        let child = Ends(child.unwrap());
        let root = child.0.id();
        let mut tries = 0..600;
        while Effort::of_tree(root).used < Duration::from_millis(200) {
            assert!(tries.next().is_some(), "{:?}", Effort::of_tree(root));
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(child);
        assert_eq!(Effort::of_tree(u32::MAX), Effort::default());
    }
}
