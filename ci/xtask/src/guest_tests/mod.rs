//! Tests in Linux guests: a table (`table`), run with one host boot for all tests of
//! one kind of host: kernel, mock PMU and clock.
//!
//! ```text
//! table ─▶ group by host ─▶ one job of many `perfvisor run` lines, with marks
//!       ─▶ output cut at the marks ─▶ each test's check
//! ```

mod calls;
mod contention;
mod control;
mod disks;
mod energy;
mod exec;
mod hotplug;
mod hybrid;
mod intel_host;
mod job;
mod marks;
mod memory;
mod mock;
mod models;
mod monitors;
mod newest;
mod on_host;
mod payloads;
mod perf;
mod perf_storm;
mod perf_test;
mod rdpmc;
mod row;
mod said;
mod seen;
mod snapshot;
mod table;
mod tools;
mod uncore;
mod uncore_storm;
mod zeros;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::nested::stream::Stream;
use crate::nested::{self, Ended, HostArgs, HostKind};
use crate::patience::Patience;
use crate::place;
use crate::report::Report;
use crate::say;
pub(crate) use row::{Check, Clock, GuestTest, Runs};
pub(crate) use seen::Seen;

/// A nested host: tests of one kind share a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NestedHost {
    kind: HostKind,
    kernel: &'static str,
    mock_pmu: &'static str,
    debian: bool,
    peer: bool,
    profile: &'static str,
    icount: bool,
}

/// Hosts that run at a time. An emulated one keeps a CPU busy, unless its guests wait, and
/// CI's machines have two.
const WORKERS: usize = 3;

/// The names of all tests.
pub(crate) fn names() -> BTreeSet<String> {
    table::all().into_iter().map(|test| test.name).collect()
}

/// The tests that are wanted, each beside those that share its host.
#[derive(Debug)]
pub(crate) struct Plan {
    groups: Groups,
}

impl Plan {
    /// Takes the tests that the report wants, and tells it of those that run on request.
    pub(crate) fn new(report: &mut Report) -> Self {
        let native = place::no_native_guests().is_none();
        let mut wanted: Vec<_> = table::all();
        wanted.retain(|test| report.wants(&test.name));
        wanted.retain(|test| {
            let word = test.on_request;
            let is_asked_for = report.filter().unwrap_or_default().contains(word);
            if !is_asked_for {
                report.skip(
                    &test.name,
                    &format!("long: `cargo xtask test {word}` runs it"),
                );
            }
            is_asked_for
        });
        Self {
            groups: grouped(wanted, native),
        }
    }

    /// Fetches and builds what the nested hosts need, which takes minutes, beside something
    /// else. Whoever needs it next finds it, or finds the error and tells it.
    pub(crate) fn make_ready(&self) {
        let nested = self.groups.iter().rev().filter(|(host, _)| host.is_some());
        let args = nested
            .filter_map(|(host, tests)| host_args(*host, &tests.iter().collect::<Vec<_>>()).ok());
        let (debian, others): (Vec<_>, Vec<_>) = args.partition(|host| host.debian);
        for host in &others {
            let _ready = nested::prepare(host);
        }
        for host in &debian {
            let _ready = nested::make_disks(host);
        }
    }

    /// Runs them.
    pub(crate) fn run(&self, report: &mut Report) {
        let report = Mutex::new(report);
        run_groups(&self.groups, &|test, took, seen| {
            let checked = seen.and_then(|seen| {
                let calm = seen.no_complaints(test.may_warn);
                let checked = calm.and_then(|()| (test.check)(&seen, test));
                checked.map_err(|e| anyhow!("{e:#}\n{}", seen.last_words()))
            });
            locked(&report).settle(&test.name, took, checked);
        });
    }
}

/// Runs tests on hosts of their own, and tells what came out of each: as a [`Plan`], but
/// nothing of it is checked.
pub(crate) fn run_all(tests: Vec<GuestTest>, tell: Tell<'_>) {
    let native = place::no_native_guests().is_none();
    run_groups(&grouped(tests, native), tell);
}

