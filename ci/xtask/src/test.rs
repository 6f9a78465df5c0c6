//! `cargo xtask test`: everything that CI runs.

use std::thread;

use crate::guest_tests::Plan;
use crate::report::Report;
use crate::{check, payloads};

/// Runs the checks and tests whose name has `word` in it: those without a guest, those
/// with one, or both.
pub(crate) fn command(without: bool, with: bool, word: Option<String>) -> u8 {
    let mut report = Report::new(word);
    let plan = with.then(|| Plan::new(&mut report));
    thread::scope(|scope| {
        if let Some(plan) = &plan {
            // The checks leave a third of two CPUs idle.
            scope.spawn(|| plan.make_ready());
        }
        if without {
            check::everything(&mut report);
        }
        if let Some(plan) = &plan {
            payloads::run(&mut report);
            plan.run(&mut report);
        }
    });
    report.finish()
}
