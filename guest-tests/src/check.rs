//! Checks that name the rule they test.

use core::fmt::Debug;

use crate::println;
use crate::serial::Decimal;

/// Failures printed in full; later ones only count.
const FAILURES_SHOWN: u32 = 40;

/// Counts the checks of one payload.
#[derive(Debug)]
pub struct Report {
    checks: u32,
    failures: u32,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            checks: 0,
            failures: 0,
        }
    }

    /// Counts one check; on failure prints rule, subject and both values.
    /// Returns whether it held. Use [`check!`](macro@crate::check).
    pub fn record<T: Debug + PartialEq + ?Sized>(
        &mut self,
        rule: &str,
        subject: core::fmt::Arguments<'_>,
        got: &T,
        expected: &T,
    ) -> bool {
        self.checks += 1;
        if got == expected {
            return true;
        }
        self.failures += 1;
        if self.failures <= FAILURES_SHOWN {
            println!("FAIL {rule} {subject}: expected {expected:x?}, got {got:x?} (hex)");
        }
        false
    }

    /// Whether nothing failed so far.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures == 0
    }

    /// Prints the totals and gives the exit status: 0, or 1 if anything failed.
    pub(crate) fn finish(&self) -> u32 {
        println!(
            "{} checks, {} failed",
            Decimal(self.checks),
            Decimal(self.failures)
        );
        u32::from(!self.passed())
    }
}

/// `check!(report, "G-103", got, expected, "subject {}", …)` counts one check and
/// is true if the values are equal; if not, it prints a line that begins with `FAIL`.
#[macro_export]
macro_rules! check {
    ($report:expr, $rule:expr, $got:expr, $expected:expr, $($subject:tt)+) => {
        $report.record($rule, format_args!($($subject)+), &$got, &$expected)
    };
}
