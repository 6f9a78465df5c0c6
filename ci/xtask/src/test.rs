//! `cargo xtask test`: everything that CI runs.

use crate::report::Report;
use crate::{check, guest_tests, payloads};

/// Runs the checks and tests whose name has `word` in it; `quick` leaves out guests.
pub(crate) fn command(quick: bool, word: Option<String>) -> u8 {
    let mut report = Report::new(word);
    check::everything(&mut report);
    if !quick {
        payloads::run(&mut report);
        guest_tests::run(&mut report);
    }
    report.finish()
}