/// Is told what came out of a test and how long it took: an error if the test did not come
/// to its end.
pub(crate) type Tell<'a> = &'a (dyn Fn(&GuestTest, Duration, Result<Seen>) + Sync);

/// Tests beside those that share their host, the first to run last: those on hosts that
/// count instructions, which may stand still and start again, and then the longest.
type Groups = Vec<(Option<NestedHost>, Vec<GuestTest>)>;

fn grouped(tests: Vec<GuestTest>, native: bool) -> Groups {
    let mut groups: BTreeMap<Option<NestedHost>, Vec<GuestTest>> = BTreeMap::new();
    for test in tests {
        groups
            .entry(test.nested_host(native))
            .or_default()
            .push(test);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(host, tests)| {
        let counts_instructions = host.is_some_and(|host| host.icount);
        (
            counts_instructions,
            tests.iter().map(|t| t.limit).sum::<u64>(),
        )
    });
    groups
}

fn run_groups(groups: &Groups, tell: Tell<'_>) {
    let queue = Mutex::new(groups.iter().collect::<Vec<_>>());
    // Not in the loop's head, where it would hold the lock for the whole turn.
    let next = || locked(&queue).pop();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((host, tests)) = next() {
                    if let Err(error) = run_group(*host, tests, tell) {
                        for test in tests {
                            tell(test, Duration::ZERO, Err(anyhow!("{error:#}")));
                        }
                    }
                }
            });
        }
    });
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The whole group, in as few host boots as it takes. An error means that a host could
/// not be had.
///
/// QEMU's emulation of a nested host now and then wedges a guest or kills the nested host. A
/// test that did not come to an end there gets a second try, aloud. On a host that counts
/// instructions, which wedges more often, it gets up to six more. A test that ended and
/// showed the wrong thing gets none.
fn run_group(nested: Option<NestedHost>, tests: &[GuestTest], tell: Tell<'_>) -> Result<()> {
    let mut waiting: Vec<&GuestTest> = tests.iter().collect();
    let more = match nested {
        None => 0,
        Some(host) if host.icount => 6,
        Some(_) => 1,
    };
    let mut tried: Vec<&str> = Vec::new();
    while !waiting.is_empty() {
        let stuck = run_once(nested, &waiting, tell)?;
        waiting = stuck.iter().map(|(test, _)| *test).collect();
        let Some((first, reason)) = stuck.into_iter().next() else {
            return Ok(());
        };
        if tried.iter().filter(|name| **name == first.name).count() == more {
            tell(first, Duration::ZERO, Err(anyhow!(reason)));
            waiting.remove(0);
        } else {
            say!("{}: {reason}; once more, in a fresh host", first.name);
            tried.push(&first.name);
        }
    }
    Ok(())
}

/// CPU time without a byte of output after which a test on a host that counts
/// instructions has locked itself up (resources/README.md): twice what the longest uses.
const STANDSTILL: u64 = 80;

/// How long a host may stand still that runs these tests.
fn patience(tests: &[&GuestTest], icount: bool) -> Patience {
    let longest = tests.iter().map(|t| t.limit).max().unwrap_or_default();
    let work = if icount {
        longest.min(STANDSTILL)
    } else {
        longest
    };
    Patience {
        work: Duration::from_secs(work),
        idle: Patience::IDLE,
    }
}

/// A test that did not come to an end, and why.
type Stuck<'a> = (&'a GuestTest, String);

