//! Tests in Linux guests: a table (`table`), run with one host boot for all tests of
//! one kind of host: kernel, mock PMU and clock.
//!
//! ```text
//! table ─▶ group by host ─▶ one job of many `perfvisor run` lines, with marks
//!       ─▶ output cut at the marks ─▶ each test's check
//! ```

mod contention;
mod control;
mod disks;
mod energy;
mod exec;
mod hotplug;
mod hybrid;
mod marks;
mod memory;
mod mock;
mod models;
mod monitors;
mod on_host;
mod payloads;
mod perf;
mod perf_storm;
mod perf_test;
mod rdpmc;
mod said;
mod seen;
mod table;
mod uncore;
mod uncore_storm;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::complaints;
use crate::guest::{self, GuestArgs};
use crate::images;
use crate::nested::stream::Stream;
use crate::nested::{self, Ended, HostArgs, Job};
use crate::patience::Patience;
use crate::place::{self, Place};
use crate::report::Report;
use crate::say;
pub(crate) use seen::Seen;

/// One test: a guest, what it runs, and what must be seen.
#[derive(Debug)]
pub(crate) struct GuestTest {
    /// Its name, with `/` between the parts.
    pub(crate) name: String,
    /// Kernel of the nested host; ignored on a machine that runs guests natively.
    pub(crate) host_kernel: &'static str,
    /// The mock PMU of the nested host, which the test then needs; empty: none.
    pub(crate) mock_pmu: &'static str,
    /// Whether the nested host is a Debian 13, which the test then needs.
    pub(crate) debian: bool,
    /// Whether that host needs disks for guests.
    pub(crate) disks: bool,
    /// Files of a line on the host, in its /images.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// How time passes.
    pub(crate) clock: Clock,
    /// Where the line runs.
    pub(crate) runs: Runs,
    /// Kernel of the guest: `6.12` in the form that boots the soonest, `vmlinuz-6.12` and
    /// `vmlinux-6.12` in this one.
    pub(crate) guest_kernel: &'static str,
    /// Its vCPUs.
    pub(crate) vcpus: u32,
    /// More words on its kernel command line.
    pub(crate) append: &'static str,
    /// More flags of `perfvisor run`. With `--cpus`, `vcpus` is not used.
    pub(crate) vmm: &'static str,
    /// The line that it runs.
    pub(crate) line: String,
    /// Seconds of CPU time that it may use without a byte of output, nor of the guest's
    /// console: more than twice what it uses in all.
    pub(crate) limit: u64,
    /// A word of its name without which it is not run; empty: it always is.
    pub(crate) on_request: &'static str,
    /// Looks at what came out.
    pub(crate) check: Check,
}

/// Looks at what came out of a test.
pub(crate) type Check = fn(&Seen, &GuestTest) -> Result<()>;

/// How time passes on a test's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// As on the wall: several CPUs at once.
    Wall,
    /// By instructions in the nested host; as on the wall on a machine of our own.
    InstructionsIfNested,
    /// By instructions: always in the nested host.
    Instructions,
}

/// Where a test's line runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// In a guest.
    InGuest,
    /// On the host, with `perfvisor` in PATH.
    OnHost,
}

/// How many times its limit a test may take by the host's clock while it prints: a machine
/// may be that slow. What stands still has ended long before ([`crate::patience`]).
const SLOWEST: u64 = 12;

impl GuestTest {
    /// Seconds after which it is ended, on any machine.
    const fn ended_after(&self) -> u64 {
        self.limit * SLOWEST
    }

    /// Where its guest's console goes, if that is a file.
    const fn console(&self) -> &'static str {
        match self.runs {
            Runs::InGuest => "",
            Runs::OnHost => on_host::CONSOLE,
        }
    }

    /// A guest with one vCPU, both kernels 6.12.
    pub(crate) fn new(name: impl Into<String>, line: impl Into<String>, check: Check) -> Self {
        Self {
            name: name.into(),
            host_kernel: "6.12",
            mock_pmu: "",
            debian: false,
            disks: false,
            files: &[],
            clock: Clock::Wall,
            runs: Runs::InGuest,
            guest_kernel: "6.12",
            vcpus: 1,
            append: "",
            vmm: "",
            line: line.into(),
            limit: 120,
            on_request: "",
            check,
        }
    }

    /// What the host of this test is asked for; nothing is this machine.
    fn host(&self, native: bool) -> Option<NestedHost> {
        let nested = NestedHost {
            kernel: self.host_kernel,
            mock_pmu: self.mock_pmu,
            debian: self.debian,
            icount: self.clock != Clock::Wall,
        };
        let anywhere =
            self.clock != Clock::Instructions && self.mock_pmu.is_empty() && !self.debian;
        (!(native && anywhere)).then_some(nested)
    }
}

/// A nested host: tests of one kind share a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NestedHost {
    kernel: &'static str,
    mock_pmu: &'static str,
    debian: bool,
    icount: bool,
}

