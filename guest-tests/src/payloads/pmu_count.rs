//! A cycles counter on GP0 and on fixed counter 1 moves exactly while it is
//! enabled. guest-contract §1.4 ("a counter runs if"), §1.3; rules G-003, G-103, G-105.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{rdmsr, wrmsr};
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::{check, payload, println};

payload!(main);

/// One of the two cycle counters.
#[derive(Clone, Copy)]
struct Counter {
    name: &'static str,
    counter: u32,
    control: u32,
    on: u64,
    off: u64,
    global: u64,
}

const COUNTERS: [Counter; 2] = [
    Counter {
        name: "GP0",
        counter: pmu::FULL_PMC,
        control: pmu::EVENT_SELECT,
        on: pmu::CYCLES | pmu::EN,
        off: pmu::CYCLES,
        global: pmu::GP0,
    },
    Counter {
        name: "fixed 1",
        counter: pmu::FIXED + 1,
        control: pmu::FIXED_CONTROL,
        on: pmu::FIXED1_ON,
        off: 0,
        global: pmu::FIXED1,
    },
];

/// TSC ticks between two looks at a stopped counter.
const WATCH: u64 = 20_000;

/// Event select: USR, OS.
const USER_AND_KERNEL: u64 = 3 << 16;

fn main(report: &mut Report) {
    let Some(leaf) = Leaf0A::with_global_registers(report) else {
        return;
    };
    check!(
        report,
        "s1.1",
        leaf.fixed >= 2,
        true,
        "fixed counter 1 of {}",
        leaf.fixed
    );
    for counter in COUNTERS {
        wrmsr(pmu::GLOBAL_CONTROL, 0);
        wrmsr(counter.counter, 0);
        wrmsr(counter.control, counter.on);
        alone(report, counter);
        wrmsr(pmu::GLOBAL_CONTROL, 0);
        wrmsr(counter.control, 0);
    }
    together(report);
    only_what_is_offered(report, leaf);
    check!(
        report,
        "G-105",
        rdmsr(pmu::GLOBAL_STATUS),
        0,
        "GLOBAL_STATUS without an overflow"
    );
}

/// Both switches of one counter, and a write while it runs.
fn alone(report: &mut Report, c: Counter) {
    let name = c.name;
    still(report, c, "GLOBAL_CTRL off from the start");
    check!(report, "s1.4", rdmsr(c.counter), 0, "{name} before it ran");
    wrmsr(pmu::GLOBAL_CONTROL, c.global);
    moving(report, c, "enabled");
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    let kept = rdmsr(c.counter);
    check!(report, "s1.4", kept != 0, true, "{name} keeps its count");
    still(report, c, "GLOBAL_CTRL off");
    wrmsr(pmu::GLOBAL_CONTROL, c.global);
    let resumed = rdmsr(c.counter);
    check!(
        report,
        "G-103",
        resumed >= kept,
        true,
        "{name} resumes from {kept:#x}, not {resumed:#x}"
    );
    moving(report, c, "resumed");
    wrmsr(c.control, c.off);
    still(report, c, "EN off, GLOBAL_CTRL on");
    wrmsr(c.control, c.on);
    moving(report, c, "EN on again");
    let base = 1 << 40;
    wrmsr(c.counter, base);
    let written = rdmsr(c.counter);
    check!(
        report,
        "s1.4",
        written >= base && written < 2 * base,
        true,
        "{name} goes on from a value written while it runs, {base:#x}: {written:#x}"
    );
    moving(report, c, "after a write");
}

/// An event that leaf 0AH calls absent is not counted, and no count is made up.
fn only_what_is_offered(report: &mut Report, leaf: Leaf0A) {
    for (bit, event, name) in [(1, 0xc0, "instructions"), (5, 0xc4, "branches")] {
        let is_offered = leaf.absent >> bit & 1 == 0;
        wrmsr(pmu::GLOBAL_CONTROL, 0);
        wrmsr(pmu::FULL_PMC, 0);
        wrmsr(pmu::EVENT_SELECT, USER_AND_KERNEL | event | pmu::EN);
        wrmsr(pmu::GLOBAL_CONTROL, pmu::GP0);
        pmu::spin_for(WATCH);
        wrmsr(pmu::GLOBAL_CONTROL, 0);
        let counted = rdmsr(pmu::FULL_PMC) != 0;
        check!(report, "G-003", counted, is_offered, "{name} are counted");
    }
    wrmsr(pmu::EVENT_SELECT, 0);
}

/// Both counters under one GLOBAL_CTRL: stopping one leaves the other running.
fn together(report: &mut Report) {
    let [gp, fixed] = COUNTERS;
    for c in COUNTERS {
        wrmsr(c.counter, 0);
        wrmsr(c.control, c.on);
    }
    wrmsr(pmu::GLOBAL_CONTROL, gp.global | fixed.global);
    moving(report, gp, "with fixed 1");
    moving(report, fixed, "with GP0");
    wrmsr(pmu::GLOBAL_CONTROL, fixed.global);
    still(report, gp, "its GLOBAL_CTRL bit off");
    moving(report, fixed, "GP0 stopped");
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    println!(
        "GP0 {:#x} fixed 1 {:#x}",
        rdmsr(gp.counter),
        rdmsr(fixed.counter)
    );
}

/// Reads never go back, and one comes out higher in time.
fn moving(report: &mut Report, c: Counter, state: &str) {
    let first = rdmsr(c.counter);
    let mut last = first;
    let mut ordered = true;
    let moved = pmu::spin_until(|| {
        let now = rdmsr(c.counter);
        ordered &= now >= last;
        last = now;
        now > first
    });
    check!(
        report,
        "s1.4",
        moved,
        true,
        "{} moves ({state}); first {first:#x}, last {last:#x}",
        c.name
    );
    check!(
        report,
        "s1.4",
        ordered,
        true,
        "{} never goes back ({state})",
        c.name
    );
}

/// Each read of a stopped counter gives the same number.
fn still(report: &mut Report, c: Counter, state: &str) {
    let first = rdmsr(c.counter);
    for _ in 0..3 {
        pmu::spin_for(WATCH);
        check!(
            report,
            "G-103",
            rdmsr(c.counter),
            first,
            "{} stands still ({state})",
            c.name
        );
    }
}
