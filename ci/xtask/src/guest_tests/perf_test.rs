//! `perf test` in a guest, against the table in `ci/perf-test.md`: what passes there
//! must pass, and what does not must not, so that the reasons stay true.

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Seen};
use crate::images::PERF_TEST_BIN;

/// The table, which is the documentation as well.
const TABLE: &str = include_str!("../../../perf-test.md");
/// The tests of the short list.
const SHORT: &str = "perf-test";
/// The word that asks for the whole list.
const ALL: &str = "perf-test-all";

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Skip,
    Fails,
    /// One time this, one time that, for a reason that is no fault of the PMU.
    Varies,
    /// It never is run.
    NotRun,
}

/// One line of the table.
#[derive(Debug)]
struct Expected<'a> {
    /// As `perf test list` shows it.
    name: &'a str,
    /// With a clock behind the counters.
    clock: Outcome,
    /// With the mock PMU behind them.
    mock_pmu: Outcome,
    /// Whether it is on the short list.
    short: bool,
}

/// The short list and the whole one, for each backing and kernel.
pub(super) fn all() -> Vec<GuestTest> {
    let mut rows = Vec::new();
    for kernel in KERNELS {
        for list in [SHORT, ALL] {
            let tests = [
                by_clock(list, kernel),
                GuestTest {
                    mock_pmu: "core:gp=4",
                    vmm: "--pmu type=auto --initramfs {perf-test.cpio}",
                    ..row(&format!("{list}/mock-pmu"), kernel, |seen, test| {
                        ensure!(seen.vmm.contains("backing=cpu "), "{}", seen.vmm);
                        as_expected(seen, test, |expected| expected.mock_pmu)
                    })
                },
            ];
            rows.extend(tests.map(|test| test.daily_with("6.12")));
        }
    }
    rows
}

/// The short list with a clock behind the counters.
pub(super) fn short(guest_kernel: &'static str) -> GuestTest {
    by_clock(SHORT, guest_kernel)
}

fn by_clock(list: &str, guest_kernel: &'static str) -> GuestTest {
    row(&format!("{list}/clock"), guest_kernel, |seen, test| {
        as_expected(seen, test, |expected| expected.clock)
    })
}

fn row(name: &str, guest_kernel: &'static str, check: super::Check) -> GuestTest {
    let whole = name.starts_with(ALL);
    GuestTest {
        guest_kernel,
        vmm: "--pmu type=software --initramfs {perf-test.cpio}",
        limit: if whole { 1800 } else { 240 },
        on_request: if whole { ALL } else { "" },
        ..GuestTest::new(format!("{name}/guest-{guest_kernel}"), line(whole), check)
    }
}

/// `perf test` takes parts of names; to leave some out it wants their numbers. busybox's
/// shell runs its own programs whatever PATH is. A kernel that finds its handlers slow
/// would refuse the rates of some tests. On a terminal the tool uses colours.
fn line(whole: bool) -> String {
    let path = format!(
        "export PATH=/{PERF_TEST_BIN}:$PATH; ln -sf bash /bin/sh; \
         echo 0 >/proc/sys/kernel/perf_cpu_time_max_percent; "
    );
    let names = |wanted: fn(&Expected<'_>) -> bool, flag: &str| -> String {
        let wanted = expected().filter(wanted);
        let words = wanted.map(|e| format!(" {flag}{}", crate::cmd::quoted(e.name)));
        words.collect()
    };
    if whole {
        let never = names(|e| e.clock == Outcome::NotRun, "-e ");
        return format!(
            "{path}never=$(perf test list 2>&1 | grep -F{never} | cut -d: -f1 | tr -d ' ' | tr '\\n' ,); \
             perf test -s $never 2>&1 | cat"
        );
    }
    format!("{path}perf test{} 2>&1 | cat", names(|e| e.short, ""))
}

/// The lines of the table.
fn expected() -> impl Iterator<Item = Expected<'static>> {
    TABLE.lines().filter_map(Expected::parse)
}

impl<'a> Expected<'a> {
    /// `| name | clock | mock PMU | short | why |`; what has other words in the second
    /// column is no line of the table.
    fn parse(line: &'a str) -> Option<Self> {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let name = cells.next()?;
        let (clock, mock_pmu) = (cells.next()?, cells.next()?);
        Some(Self {
            name,
            clock: Outcome::parse(clock)?,
            mock_pmu: Outcome::parse(mock_pmu)?,
            short: cells.next()? == "yes",
        })
    }
}

impl Outcome {
    /// Of the table.
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "ok" => Self::Ok,
            "skip" => Self::Skip,
            "fails" => Self::Fails,
            "varies" => Self::Varies,
            "not run" => Self::NotRun,
            _ => return None,
        })
    }

    /// Of the tool; of two that fit, the first.
    const SAID: [(&'static str, Self); 4] = [
        (": Ok", Self::Ok),
        (": Skip (user override)", Self::NotRun),
        (": Skip", Self::Skip),
        (": FAILED!", Self::Fails),
    ];
}

