//! Makes one kind of access `times=` times, for whoever counts what its host does
//! meanwhile. `what=` is its number in [`main`]. Four counters run, far from an overflow.
#![no_std]
#![no_main]

use core::hint::black_box;

use guest_tests::check::Report;
use guest_tests::cpu::{inb, rdmsr, rdpmc_nop_checked, wrmsr};
use guest_tests::pmu::{CYCLES, EN, EVENT_SELECT, FULL_PMC, GLOBAL_CONTROL, Leaf0A, low_bits};
use guest_tests::{apic, args, check, doorbell, payload};

payload!(main);

const COUNTERS: u32 = 4;
/// A port that no device has.
const NOBODY: u16 = 0x1234;
/// IA32_P5_MC_ADDR, which reads as a constant.
const CONSTANT: u32 = 0;

/// Reads something for the reading's sake.
fn hide<T>(value: T) {
    black_box(value);
}

fn main(report: &mut Report) {
    apic::enable();
    let counters = Leaf0A::read();
    let enough = counters.version >= 2 && counters.gp >= COUNTERS;
    if !check!(report, "s0", enough, true, "version 2, 4 counters") {
        return;
    }
    doorbell::install();
    for i in 0..COUNTERS {
        wrmsr(FULL_PMC + i, 1);
        wrmsr(EVENT_SELECT + i, CYCLES | EN);
    }
    wrmsr(GLOBAL_CONTROL, low_bits(COUNTERS));
    let (what, times) = (args::number("what", 0), args::number("times", 1));
    for _ in 0..times {
        match what {
            0 => hide(inb(NOBODY)),
            1 => hide(rdmsr(CONSTANT)),
            2 => hide(rdmsr(EVENT_SELECT)),
            3 => wrmsr(EVENT_SELECT, CYCLES | EN),
            4 => wrmsr(GLOBAL_CONTROL, low_bits(COUNTERS)),
            5 => {
                wrmsr(GLOBAL_CONTROL, 0);
                wrmsr(GLOBAL_CONTROL, low_bits(COUNTERS));
            }
            6 => hide(rdmsr(FULL_PMC)),
            _ => hide(rdpmc_nop_checked(0).is_ok()),
        }
    }
    wrmsr(GLOBAL_CONTROL, 0);
}
