//! Tests in Linux guests: a table (`table`), run with one host boot for all tests of
//! a host kernel.
//!
//! ```text
//! table ─▶ group by host kernel ─▶ one job of many `perfvisor run` lines, with marks
//!       ─▶ output cut at the marks ─▶ each test's check
//! ```

mod marks;
mod table;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};

use crate::guest::{self, GuestArgs};
use crate::nested::stream::Stream;
use crate::nested::{Ended, HostArgs, Job};
use crate::place::{self, Place};
use crate::report::Report;
use crate::say;

/// One test: a guest, what it runs, and what must be seen.
#[derive(Debug)]
pub(crate) struct GuestTest {
    /// Its name, with `/` between the parts.
    pub(crate) name: String,
    /// Kernel of the nested host; ignored on a machine that runs guests natively.
    pub(crate) host_kernel: &'static str,
    /// Kernel of the guest.
    pub(crate) guest_kernel: &'static str,
    /// Its vCPUs.
    pub(crate) vcpus: u32,
    /// More words on its kernel command line.
    pub(crate) append: &'static str,
    /// More flags of `perfvisor run`.
    pub(crate) vmm: &'static str,
    /// The line that it runs.
    pub(crate) line: &'static str,
    /// Seconds that it may take.
    pub(crate) limit: u64,
    /// Looks at what came out.
    pub(crate) check: fn(&Seen, &GuestTest) -> Result<()>,
}

/// What came out of a guest.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The guest's console: perfvisor's standard output.
    pub(crate) console: String,
    /// perfvisor's standard error.
    pub(crate) vmm: String,
    /// perfvisor's exit status; 124 or more if it was stopped.
    pub(crate) status: u8,
    /// The line's exit status, if the guest told it.
    pub(crate) exit: Option<u8>,
}

/// Runs the tests that the report wants.
pub(crate) fn run(report: &mut Report) {
    let native = place::no_native_guests().is_none();
    let mut groups: BTreeMap<&str, Vec<GuestTest>> = BTreeMap::new();
    for test in table::all().into_iter().filter(|t| report.wants(&t.name)) {
        groups
            .entry(if native { "" } else { test.host_kernel })
            .or_default()
            .push(test);
    }
    for (host_kernel, tests) in groups {
        if let Err(error) = run_group(host_kernel, &tests, report) {
            for test in &tests {
                report.fail(&test.name, &format!("{error:#}"));
            }
        }
    }
}

/// The whole group in one job. An error means that none of it ran.
fn run_group(host_kernel: &str, tests: &[GuestTest], report: &mut Report) -> Result<()> {
    let host = HostArgs {
        icount: false,
        host_kernel: (!host_kernel.is_empty()).then(|| host_kernel.to_owned()),
        cpus: None,
        share: None,
        timeout: 60 + tests.iter().map(|t| t.limit).sum::<u64>(),
        profile: "testrelease".into(),
        perfvisor: None,
    };
    let place = place::prepare(&host)?;
    let job = job(&place, tests)?;
    say!("{} guest test(s) on {}", tests.len(), place.describe());
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let ended = place.run(&job, &mut |stream, bytes| match stream {
        Stream::Error => errors.extend_from_slice(bytes),
        _ => {
            let before = marks::ends(&output);
            output.extend_from_slice(bytes);
            for n in before..marks::ends(&output) {
                say!("{} of {} guests done", n + 1, tests.len());
            }
        }
    })?;
    marks::log(host_kernel, &output, &errors)?;
    for (n, test) in tests.iter().enumerate() {
        match marks::seen(n, &output, &errors) {
            Some(seen) => report.step(&test.name, || {
                (test.check)(&seen, test).map_err(|e| anyhow!("{e:#}\n{}", seen.last_words()))
            }),
            None => report.fail(&test.name, why_not_run(ended)),
        }
    }
    Ok(())
}

fn why_not_run(ended: Ended) -> &'static str {
    match ended {
        Ended::TimedOut => "no time was left for it",
        Ended::HostDied => "the host died while or before it ran",
        Ended::Exit(_) => "it did not run to its end",
    }
}

/// The job that starts one guest after the other.
fn job(place: &Place, tests: &[GuestTest]) -> Result<Job> {
    let mut job = Job::default();
    for (n, test) in tests.iter().enumerate() {
        let guest = GuestArgs {
            guest_kernel: test.guest_kernel.into(),
            vmm: format!("--cpus boot={} {}", test.vcpus, test.vmm),
            append: test.append.into(),
        };
        let run = guest::run_line(place, &guest, (&n.to_string(), test.line), &mut job)?;
        job.line.push_str(&marks::wrapped(n, test.limit, &run));
    }
    Ok(job)
}

impl Seen {
    /// The end of what was printed, for a failure's reason.
    fn last_words(&self) -> String {
        let console = crate::cmd::last_lines(&self.console, 12);
        let vmm = crate::cmd::last_lines(&self.vmm, 6);
        format!("console:\n{console}\nperfvisor ({}):\n{vmm}", self.status)
    }

    /// That perfvisor and the line ended with status 0.
    ///
    /// # Errors
    /// Says which did not.
    pub(crate) fn succeeded(&self) -> Result<()> {
        let ended = if self.status == 124 || self.status == 143 {
            Ended::TimedOut
        } else {
            Ended::Exit(self.status)
        };
        match guest::verdict(ended, &self.console)? {
            0 => Ok(()),
            status => Err(anyhow!("the line ended with status {status}")),
        }
    }

    /// That the console has a text.
    ///
    /// # Errors
    /// Names the text.
    pub(crate) fn shows(&self, text: &str) -> Result<()> {
        if self.console.contains(text) {
            return Ok(());
        }
        Err(anyhow!("the console does not show `{text}`"))
    }
}