/// The name and outcome in ` 4.1: Read samples using the mmap interface    : Ok`.
fn said(line: &str) -> Option<(&str, Outcome)> {
    let (number, rest) = line.trim_start().split_once(':')?;
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    if number.is_empty() || !number.chars().all(is_number) {
        return None;
    }
    let outcome = |(word, outcome)| Some((rest.find(word)?, outcome));
    let found = Outcome::SAID.into_iter().filter_map(outcome);
    let (end, outcome) = found.min_by_key(|(end, _)| *end)?;
    Some((rest[..end].trim(), outcome))
}

/// Each test that was to run did, and each that ran is in the table with its outcome.
fn as_expected(seen: &Seen, test: &GuestTest, due: fn(&Expected<'_>) -> Outcome) -> Result<()> {
    seen.succeeded()?;
    let whole = test.name.starts_with(ALL);
    differences(&seen.console, whole, due)
}

fn differences(console: &str, whole: bool, due: fn(&Expected<'_>) -> Outcome) -> Result<()> {
    let table: Vec<_> = expected().collect();
    let said: Vec<_> = console.lines().filter_map(said).collect();
    let mut wrong = Vec::new();
    for (name, outcome) in &said {
        let line = table.iter().find(|line| line.name == *name);
        let line = line.with_context(|| format!("`{name}` is not in ci/perf-test.md"))?;
        if ![*outcome, Outcome::Varies].contains(&due(line)) {
            wrong.push(format!("`{name}`: {outcome:?}, not {:?}", due(line)));
        }
    }
    for line in table.iter().filter(|line| line.short || whole) {
        let ran = said.iter().any(|(name, _)| *name == line.name);
        if !ran && due(line) != Outcome::NotRun {
            wrong.push(format!("`{}` did not run", line.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_read() {
        for (line, is) in [
            (
                " 4.1: Read samples: x   : Ok",
                Some(("Read samples: x", Outcome::Ok)),
            ),
            (
                "  1: vmlinux symtab     : Skip (a: Ok)",
                Some(("vmlinux symtab", Outcome::Skip)),
            ),
            (
                " 77: Sigtrap             : Skip (user override)",
                Some(("Sigtrap", Outcome::NotRun)),
            ),
            (
                " 40: LLVM               : FAILED!",
                Some(("LLVM", Outcome::Fails)),
            ),
            ("  4: mmap interface tests   :", None),
            ("perf: Ok", None),
        ] {
            assert_eq!(said(line), is, "{line}");
        }
    }

    #[test]
    fn the_table_is_whole() {
        let mut names: Vec<_> = expected().map(|e| e.name).collect();
        assert!(names.len() > 100, "{} lines", names.len());
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(names.len(), n);
        let reason = |line: &&str| {
            line.split('|')
                .nth(5)
                .is_none_or(|why| why.trim().is_empty())
        };
        let bare = |line: &&str| {
            let fine = |e: Expected<'_>| e.clock == Outcome::Ok && e.mock_pmu == Outcome::Ok;
            Expected::parse(line).is_some_and(|e| !fine(e)) && reason(line)
        };
        let bare: Vec<_> = TABLE.lines().filter(bare).collect();
        assert!(bare.is_empty(), "without a reason: {bare:?}");
    }

    /// A run as the table says, then one change of it after the other.
    #[test]
    fn a_difference_is_told_in_either_direction() {
        let word = |outcome| Outcome::SAID.into_iter().find(|(_, is)| *is == outcome);
        let line = |e: &Expected<'_>, outcome| {
            let outcome = if outcome == Outcome::Varies {
                Outcome::Ok
            } else {
                outcome
            };
            word(outcome).map(|(word, _)| format!(" 1.1: {} {word}\n", e.name))
        };
        let good: Vec<_> = expected().filter_map(|e| line(&e, e.clock)).collect();
        let of_clock = |e: &Expected<'_>| e.clock;
        differences(&good.concat(), true, of_clock).unwrap();
        assert!(differences("", true, of_clock).is_err());
        let shorts = expected().filter(|e| e.short);
        let shorts: String = shorts.filter_map(|e| line(&e, e.clock)).collect();
        differences(&shorts, false, of_clock).unwrap();
        assert!(differences(&shorts, true, of_clock).is_err());
        for (from, to) in [
            (": Ok", ": FAILED!"),
            (": Skip", ": Ok"),
            (": FAILED!", ": Skip"),
        ] {
            let bad = good.concat().replacen(from, to, 1);
            assert!(differences(&bad, true, of_clock).is_err(), "{from} {to}");
        }
        let new = format!("{} 9: A new test : Ok\n", good.concat());
        assert!(differences(&new, true, of_clock).is_err());
    }
}