/// The host of these tests.
fn host_args(nested: Option<NestedHost>, tests: &[&GuestTest]) -> Result<HostArgs> {
    let mock_pmu = nested.map(|host| host.mock_pmu).filter(|m| !m.is_empty());
    Ok(HostArgs {
        host: nested.map_or(HostKind::Amd, |host| host.kind),
        icount: nested.is_some_and(|host| host.icount),
        host_kernel: nested.map(|host| host.kernel.to_owned()),
        cpus: None,
        share: None,
        timeout: Some(60 + tests.iter().map(|t| t.ended_after()).sum::<u64>()),
        profile: nested.map_or(row::PROFILE, |host| host.profile).into(),
        perfvisor: None,
        mock_pmu: mock_pmu.map(str::parse).transpose()?,
        debian: nested.is_some_and(|host| host.debian),
        peer: nested.is_some_and(|host| host.peer),
        guest_disks: tests.iter().any(|test| test.disks),
        kernels: job::kernels(tests),
        elf: Some(job::elf(tests)),
    })
}

/// Boots one host and runs the tests in it. Returns those that did not come to an end.
fn run_once<'a>(
    nested: Option<NestedHost>,
    tests: &[&'a GuestTest],
    tell: Tell<'_>,
) -> Result<Vec<Stuck<'a>>> {
    let host = host_args(nested, tests)?;
    let place = place::prepare(&host)?;
    let mut job = job::job(&place, tests)?;
    job.patience = Some(patience(tests, host.icount));
    say!("{} guest test(s) on {}", tests.len(), place.describe());
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let (mut began, mut times) = (Instant::now(), Vec::new());
    let ended = place.run(&job, &mut |stream, bytes| match stream {
        Stream::Error => errors.extend_from_slice(bytes),
        _ => {
            let before = marks::ends(&output);
            output.extend_from_slice(bytes);
            for n in before..marks::ends(&output) {
                let (name, took) = (&tests[n].name, began.elapsed());
                let (s, of) = (took.as_secs(), tests.len());
                say!("{name}: ended after {s} s, {} of {of}", n + 1);
                times.push(took);
                began = Instant::now();
            }
        }
    })?;
    marks::log(&name_of(nested), &output, &errors)?;
    let mut stuck = Vec::new();
    for (n, test) in tests.iter().copied().enumerate() {
        let Some(seen) = marks::seen(n, &output, &errors) else {
            if stuck.is_empty() {
                let words = marks::last_words(n, &output, &errors);
                say!("{}: {words}", test.name);
            }
            stuck.push((test, why_not_run(ended)));
            continue;
        };
        let seen = Seen {
            limit: Duration::from_secs(test.ended_after()),
            ..seen
        };
        if let Some(reason) = why_stuck(&seen, host.icount) {
            say!("{}: {}", test.name, seen.last_words());
            stuck.push((test, reason.to_owned()));
            continue;
        }
        let took = times.get(n).copied().unwrap_or_default();
        tell(test, took, Ok(seen));
    }
    Ok(stuck)
}

/// Why a guest that ended did not come to its end.
fn why_stuck(seen: &Seen, icount: bool) -> Option<&'static str> {
    if seen.timed_out() || seen.never_began() {
        return Some("the guest took too long, or never said a word");
    }
    // Counting instructions, an interrupt may be delivered twice: see
    // resources/README.md.
    (icount && seen.panicked()).then_some("the guest's kernel panicked")
}

fn name_of(nested: Option<NestedHost>) -> String {
    match nested {
        None => "native".into(),
        Some(NestedHost {
            kind,
            kernel,
            mock_pmu,
            debian,
            peer,
            profile,
            icount,
        }) => {
            let built = if profile == row::PROFILE { "" } else { profile };
            let time = if icount { "-icount" } else { "" };
            let system = if debian { "-debian" } else { "" };
            let peer = if peer { "-peer" } else { "" };
            let kind = match kind {
                HostKind::Amd => "",
                HostKind::Intel => "-intel",
            };
            let name = format!("{kernel}{kind}{time}{system}{peer}{mock_pmu}{built}");
            name.replace([':', '=', '+'], "-")
        }
    }
}

fn why_not_run(ended: Ended) -> String {
    match ended {
        Ended::GivenUp(why) => format!("its host was ended: {why}"),
        Ended::HostDied => "the host died while or before it ran".into(),
        Ended::Exit(_) | Ended::Quit => "it did not run to its end".into(),
    }
}
