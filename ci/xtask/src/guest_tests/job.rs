//! The job of a host: the lines of all tests that it runs, with marks between them.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use super::row::{GuestTest, Runs};
use super::{marks, newest, payloads, table, tools};
use crate::guest::{self, GuestArgs};
use crate::nested::Job;
use crate::place::Place;
use crate::{complaints, images, kernels};

/// The file of a kernel that boots the soonest, if nothing but its series is given. 6.1
/// unpacks itself in next to no time, 6.12 for as long as half of its boot.
fn soonest(kernel: &str) -> String {
    match kernel {
        UNPACKS_SLOWLY => format!("vmlinux-{kernel}"),
        _ if kernel.starts_with("vmlin") => kernel.to_owned(),
        _ => format!("vmlinuz-{kernel}"),
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
    for series in table::KERNELS.into_iter().chain([newest::SERIES]) {
        let name = format!("{{kernel-{series}}}");
        if line.contains(&name) {
            line = line.replace(&name, &place.image(&soonest(series))?);
        }
    }
    Ok(line)
}

/// What KVM says of a guest's MSRs that nobody serves, on perfvisor's standard error.
const HOST_COMPLAINTS: &str = "dmesg | grep -i -e unhandled -e unchecked >&2\n";

/// What stands in `vmm` for the archive of [`images::perf_tests`].
const PERF_TEST_ARCHIVE: &str = "{perf-test.cpio}";

/// Before a line of the host: when `timeout` ends it, what it started in the background
/// would live on, hold the API's path, and fail the tests that follow.
const TIDY: &str = "trap 'kill $vmm $hog 2>/dev/null; exit 143' TERM; ";

/// The job that starts one guest after the other.
pub(super) fn job(place: &Place, tests: &[&GuestTest]) -> Result<Job> {
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
            let line = payloads::place(&test.line, place, &mut job)?;
            let line = with_images(&tools::place(&line, place, &mut job)?, place)?;
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

/// The series of kernels that these tests need beside their host's: none if those of this
/// machine's release of Debian are enough.
pub(super) fn kernels(tests: &[&GuestTest]) -> Vec<String> {
    let series = |test: &&GuestTest| [test.host_kernel, test.guest_kernel];
    let named = tests.iter().flat_map(series).map(kernels::series);
    let others: BTreeSet<&str> = named
        .filter(|name| !table::KERNELS.contains(name))
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    let all = table::KERNELS.into_iter().chain(others);
    all.map(str::to_owned).collect()
}

/// The series of kernels that these tests start as ELF files.
pub(super) fn elf(tests: &[&GuestTest]) -> Vec<String> {
    let names = tests.iter().map(|test| test.guest_kernel);
    let named = names.filter_map(|name| name.strip_prefix("vmlinux-"));
    let all: BTreeSet<&str> = named.chain([UNPACKS_SLOWLY]).collect();
    all.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

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
