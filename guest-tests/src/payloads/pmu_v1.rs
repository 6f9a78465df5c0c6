//! The registers of version 1: selects and counters, nothing global, no full-width
//! writes. guest-contract §1.1, §1.3 (v1), §1.4, §8; rules G-001, G-103.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{rdmsr_checked, wrmsr, wrmsr_checked};
use guest_tests::pmu::{self, EN, INT, Leaf0A, spin_for, spin_until};
use guest_tests::registers::{faults, stores};
use guest_tests::{check, payload};

payload!(main);

/// The counters that the register layout has room for.
const ROOM: u32 = 8;
/// TSC ticks in which a counter that must not move would move.
const QUIET: u64 = 200_000;

fn main(report: &mut Report) {
    let leaf = Leaf0A::read();
    if !check!(report, "s0", leaf.version, 1, "leaf 0AH version") {
        return;
    }
    check!(report, "s1.1", leaf.fixed, 0, "fixed counters");
    for i in 0..leaf.gp {
        counter(report, leaf, i);
        let good = [pmu::CYCLES | INT, 0xff9f_ffff, 0];
        let bad = [1 << 21, 1 << 32, 1 << 63];
        stores(report, "s1.4 EVTSEL", pmu::EVENT_SELECT + i, &good, &bad);
        counts(report, i);
    }
    for i in leaf.gp..ROOM {
        faults(report, pmu::PMC + i, "beyond the last counter");
        faults(report, pmu::EVENT_SELECT + i, "beyond the last counter");
    }
    stores(
        report,
        "s1.4 0x1d9",
        pmu::DEBUG_CONTROL,
        &[0],
        &[1 << 11, 1 << 12],
    );
}

/// A write takes 32 bits and extends their sign to the width.
fn counter(report: &mut Report, leaf: Leaf0A, i: u32) {
    let msr = pmu::PMC + i;
    let max = leaf.max_count();
    check!(report, "G-001", rdmsr_checked(msr), Ok(0), "reset PMC{i}");
    for (value, expected) in [
        (0x6789_abcd, 0x6789_abcd),
        (0xdead_0000_0000_0001, 1),
        (0x8000_0000, max & !0x7fff_ffff),
        (0xffff_ffff, max),
        (0, 0),
    ] {
        let wrote = wrmsr_checked(msr, value);
        check!(report, "s1.4 PMC", wrote, Ok(()), "PMC{i} <- {value:#x}");
        let now = rdmsr_checked(msr);
        check!(
            report,
            "s1.4 PMC",
            now,
            Ok(expected),
            "PMC{i} after {value:#x}"
        );
    }
}

/// EN alone starts and stops it.
fn counts(report: &mut Report, i: u32) {
    let read = || rdmsr_checked(pmu::PMC + i).unwrap_or(0);
    wrmsr(pmu::EVENT_SELECT + i, pmu::CYCLES | EN);
    let moves = spin_until(|| read() > 0);
    check!(report, "s1.3 v1", moves, true, "PMC{i} moves by EN alone");
    wrmsr(pmu::EVENT_SELECT + i, pmu::CYCLES);
    let before = read();
    spin_for(QUIET);
    check!(report, "G-103", read(), before, "PMC{i} stands without EN");
}
