//! What a host is asked to run, and how that ended.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::patience::{Patience, Why};

/// Seconds that a line of the user may take when nobody says.
const DEFAULT_TIMEOUT: u64 = 600;

/// What a job is: a shell line, and files that it finds.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// The line, for /bin/sh.
    pub(crate) line: String,
    /// Further files of the host: name without the leading slash, content.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// How long it may stand still, if that is limited.
    pub(crate) patience: Option<Patience>,
    /// Whether a user types into it: what this process's standard input has is its own, and
    /// nothing limits its time that the user did not ask for.
    pub(crate) interactive: bool,
}

impl Job {
    /// Adds a file of this machine, once.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn add(&mut self, name: String, path: &Path) -> Result<()> {
        if !self.has(&name) {
            let bytes = fs::read(path);
            let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
            self.files.push((name, bytes));
        }
        Ok(())
    }

    /// Adds a file, once.
    pub(crate) fn add_bytes(&mut self, name: String, bytes: Vec<u8>) {
        if !self.has(&name) {
            self.files.push((name, bytes));
        }
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(of, _)| of == name)
    }

    /// The most that it may take.
    pub(crate) fn limit(&self, timeout: Option<u64>) -> Option<Duration> {
        let default = (!self.interactive).then_some(DEFAULT_TIMEOUT);
        timeout.or(default).map(Duration::from_secs)
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this exit status.
    Exit(u8),
    /// By us, with a reason.
    GivenUp(Why),
    /// With its host, while it ran.
    HostDied,
    /// By the user's keys.
    Quit,
}

impl Ended {
    /// The exit status that stands for it.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Exit(status) => status,
            Self::GivenUp(_) => 124,
            Self::HostDied => 125,
            Self::Quit => 0,
        }
    }
}
