//! Checks of one MSR: what it stores, refuses and shows.

use crate::check;
use crate::check::Report;
use crate::cpu::{Gp, rdmsr_checked, wrmsr, wrmsr_checked};

/// A register that stores `good` values and refuses `bad` ones, keeping what it had.
pub fn stores(report: &mut Report, rule: &str, msr: u32, good: &[u64], bad: &[u64]) {
    for &value in good {
        check!(
            report,
            rule,
            wrmsr_checked(msr, value),
            Ok(()),
            "WRMSR {msr:#x} <- {value:#x}"
        );
        check!(
            report,
            rule,
            rdmsr_checked(msr),
            Ok(value),
            "RDMSR {msr:#x} after {value:#x}"
        );
    }
    let kept = rdmsr_checked(msr);
    for &value in bad {
        check!(
            report,
            rule,
            wrmsr_checked(msr, value),
            Err(Gp),
            "WRMSR {msr:#x} <- {value:#x}"
        );
        check!(
            report,
            rule,
            rdmsr_checked(msr),
            kept,
            "RDMSR {msr:#x} after refused {value:#x}"
        );
    }
    wrmsr(msr, 0);
}

/// A register that can be read and refuses every write.
pub fn read_only(report: &mut Report, rule: &str, msr: u32, value: u64) {
    check!(
        report,
        rule,
        rdmsr_checked(msr),
        Ok(value),
        "RDMSR {msr:#x}"
    );
    for write in [0, value, 1] {
        check!(
            report,
            rule,
            wrmsr_checked(msr, write),
            Err(Gp),
            "WRMSR {msr:#x} <- {write:#x}"
        );
    }
    check!(
        report,
        rule,
        rdmsr_checked(msr),
        Ok(value),
        "RDMSR {msr:#x} after refused writes"
    );
}

/// A register that is not there: any access is #GP.
pub fn faults(report: &mut Report, msr: u32, name: &str) {
    let rule = "s8 absent, G-007";
    let read = rdmsr_checked(msr);
    check!(report, rule, read, Err(Gp), "RDMSR {msr:#x} ({name})");
    let wrote = wrmsr_checked(msr, 0);
    check!(report, rule, wrote, Err(Gp), "WRMSR {msr:#x} <- 0 ({name})");
}
