//! One PMI for each overflow: one a period however fast they come, and on Intel models
//! one an arming however many counters wrap.
//! guest-contract §4.3; rules G-004, G-104, G-304, G-401, G-402, G-404.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::pmi::{self, Handler};
use guest_tests::pmu::{INT, spin_for, spin_until};
use guest_tests::{apic, check, payload, trap};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 200_000;
/// Counts to a wrap in a row of them: less than what a handler takes.
const SHORT: u64 = 2_000;
/// Tries to load two counters before one wraps.
const TRIES: u32 = 20;
/// Overflows in a row.
const ROW: u32 = 100;
/// TSC ticks in which a PMI that must not come would come.
const QUIET: u64 = 2_000_000;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable();
    apic::set_lvtpc(apic::LVT_NMI);
    if counters.is_amd() {
        each(report, counters);
    } else {
        without_rearming(report, counters);
    }
    in_a_row(report);
}

/// AMD: each overflow interrupts, also if the handler does nothing.
fn each(report: &mut Report, counters: Counters) {
    pmi::install();
    pmi::set_handler(Handler::Nothing);
    counters.clear();
    counters.run(0b11);
    let before = trap::nmis();
    for i in [0, 1] {
        // Two at a time would be one NMI.
        counters.load(i, LEFT, INT);
        spin_until(|| trap::nmis() - before > i);
    }
    spin_for(QUIET);
    let came = trap::nmis() - before;
    check!(report, "G-304", came, 2, "NMIs of two counters");
    counters.clear();
}

/// Intel: a handler that does nothing gets no second PMI until it has armed again.
fn without_rearming(report: &mut Report, counters: Counters) {
    pmi::install();
    pmi::set_handler(Handler::Nothing);
    pmi::forget();
    let mut before = 0;
    // Without a global control they run at once: both must be loaded before one
    // wraps, or the second load arms again.
    for _ in 0..TRIES {
        counters.clear();
        before = trap::nmis();
        counters.load(1, 3 * LEFT, INT);
        counters.load(0, LEFT, INT);
        if counters.overflowed() == 0 && trap::nmis() == before {
            break;
        }
    }
    counters.run(0b11);
    let both = spin_until(|| counters.overflowed() == 0b11);
    check!(report, "s1.4", both, true, "both counters wrap");
    spin_for(QUIET);
    let came = trap::nmis() - before;
    check!(report, "G-401", came, 1, "NMIs for one arming");
    if !counters.has_globals() {
        // There the wraps show in the counters alone: nothing to be told again.
        return counters.clear();
    }
    pmi::set_handler(Handler::Acknowledge);
    counters.run(0);
    counters.run(0b11);
    spin_for(QUIET);
    let came = trap::nmis() - before;
    check!(report, "G-402", came, 2, "NMIs after arming again");
    check!(report, "G-402", pmi::seen(), 0b11, "status seen then");
    check!(report, "G-104", pmi::seen_again(), 0, "status acknowledged");
    counters.clear();
}

/// Handlers that saw no overflow.
static UNKNOWN: AtomicU32 = AtomicU32::new(0);

/// A driver's handler that starts the next period.
fn next() {
    let Some(counters) = Counters::find() else {
        return;
    };
    apic::set_lvtpc(apic::LVT_NMI);
    counters.stop();
    if counters.overflowed() & 1 == 0 {
        UNKNOWN.fetch_add(1, Ordering::Relaxed);
    }
    counters.acknowledge(1);
    if pmi::another_period() {
        counters.load(0, SHORT, INT);
        counters.run(1);
    }
}

fn in_a_row(report: &mut Report) {
    pmi::in_a_row(report, ROW, SHORT, next, "in a row");
    let unknown = UNKNOWN.load(Ordering::Relaxed);
    check!(report, "G-404", unknown, 0, "NMIs without an overflow");
}
