//! A guest that writes its counters again and again and reads none. On a host that
//! answers RDPMC with a silent 0 its reads go astray, so no counter is started any
//! more: until its RDPMC arrives, or a driver tests a counter. On a host whose RDPMC
//! faults no read can, and a sampler that reads no count is left alone.
//! guest-contract §5.5 step 6; rule G-504.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{Gp, rdmsr, rdpmc_checked, wrmsr_checked};
use guest_tests::pmu::EN;
use guest_tests::{check, payload, println};

payload!(main);

/// The write in a row that is refused where reads may be lost.
const LOST: u64 = 1_000;
/// Floods of the VMM's log that are tried.
const FLOODS: u64 = 10;

/// Writes counter 0 until it faults, `n` times at most: with how many writes were done.
fn write(counters: Counters, n: u64) -> u64 {
    let msr = counters.counter(0);
    let done = (1..=n).take_while(|i| wrmsr_checked(msr, *i).is_ok());
    done.count() as u64
}

/// Turns counter 0 on, if that does not fault, and off again. Ends with a read, so
/// that writes are counted from 0.
fn start(counters: Counters) -> Result<(), Gp> {
    let started = wrmsr_checked(counters.select(0), counters.cycles() | EN);
    counters.clear();
    _ = rdmsr(counters.counter(0));
    started
}

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    // Nothing is rewritten yet: what the host does.
    let is_silent = rdpmc_checked(0).is_ok();
    println!("RDPMC is {}", if is_silent { "silent" } else { "a fault" });
    counters.clear();
    _ = rdmsr(counters.counter(0));
    if is_silent {
        lost(report, counters);
    } else {
        let done = write(counters, 3 * LOST);
        check!(report, "G-504", done, 3 * LOST, "writes without a read");
        check!(report, "G-504", start(counters), Ok(()), "a start");
    }
}

fn lost(report: &mut Report, counters: Counters) {
    let msr = counters.counter(0);
    let most = LOST - 1;
    let done = write(counters, most);
    check!(report, "G-504", done, most, "writes, then an RDPMC");
    check!(report, "G-504", rdpmc_checked(0), Ok(most), "the RDPMC");
    let done = write(counters, most);
    check!(report, "G-504", done, most, "writes, then an RDMSR");
    check!(report, "G-504", rdmsr(msr), most, "the RDMSR");
    let done = write(counters, LOST);
    check!(report, "G-504", done, most, "the thousandth is refused");
    check!(report, "G-504", start(counters), Err(Gp), "a start");
    // Each of them is refused, and none is worth a line of the log.
    for _ in 0..FLOODS {
        for _ in 0..LOST {
            _ = wrmsr_checked(msr, 0);
        }
        _ = rdmsr(msr);
    }
    check!(report, "G-504", start(counters), Err(Gp), "a start, then");
    check!(report, "G-504", rdpmc_checked(0), Ok(most), "RDPMC arrives");
    check!(report, "G-504", start(counters), Ok(()), "it is forgiven");
    let done = write(counters, LOST);
    check!(report, "G-504", done, most, "the thousandth, again");
    let test = rdmsr(msr) ^ 0xffff;
    check!(
        report,
        "G-504",
        wrmsr_checked(msr, test),
        Ok(()),
        "a driver"
    );
    check!(report, "G-504", rdmsr(msr), test, "its test");
    check!(report, "G-504", start(counters), Ok(()), "it may begin");
}
