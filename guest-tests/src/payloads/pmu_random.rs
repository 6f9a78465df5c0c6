//! Random reads and writes of every MSR of the PMU, random RDPMC and LVTPC: the VMM
//! and this vCPU live on. `ops=` accesses (in decimal) from `seed=`; ends by the
//! debug exit, port 0xf4, with 0x10.
//! guest-contract §8: "#GP when", and nothing worse; rule G-004.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guest_tests::absent::{NEVER_AMD, Run, TABLE};
use guest_tests::check::Report;
use guest_tests::counters::{Counters, is_amd};
use guest_tests::cpu::{self, interrupts_for, rdmsr_checked, wrmsr_checked};
use guest_tests::pmu::{self, EN, INT, low_bits};
use guest_tests::random::{below, next, one_of, seed};
use guest_tests::serial::Decimal;
use guest_tests::trap::{self, PMI_VECTOR};
use guest_tests::{apic, args, check, payload, println, start};

payload!(main);

/// What the debug exit says if nothing failed.
const WELL: u8 = 0x10;

/// The registers of Intel's models, and of AMD's: first and last.
static INTEL: [(u32, u32); 8] = [
    (0xc1, 0xc8),
    (0x186, 0x18d),
    (0x1d9, 0x1d9),
    (0x309, 0x30c),
    (0x329, 0x329),
    (0x345, 0x345),
    (0x38d, 0x392),
    (0x4c1, 0x4c8),
];
static AMD: [(u32, u32); 3] = [
    (0xc000_0300, 0xc000_0303),
    (0xc001_0000, 0xc001_0007),
    (0xc001_0200, 0xc001_020b),
];

/// LVTPC: NMI, masked, a vector; a vector that none may have; SMI, INIT, ExtINT,
/// reserved bits.
static LVTPC: [u32; 9] = [
    apic::LVT_NMI,
    apic::LVT_NMI,
    apic::LVT_NMI | apic::LVT_MASKED,
    PMI_VECTOR as u32,
    3,
    0x200,
    0x500,
    0x700,
    0xffff_ff40,
];

/// Accesses that gave #GP.
static FAULTS: AtomicU32 = AtomicU32::new(0);

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    let ops = args::number("ops", 20_000);
    seed(args::number("seed", 1));
    apic::enable();
    trap::set_nmi_hook(|| handle(counters_now()));
    trap::set_interrupt_hook(|| handle(counters_now()));
    counters.clear();
    for op in 0..ops {
        if op == ops / 2 {
            println!("half");
        }
        one(counters);
    }
    quiet(counters);
    let faults = FAULTS.load(Ordering::Relaxed);
    let (nmis, interrupts) = (trap::nmis(), trap::interrupts());
    println!(
        "{} #GP, {} NMIs, {} interrupts",
        Decimal(faults),
        Decimal(nmis),
        Decimal(interrupts)
    );
    check!(report, "self", faults > 0, true, "some accesses fault");
    let few = u32::try_from(ops / 4).unwrap_or(u32::MAX).max(1);
    check!(report, "self", nmis > 0 || ops < 10_000, true, "PMIs come");
    check!(
        report,
        "G-004",
        nmis < few,
        true,
        "{nmis:#x} NMIs are no storm"
    );
    stands(report, counters);
    start::debug_exit(report, WELL)
}

fn counters_now() -> Option<Counters> {
    Counters::find()
}

/// Half of the handlers stop the counters, the others do nothing.
fn handle(counters: Option<Counters>) {
    if below(2) == 0
        && let Some(counters) = counters
    {
        counters.stop();
    }
}

/// One access.
fn one(counters: Counters) {
    let ok = match below(16) {
        0..8 => wrmsr_checked(register(), value(counters)).is_ok(),
        8..12 => rdmsr_checked(register()).is_ok(),
        12 => cpu::rdpmc_checked(index()).is_ok(),
        13 => cpu::rdpmc_nop_checked(index()).is_ok(),
        14 => {
            counters.start(below(counters.number), 100 + next() % 20_000, INT);
            true
        }
        _ => other(counters),
    };
    FAULTS.fetch_add(u32::from(!ok), Ordering::Relaxed);
}

/// A register: mostly one of this vendor's, else any.
fn register() -> u32 {
    let ours = if is_amd() { &AMD[..] } else { &INTEL[..] };
    let (first, last) = if below(8) > 0 {
        one_of(ours)
    } else {
        let any = below(2) == 0;
        let table = if any { &TABLE[..] } else { &NEVER_AMD[..] };
        let run = table.get(below(len(table)) as usize);
        run.map_or((0xc1, 0xc1), |Run(first, last, ..)| (*first, *last))
    };
    first + below(last - first + 1)
}

fn len(table: &[Run]) -> u32 {
    u32::try_from(table.len()).unwrap_or(1)
}

/// A value: of each kind that means something somewhere.
fn value(counters: Counters) -> u64 {
    match below(8) {
        0 => next(),
        1 => 1 << below(64),
        2 => !0,
        3 => 0,
        // Soon to wrap, at any width.
        4 => low_bits(counters.width) - next() % 0x1_0000,
        5 => counters.cycles() | EN | INT,
        6 => (next() & 0xffff_ffff) | EN,
        _ => next() & 0xff,
    }
}

/// An index of RDPMC.
fn index() -> u32 {
    match below(4) {
        0 => below(20),
        1 => pmu::RDPMC_FIXED | below(20),
        2 => 0x2000_0000,
        _ => u32::try_from(next() >> 32).unwrap_or(0),
    }
}

/// LVTPC, a driver's test of a counter, a span in which interrupts come.
fn other(counters: Counters) -> bool {
    match below(4) {
        0 | 1 => apic::set_lvtpc(one_of(&LVTPC)),
        2 => {
            let msr = counters.counter(below(counters.number));
            let old = rdmsr_checked(msr).unwrap_or(0);
            return wrmsr_checked(msr, old ^ 0xffff).is_ok();
        }
        _ => interrupts_for(u64::from(below(2_000))),
    }
    true
}

/// All off, whatever it was.
fn quiet(counters: Counters) {
    _ = wrmsr_checked(pmu::FIXED_CONTROL, 0);
    counters.clear();
    interrupts_for(1_000);
}

/// After all that, a counter does what it is told.
fn stands(report: &mut Report, counters: Counters) {
    let msr = counters.counter(0);
    let wrote = wrmsr_checked(msr, 0x1234_5678);
    check!(report, "s1.4", wrote, Ok(()), "a counter is written");
    let read = rdmsr_checked(msr);
    check!(report, "s1.4", read, Ok(0x1234_5678), "and read by RDMSR");
    let read = cpu::rdpmc_checked(0);
    check!(report, "s1.4", read, Ok(0x1234_5678), "and read by RDPMC");
}
