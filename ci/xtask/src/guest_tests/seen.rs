//! What came out of a guest test, and the questions that the checks ask of it.

use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::complaints;
use crate::guest;
use crate::nested::Ended;
use crate::patience::Why;
use crate::perf;

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
    /// What it was given by the host's clock.
    pub(crate) limit: Duration,
}

impl Seen {
    /// Whether `timeout` ended it: busybox's passes on the status of a program that
    /// SIGTERM ended.
    pub(super) fn timed_out(&self) -> bool {
        matches!(self.status, 124 | 143)
    }

    /// Whether the guest's kernel gave up.
    pub(super) fn panicked(&self) -> bool {
        self.console.contains("Kernel panic - not syncing")
    }

    /// Whether perfvisor failed before the guest's kernel had printed anything.
    pub(super) fn never_began(&self) -> bool {
        self.status != 0 && self.console.trim().is_empty()
    }

    /// The end of what was printed, for a failure's reason.
    pub(super) fn last_words(&self) -> String {
        let console = crate::cmd::last_lines(&self.console, 12);
        let vmm = crate::cmd::last_lines(&self.vmm, 6);
        format!("console:\n{console}\nperfvisor ({}):\n{vmm}", self.status)
    }

    /// That perfvisor and the line ended with status 0.
    ///
    /// # Errors
    /// Says which did not.
    pub(crate) fn succeeded(&self) -> Result<()> {
        let ended = if self.timed_out() {
            Ended::GivenUp(Why::TooLong(self.limit))
        } else {
            Ended::Exit(self.status)
        };
        match guest::verdict(ended, &self.console)? {
            0 => Ok(()),
            status => Err(anyhow!("the line ended with status {status}")),
        }
    }

    /// That neither the guest's kernel has a complaint, if the line came to its end
    /// there, but of functions of which it `may_warn`, nor the host's of the guest's MSRs.
    pub(super) fn no_complaints(&self, may_warn: &[&str]) -> Result<()> {
        if self.exit.is_some() {
            complaints::none_beside(&self.console, may_warn)?;
        }
        let of_host = self.vmm.lines().find(|line| {
            let line = line.to_ascii_lowercase();
            line.contains("unhandled") || line.contains("unchecked")
        });
        match of_host {
            Some(line) => Err(anyhow!("the host's kernel says: {line}")),
            None => Ok(()),
        }
    }

    /// Whether perfvisor said that a clock backs the guest's counters.
    pub(crate) fn vmm_is_clock_derived(&self) -> bool {
        perf::is_clock_backed(&self.vmm)
    }

    /// That a line of the console is this, and nothing more.
    ///
    /// # Errors
    /// Names the line.
    pub(crate) fn says(&self, line: &str) -> Result<()> {
        if self.console.lines().any(|l| l.trim_end() == line) {
            return Ok(());
        }
        Err(anyhow!("the console has no line `{line}`"))
    }

    /// Each of these lines stands on the console.
    ///
    /// # Errors
    /// Names the first that does not.
    pub(crate) fn says_each(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| self.says(line))
    }

    /// The number of the first line of the console that is `name` and a number.
    ///
    /// # Errors
    /// Names what is missing.
    pub(crate) fn number(&self, name: &str) -> Result<u64> {
        let number = |line: &str| line.strip_prefix(name)?.trim_end().parse().ok();
        let found = self.console.lines().find_map(number);
        found.ok_or_else(|| anyhow!("the console has no line `{name}` with a number"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(console: &str, vmm: &str) -> Seen {
        Seen {
            console: console.into(),
            vmm: vmm.into(),
            exit: guest::exit_status(console),
            ..Seen::default()
        }
    }

    #[test]
    fn a_line_is_the_whole_line() {
        let seen = seen("left=0\r\nmissed=01\nn=12\nn=x\n", "");
        seen.says("left=0").unwrap();
        assert!(seen.says("missed=0").is_err());
        assert_eq!(seen.number("n=").unwrap(), 12);
        assert!(seen.number("m=").is_err());
    }

    #[test]
    fn a_guest_that_ended_was_asked_for_complaints() {
        let asked = "=== complaints\n=== end\nperfvisor.exit=0\n";
        seen(asked, "").no_complaints(&[]).unwrap();
        seen("going\n", "").no_complaints(&[]).unwrap();
        assert!(seen("perfvisor.exit=0\n", "").no_complaints(&[]).is_err());
        let unhandled = "kvm: vcpu0, guest rIP: 0x1 Unhandled WRMSR(0x38f) = 0x0\n";
        assert!(seen(asked, unhandled).no_complaints(&[]).is_err());
    }
}
