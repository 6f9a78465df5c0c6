//! `cargo xtask test`: everything that CI runs.

use crate::report::Report;
use crate::{check, guest_tests, payloads};

/// Runs the checks and tests whose name has `word` in it: those without a guest, those
/// with one, or both.
pub(crate) fn command(without: bool, with: bool, word: Option<String>) -> u8 {
    let mut report = Report::new(word);
    if without {
        check::everything(&mut report);
    }
    if with {
        payloads::run(&mut report);
        guest_tests::run(&mut report);
    }
    report.finish()
}
