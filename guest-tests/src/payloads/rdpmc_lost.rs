//! A guest that writes its counters again and again and reads none: its reads go
//! astray, so no counter is started any more. Any kind of read starts the count anew.
//! guest-contract §5.5 step 6; rule G-504.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{Gp, rdmsr, rdpmc_checked, wrmsr_checked};
use guest_tests::pmu::EN;
use guest_tests::{check, payload};

payload!(main);

/// Writes in a row after which the VMM gives up.
const LOST: u64 = 1_000;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    counters.clear();
    let msr = counters.counter(0);
    _ = rdmsr(msr);
    let writes = |n: u64| {
        (0..n)
            .take_while(|i| wrmsr_checked(msr, *i).is_ok())
            .count()
    };
    check!(
        report,
        "G-504",
        writes(LOST - 1),
        999,
        "writes, then an RDPMC"
    );
    check!(report, "G-504", rdpmc_checked(0), Ok(LOST - 2), "the RDPMC");
    check!(
        report,
        "G-504",
        writes(LOST - 1),
        999,
        "writes, then an RDMSR"
    );
    check!(report, "G-504", rdmsr(msr), LOST - 2, "the RDMSR");
    check!(
        report,
        "G-504",
        writes(LOST + 1),
        999,
        "writes without a read"
    );
    let start = wrmsr_checked(counters.select(0), counters.cycles() | EN);
    check!(report, "G-504", start, Err(Gp), "a counter is started");
    check!(report, "G-504", rdmsr(msr), LOST - 2, "it does not count");
}
