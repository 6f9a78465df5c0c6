//! The result of a run of checks and tests: counted, and told as it comes.

use std::time::{Duration, Instant};

use anyhow::Result;

/// What has been counted so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    filter: Option<String>,
    passed: usize,
    failed: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl Report {
    /// An empty report that wants only the names with `filter` in them.
    pub(crate) fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            ..Self::default()
        }
    }

    /// The word that names must contain.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.filter.as_deref()
    }

    /// Whether a check of this name is to run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|word| name.contains(word.as_str()))
    }

    /// Counts a success.
    pub(crate) fn pass(&mut self, name: &str, note: &str) {
        println!("ok      {name}{note}");
        self.passed += 1;
    }

    /// Counts successes that have been told already.
    pub(crate) fn passed_silently(&mut self, n: usize) {
        self.passed += n;
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, name: &str, reason: &str) {
        println!("FAILED  {name}: {reason}");
        self.failed.push((name.to_owned(), reason.to_owned()));
    }

    /// Counts what was not tried.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        println!("skipped {name}: {reason}");
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Runs a check if it is wanted, and counts it.
    pub(crate) fn step(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        if !self.wants(name) {
            return;
        }
        let began = Instant::now();
        let outcome = check();
        self.settle(name, began.elapsed(), outcome);
    }

    /// Counts a check that has run, and for how long it did.
    pub(crate) fn settle(&mut self, name: &str, took: Duration, outcome: Result<()>) {
        let note = note(took);
        match outcome {
            Ok(()) => self.pass(name, &note),
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Tells the end: failures and skips again, then the counts on a line of their own.
    /// Returns the exit status.
    pub(crate) fn finish(&self) -> u8 {
        println!();
        for (name, reason) in &self.skipped {
            println!("skipped {name}: {reason}");
        }
        for (name, reason) in &self.failed {
            println!("FAILED  {name}: {reason}");
        }
        let (failed, skipped) = (self.failed.len(), self.skipped.len());
        println!("{} passed, {failed} failed, {skipped} skipped", self.passed);
        u8::from(failed > 0)
    }
}

/// The time that a check took, if anybody had to wait for it.
fn note(took: Duration) -> String {
    const NOTICED: Duration = Duration::from_millis(100);
    if took < NOTICED {
        return String::new();
    }
    format!(" ({:.1} s)", took.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_took_no_time_says_none() {
        assert_eq!(note(Duration::from_millis(30)), "");
        assert_eq!(note(Duration::from_millis(1_240)), " (1.2 s)");
    }

    #[test]
    fn only_failures_change_the_exit_status() {
        let mut report = Report::new(Some("a".into()));
        report.step("a1", || Ok(()));
        report.skip("a2", "why");
        report.step("b", || anyhow::bail!("not wanted"));
        assert_eq!(
            (report.passed, report.skipped.len(), report.finish()),
            (1, 1, 0)
        );
        report.step("a3", || anyhow::bail!("bad"));
        assert_eq!((report.failed.len(), report.finish()), (1, 1));
    }
}
