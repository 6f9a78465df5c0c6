//! The output of the guest's kernel: its last lines are kept, for a guest that dies.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use guest_words::COMPLAINT;

use crate::output::stderr;

/// How many bytes are kept.
const KEPT: usize = 16 << 10;
/// How many lines are shown of a guest that has died.
const SHOWN: usize = 12;

/// What the guest's kernel prints.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsoleLog {
    kept: Arc<Mutex<VecDeque<u8>>>,
    /// Whether it is shown at once as well.
    shown: bool,
}

impl ConsoleLog {
    /// A log; `shown` on standard error as well.
    pub(super) fn new(shown: bool) -> Self {
        Self {
            kept: Arc::default(),
            shown,
        }
    }

    /// Why the guest's first program gave up, if it did.
    pub(super) fn complaint(&self) -> Option<String> {
        let lines = self.lines();
        let complaint = |line: &String| line.strip_prefix(COMPLAINT).map(str::to_owned);
        lines.iter().find_map(complaint)
    }

    /// The last lines.
    pub(super) fn last_lines(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.drain(..lines.len().saturating_sub(SHOWN));
        lines
    }

    fn lines(&self) -> Vec<String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        let lines = text.lines().map(printable);
        lines.filter(|line| !line.is_empty()).collect()
    }
}

/// A guest chooses the bytes: none of them may steer the caller's terminal.
fn printable(line: &str) -> String {
    let visible = |c: &char| !c.is_control() || *c == '\t';
    line.chars().filter(visible).collect()
}

impl Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shown {
            let text = String::from_utf8_lossy(bytes);
            let text: Vec<_> = text.split('\n').map(printable).collect();
            stderr::text(&text.join("\n"));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let beyond = kept.len().saturating_sub(KEPT);
        kept.drain(..beyond);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_cannot_steer_a_terminal() {
        let mut log = ConsoleLog::new(false);
        for number in 0..10_000 {
            writeln!(log, "line {number}\r").unwrap();
        }
        let lines = log.last_lines();
        assert_eq!(lines.len(), SHOWN);
        assert_eq!(lines.last().unwrap(), "line 9999");
        assert_eq!(log.complaint(), None);
        log.write_all(b"\x1b]0;x\x07a\n").unwrap();
        assert_eq!(log.last_lines().last().unwrap(), "]0;xa");
        log.write_all(b"perfvisor-init: cannot mount /\r\n")
            .unwrap();
        assert_eq!(log.complaint().unwrap(), "cannot mount /");
        assert!(log.kept.lock().unwrap().len() <= KEPT);
    }
}
