//! `cargo xtask bench`: what things cost, counted in instructions where a host can count them.
//!
//! ```text
//! runs (exits, boot, memory, accuracy, workloads) ─▶ guest_tests: hosts that count instructions
//!     ─▶ lines `bench NAME NUMBER` ─▶ figures ─▶ table, target/bench.json, comparison
//! ```

mod accuracy;
mod boot;
mod exits;
mod figure;
mod json;
mod memory;
mod table;
mod workloads;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::guest_tests::{self, Clock, GuestTest};
use crate::{paths, say};
use figure::{Figure, Measured, Reader, as_printed};
use json::Entry;

/// The options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Cargo profile with which perfvisor is built: testrelease builds sooner and costs more
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: Profile,
    /// Show each figure beside that of an older target/bench.json, with the change in percent
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure only the figures with this word in their name, such as msr_exit
    word: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Profile {
    Release,
    Testrelease,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Testrelease => "testrelease",
        }
    }
}

/// A line of a host or of a guest, and the figures that come out of it.
#[derive(Debug)]
struct Run {
    test: GuestTest,
    figures: Vec<Figure>,
    read: Reader,
}

impl Run {
    /// A run on a host that counts instructions, which prints its figures.
    fn printed(test: GuestTest, figures: Vec<Figure>) -> Self {
        Self {
            test,
            figures,
            read: as_printed,
        }
    }
}

/// Every run.
fn all() -> Vec<Run> {
    let mut all = exits::all();
    all.extend(boot::all());
    all.extend(memory::all());
    all.extend(accuracy::all());
    all.extend(workloads::all());
    for run in &mut all {
        run.test.clock = Clock::Instructions;
    }
    all
}

/// The runs that a word selects, with the figures that it selects.
fn selected(all: Vec<Run>, word: &str) -> Vec<Run> {
    let with_their_own = |mut run: Run| {
        run.figures.retain(|figure| figure.name.contains(word));
        (!run.figures.is_empty()).then_some(run)
    };
    all.into_iter().filter_map(with_their_own).collect()
}

/// Measures, prints the table, and writes `target/bench.json`. The status is 1 if a figure
/// is missing.
///
/// # Errors
/// If no name has the word in it, or a file of figures cannot be read or written.
pub(crate) fn command(args: &BenchArgs) -> Result<u8> {
    let old = args.compare.as_deref().map(json::read).transpose()?;
    let runs = selected(all(), args.word.as_deref().unwrap_or_default());
    if runs.is_empty() {
        anyhow::bail!("no figure has this word in its name");
    }
    let measured = measure(runs, args.profile.name());
    print!("{}", table::text(&measured));
    let entries: Vec<Entry> = measured.iter().filter_map(Entry::of).collect();
    let path = paths::target().join("bench.json");
    json::write(&path, &entries)?;
    if let Some(old) = old {
        print!("\n{}", table::comparison(&json::compare(&old, &entries)));
    }
    let missing = measured.len() - entries.len();
    println!(
        "\n{} figures, {missing} missing; perfvisor of profile {}; {}",
        entries.len(),
        args.profile.name(),
        path.display()
    );
    Ok(u8::from(missing > 0))
}

/// Runs all, and gives the figures in their order.
fn measure(runs: Vec<Run>, profile: &'static str) -> Vec<Measured> {
    let mut tests = Vec::new();
    let mut rest = Vec::new();
    for Run {
        mut test,
        figures,
        read,
    } in runs
    {
        test.profile = profile;
        rest.push((test.name.clone(), figures, read));
        tests.push(test);
    }
    let results = Mutex::new(Vec::new());
    guest_tests::run_all(tests, &|test, took, seen| {
        say!("{}: took {:.0} s", test.name, took.as_secs_f32());
        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push((test.name.clone(), seen));
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut all = Vec::new();
    for (name, figures, read) in rest {
        let found = results.iter().position(|(of, _)| *of == name);
        let seen = match found {
            Some(n) => results.swap_remove(n).1,
            None => Err(anyhow::anyhow!("{name} did not run")),
        };
        all.extend(figure::measured(figures, seen, read));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_those_of_registers_begin_alike() {
        let figures: Vec<Figure> = all().into_iter().flat_map(|run| run.figures).collect();
        let names: BTreeSet<&str> = figures.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names.len(), figures.len());
        for name in [
            "msr_exit_rdmsr_constant_idle",
            "msr_exit_global_ctrl_stop_4_host_pmu",
        ] {
            assert!(names.contains(name), "{name}");
        }
        let runs: BTreeSet<String> = all().into_iter().map(|run| run.test.name).collect();
        assert_eq!(runs.len(), all().len());
    }

    #[test]
    fn a_word_selects_figures_by_their_names() {
        let names = |word| -> Vec<String> {
            let runs = selected(all(), word);
            let figures = runs.into_iter().flat_map(|run| run.figures);
            figures.map(|figure| figure.name).collect()
        };
        let registers = names("msr_exit_");
        assert!(registers.len() > 10);
        assert!(registers.iter().all(|name| name.starts_with("msr_exit_")));
        assert_eq!(names("no such figure"), [""; 0]);
        assert!(names("").len() > registers.len());
    }

    /// What only a shell of a host would find out.
    #[test]
    fn lines_are_shell() {
        for Run { test, .. } in all() {
            let mut shell = std::process::Command::new("sh");
            let parsed = shell.args(["-n", "-c", &test.line]).output().unwrap();
            assert!(parsed.status.success(), "{}: {parsed:?}", test.name);
        }
    }
}