/// Hosts that run at a time: an emulated one keeps one CPU busy, and CI's machines have
/// two.
const WORKERS: usize = 2;

/// The names of all tests.
pub(crate) fn names() -> BTreeSet<String> {
    table::all().into_iter().map(|test| test.name).collect()
}

/// Runs the tests that the report wants.
pub(crate) fn run(report: &mut Report) {
    let native = place::no_native_guests().is_none();
    let mut groups: BTreeMap<Option<NestedHost>, Vec<GuestTest>> = BTreeMap::new();
    let wanted: Vec<_> = table::all()
        .into_iter()
        .filter(|test| report.wants(&test.name))
        .collect();
    for test in wanted {
        let word = test.on_request;
        if !report.filter().unwrap_or_default().contains(word) {
            report.skip(
                &test.name,
                &format!("long: `cargo xtask test {word}` runs it"),
            );
            continue;
        }
        groups.entry(test.host(native)).or_default().push(test);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    // The longest are taken first.
    groups.sort_by_key(|(_, tests)| tests.iter().map(|t| t.limit).sum::<u64>());
    let debian = groups
        .iter()
        .find(|(host, _)| host.is_some_and(|host| host.debian));
    let debian =
        debian.and_then(|(host, tests)| host_args(*host, &tests.iter().collect::<Vec<_>>()).ok());
    let (queue, report) = (Mutex::new(groups), Mutex::new(report));
    // Not in the loop's head, where it would hold the lock for the whole turn.
    let next = || locked(&queue).pop();
    thread::scope(|scope| {
        if let Some(host) = &debian {
            // Whoever needs them next tells of an error.
            scope.spawn(|| nested::make_disks(host).ok());
        }
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((host, tests)) = next() {
                    if let Err(error) = run_group(host, &tests, &report) {
                        for test in &tests {
                            locked(&report).fail(&test.name, &format!("{error:#}"));
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

/// The report of all workers.
type Shared<'a> = Mutex<&'a mut Report>;

/// The whole group, in as few host boots as it takes. An error means that a host could
/// not be had.
///
/// QEMU's emulation of a nested host now and then wedges a guest or kills the nested host. A
/// test that did not come to an end there gets a second try, aloud. On a host that counts
/// instructions, which wedges more often, it gets up to six more. A test that ended and
/// showed the wrong thing gets none.
fn run_group(nested: Option<NestedHost>, tests: &[GuestTest], report: &Shared<'_>) -> Result<()> {
    let mut waiting: Vec<&GuestTest> = tests.iter().collect();
    let more = match nested {
        None => 0,
        Some(host) if host.icount => 6,
        Some(_) => 1,
    };
    let mut tried: Vec<&str> = Vec::new();
    while !waiting.is_empty() {
        let stuck = run_once(nested, &waiting, report)?;
        waiting = stuck.iter().map(|(test, _)| *test).collect();
        let Some((first, reason)) = stuck.into_iter().next() else {
            return Ok(());
        };
        if tried.iter().filter(|name| **name == first.name).count() == more {
            locked(report).fail(&first.name, &reason);
            waiting.remove(0);
        } else {
            say!("{}: {reason}; once more, in a fresh host", first.name);
            tried.push(&first.name);
        }
    }
    Ok(())
}

/// CPU time without a byte of output after which a test on a host that counts
/// instructions has locked itself up (resources/README.md): thrice what the longest uses.
const STANDSTILL: u64 = 120;

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
        icount: nested.is_some_and(|host| host.icount),
        host_kernel: nested.map(|host| host.kernel.to_owned()),
        cpus: None,
        share: None,
        timeout: Some(60 + tests.iter().map(|t| t.ended_after()).sum::<u64>()),
        profile: "testrelease".into(),
        perfvisor: None,
        mock_pmu: mock_pmu.map(str::parse).transpose()?,
        debian: nested.is_some_and(|host| host.debian),
        guest_disks: tests.iter().any(|test| test.disks),
        kernels: Vec::new(),
        elf: Some(elf(tests)),
    })
}

/// The series of kernels that these tests start as ELF files.
fn elf(tests: &[&GuestTest]) -> Vec<String> {
    let names = tests.iter().map(|test| test.guest_kernel);
    let named = names.filter_map(|name| name.strip_prefix("vmlinux-"));
    let all: BTreeSet<&str> = named.chain([UNPACKS_SLOWLY]).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// Boots one host and runs the tests in it. Returns those that did not come to an end.
fn run_once<'a>(
    nested: Option<NestedHost>,
    tests: &[&'a GuestTest],
    report: &Shared<'_>,
) -> Result<Vec<Stuck<'a>>> {
    let host = host_args(nested, tests)?;
    let place = place::prepare(&host)?;
    let mut job = job(&place, tests)?;
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
        let checked = seen
            .no_complaints()
            .and_then(|()| (test.check)(&seen, test));
        let checked = checked.map_err(|e| anyhow!("{e:#}\n{}", seen.last_words()));
        let took = times.get(n).copied().unwrap_or_default();
        locked(report).settle(&test.name, took, checked);
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

/// The file of a kernel that boots the soonest, if nothing but its series is given. 6.1
/// unpacks itself in next to no time, 6.12 for as long as half of its boot.
fn soonest(kernel: &str) -> String {
    match kernel {
        UNPACKS_SLOWLY => format!("vmlinux-{kernel}"),
        "6.1" => format!("vmlinuz-{kernel}"),
        _ => kernel.to_owned(),
    }
}

/// The series whose ELF file the tests use.
const UNPACKS_SLOWLY: &str = "6.12";

/// A line for the host with the places of the images in it, which it names in braces.
fn with_images(line: &str, place: &Place) -> Result<String> {
    let mut line = line.to_owned();
    for name in ["vmlinuz-6.1", "vmlinuz-6.12", "guest.cpio"] {
        line = line.replace(&format!("{{{name}}}"), &place.image(name)?);
    }
    for series in table::KERNELS {
        let image = place.image(&soonest(series))?;
        line = line.replace(&format!("{{kernel-{series}}}"), &image);
    }
    Ok(line)
}

fn name_of(nested: Option<NestedHost>) -> String {
    match nested {
        None => "native".into(),
        Some(NestedHost {
            kernel,
            mock_pmu,
            debian,
            icount,
        }) => {
            let time = if icount { "-icount" } else { "" };
            let system = if debian { "-debian" } else { "" };
            format!("{kernel}{time}{system}{mock_pmu}").replace([':', '=', '+'], "-")
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

/// What KVM says of a guest's MSRs that nobody serves, on perfvisor's standard error.
const HOST_COMPLAINTS: &str = "dmesg | grep -i -e unhandled -e unchecked >&2\n";

/// What stands in `vmm` for the archive of [`images::perf_tests`].
const PERF_TEST_ARCHIVE: &str = "{perf-test.cpio}";

/// Before a line of the host: when `timeout` ends it, what it started in the background
/// would live on, hold the API's path, and fail the tests that follow.
const TIDY: &str = "trap 'kill $vmm $hog 2>/dev/null; exit 143' TERM; ";

/// The job that starts one guest after the other.
fn job(place: &Place, tests: &[&GuestTest]) -> Result<Job> {
    let mut job = Job::default();
    // A kernel of our own: what it says is of this job's guests.
    let after = match place {
        Place::Nested(_) => HOST_COMPLAINTS,
        Place::Native(_) => "",
    };
    for (n, test) in tests.iter().enumerate() {
        for (name, text) in test.files {
            let file = (format!("images/{name}"), text.as_bytes().to_vec());
            if !job.files.contains(&file) {
                job.files.push(file);
            }
        }
        if test.runs == Runs::OnHost {
            let line = with_images(&payloads::place(&test.line, place, &mut job)?, place)?;
            let line = crate::cmd::quoted(&format!("{TIDY}{line}"));
            let run = format!("sh -c {line}");
            job.line.push_str(&marked(n, test, &run, after));
            continue;
        }
        let cpus = if test.vmm.contains("--cpus ") {
            String::new()
        } else {
            format!("--cpus boot={} ", test.vcpus)
        };
        let mut vmm = format!("{cpus}{}", test.vmm);
        if vmm.contains(PERF_TEST_ARCHIVE) {
            let file = (
                "images/perf-test.cpio".into(),
                fs::read(images::perf_tests()?)?,
            );
            if !job.files.contains(&file) {
                job.files.push(file);
            }
            vmm = vmm.replace(PERF_TEST_ARCHIVE, &place.job_file("perf-test.cpio"));
        }
        let guest = GuestArgs {
            guest_kernel: soonest(test.guest_kernel),
            vmm,
            append: test.append.into(),
        };
        let line = complaints::asked_after(&test.line);
        let run = guest::run_line(place, &guest, (&n.to_string(), &line), &mut job)?;
        job.line.push_str(&marked(n, test, &run, after));
    }
    Ok(job)
}

/// The lines of one test, with the marks around them.
fn marked(n: usize, test: &GuestTest, run: &str, after: &str) -> String {
    let marked = marks::Marked {
        n,
        limit: test.ended_after(),
        run,
        after,
        console: test.console(),
    };
    marked.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_ended_takes_its_children_along() {
        let line = format!("{TIDY}sleep 60 & vmm=$!; echo $vmm; wait $vmm");
        let run = std::process::Command::new("timeout")
            .args(["0.5", "sh", "-c", &line])
            .output()
            .unwrap();
        let stat = String::from_utf8_lossy(&run.stdout);
        let stat = format!("/proc/{}/stat", stat.trim());
        // Gone, or a zombie that its new parent has not looked at.
        let ended = || fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
        let wait = || thread::sleep(Duration::from_millis(50));
        assert!(
            (0..400).any(|_| ended() || {
                wait();
                false
            }),
            "{stat}"
        );
    }
}
