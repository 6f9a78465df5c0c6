//! A guest that makes random accesses beside another one: both end well, neither
//! VMM writes more than a bounded log, and neither gathers files or threads.
//!
//! What it costs the other is no test, as it is a timing; `exit_cost` prints it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{command, verdict};
use crate::paths;
use crate::report::Report;

const MODELS: [&str; 2] = ["intel-v4", "amd-v2"];
/// What runs beside each other.
const PAYLOADS: [&str; 2] = ["pmu_random", "exit_cost"];
/// How long both may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

fn name(model: &str) -> String {
    format!("payload/neighbours/{model}")
}

/// The rows that the report wants.
pub(super) fn wanted(report: &Report) -> Vec<String> {
    let names = MODELS.iter().map(|model| name(model));
    names.filter(|name| report.wants(name)).collect()
}

/// Runs the rows that the report wants.
pub(super) fn run(report: &mut Report, perfvisor: &Path, payloads: &[(String, PathBuf)]) {
    for model in MODELS {
        report.step(&name(model), || side_by_side(perfvisor, payloads, model));
    }
}

fn side_by_side(perfvisor: &Path, payloads: &[(String, PathBuf)], model: &str) -> Result<()> {
    let mut guests = Vec::new();
    for payload in PAYLOADS {
        let found = payloads.iter().find(|(name, _)| name == payload);
        let (_, path) = found.with_context(|| format!("no payload {payload}"))?;
        guests.push(Guest::start(perfvisor, path, model)?);
    }
    let began = Instant::now();
    while look_at_all(&mut guests) {
        ensure!(began.elapsed() < LIMIT, "more than {LIMIT:?}");
        thread::sleep(LOOK);
    }
    let took = began.elapsed();
    guests.iter_mut().try_for_each(|guest| guest.judge(took))
}

/// Looks at every guest; false once all have ended.
fn look_at_all(guests: &mut [Guest]) -> bool {
    guests
        .iter_mut()
        .map(Guest::look)
        .fold(false, |any, runs| any | runs)
}

/// A VM, and how many files and threads its VMM had at each look.
struct Guest {
    payload: &'static str,
    child: Child,
    folder: PathBuf,
    held: Vec<(usize, usize)>,
}

impl Guest {
    fn start(perfvisor: &Path, path: &Path, model: &str) -> Result<Self> {
        let payload = PAYLOADS.into_iter().find(|p| path.ends_with(p));
        let payload = payload.context("no payload")?;
        let folder = paths::cache("neighbours")?.join(payload);
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let file = |name: &str| File::create(folder.join(name)).context("cannot make a file");
        let child = command(perfvisor, path, Some(model))
            .stdout(file("console")?)
            .stderr(file("log")?)
            .spawn()
            .context("cannot start perfvisor")?;
        Ok(Self {
            payload,
            child,
            folder,
            held: Vec::new(),
        })
    }

    /// Notes what it holds; false once it has ended.
    fn look(&mut self) -> bool {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return false;
        }
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let count = |what: &str| fs::read_dir(proc.join(what)).map_or(0, Iterator::count);
        self.held.push((count("fd"), count("task")));
        true
    }

    fn judge(&mut self, took: Duration) -> Result<()> {
        let payload = self.payload;
        let status = self.child.wait().context("cannot wait for perfvisor")?;
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        verdict(payload, status, took, &read("console"), &read("log")).context(payload)?;
        does_not_grow(&self.held).context(payload)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Of a test that failed; one that has ended stays ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fails if the second half of the looks found more than the first.
fn does_not_grow(held: &[(usize, usize)]) -> Result<()> {
    let most = |looks: &[(usize, usize)]| {
        let files = looks.iter().map(|(files, _)| *files).max();
        let threads = looks.iter().map(|(_, threads)| *threads).max();
        (files.unwrap_or(0), threads.unwrap_or(0))
    };
    ensure!(held.len() > 4, "{} looks are too few", held.len());
    let (first, second) = held.split_at(held.len() / 2);
    let (before, after) = (most(first), most(second));
    ensure!(
        after.0 <= before.0 && after.1 <= before.1,
        "files and threads grew from {before:?} to {after:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The second one, too, while the first one runs.
    #[test]
    fn each_guest_is_looked_at() {
        let guest = |payload| Guest {
            payload,
            child: Command::new("sleep").arg("60").spawn().unwrap(),
            folder: PathBuf::new(),
            held: Vec::new(),
        };
        let mut guests = PAYLOADS.map(guest);
        assert!(look_at_all(&mut guests));
        guests[0].child.kill().unwrap();
        guests[0].child.wait().unwrap();
        assert!(look_at_all(&mut guests));
        assert_eq!(guests.map(|guest| guest.held.len()), [1, 2]);
    }

    #[test]
    fn only_growth_in_the_second_half_counts() {
        let steady = [(3, 1), (20, 3), (20, 4), (19, 4), (20, 4), (20, 3)];
        assert!(does_not_grow(&steady).is_ok());
        for more in [(21, 3), (3, 5)] {
            let mut held = steady;
            held[5] = more;
            assert!(does_not_grow(&held).is_err(), "{more:?}");
        }
        assert!(does_not_grow(&steady[..4]).is_err(), "too few looks");
    }
}
