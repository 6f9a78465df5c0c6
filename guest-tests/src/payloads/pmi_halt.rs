//! A PMI wakes a vCPU that is halted, as NMI and as vector.
//! guest-contract §4.2, §4.4; rules G-004, G-403, G-404.
//!
//! Cycles stand while a CPU is halted. So the first NMI's handler lets a counter
//! wrap, whose PMI waits for the IRET, and the code that it returns to halts at
//! once: of the second NMIs most find the vCPU halted. A vector waits for HLT by
//! itself, as interrupts are off until then. The local APIC's timer ends a HLT
//! that nothing else ends.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu;
use guest_tests::pmi::{self, Handler};
use guest_tests::pmu::{INT, spin_for, spin_until};
use guest_tests::serial::Decimal;
use guest_tests::trap::{self, PMI_VECTOR};
use guest_tests::{apic, check, payload, println};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 50_000;
/// Rounds.
const ROUNDS: u32 = 20;
/// Rounds at most, until an NMI has found the vCPU halted: on a host that lets the vCPU
/// run now and then, most come before the HLT.
const MOST_ROUNDS: u32 = 4_000;
/// APIC ticks (1 ns under KVM) to the end of a HLT that nothing else ends.
const TIMEOUT: u32 = 4_000_000;
/// TSC ticks in which a PMI that must not come would come.
const QUIET: u64 = 1_000_000;

/// Whether the first handler of the round is done.
static GO: AtomicU32 = AtomicU32::new(0);
/// NMIs of the round.
static PLACE: AtomicU32 = AtomicU32::new(0);

fn handler() {
    let Some(counters) = Counters::find() else {
        return;
    };
    counters.stop();
    counters.acknowledge(counters.overflowed());
    if PLACE.fetch_add(1, Ordering::Relaxed) == 0 {
        counters.load(0, LEFT, INT);
        counters.run(1);
        spin_until(|| counters.overflowed() == 1);
        GO.store(1, Ordering::Relaxed);
    }
}

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable();
    by_nmi(report, counters);
    by_vector(report, counters);
}

fn by_nmi(report: &mut Report, counters: Counters) {
    trap::set_nmi_hook(handler);
    apic::set_lvtpc(apic::LVT_NMI);
    let (mut woken, mut all) = (0, 0);
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && woken > 0 {
            break;
        }
        all = round + 1;
        GO.store(0, Ordering::Relaxed);
        PLACE.store(0, Ordering::Relaxed);
        apic::set_timer(TIMEOUT);
        counters.start(0, LEFT, INT);
        let behind = cpu::halt_when(&GO);
        let met = PLACE.load(Ordering::Relaxed) == 2 && trap::nmi_at() == behind;
        woken += u32::from(met);
        spin_until(|| PLACE.load(Ordering::Relaxed) >= 2);
        spin_for(QUIET);
        let came = PLACE.load(Ordering::Relaxed);
        check!(report, "G-004", came, 2, "NMIs in round {round}");
        counters.clear();
    }
    let (woken, all) = (Decimal(woken), Decimal(all));
    println!("{woken} of {all} NMIs found the vCPU halted");
    check!(report, "s4.2", woken.0 > 0, true, "an NMI wakes from HLT");
}

fn by_vector(report: &mut Report, counters: Counters) {
    pmi::install();
    pmi::set_handler(Handler::Acknowledge);
    apic::set_lvtpc(u32::from(PMI_VECTOR));
    for round in 0..ROUNDS {
        let before = trap::interrupts();
        counters.start(0, LEFT, INT);
        spin_until(|| counters.overflowed() == 1);
        let woken = spin_until(|| {
            apic::set_timer(TIMEOUT);
            _ = cpu::halt_once();
            trap::interrupts() != before
        });
        if !check!(
            report,
            "G-403",
            woken,
            true,
            "round {round}: a vector wakes"
        ) {
            return;
        }
        pmi::settle(QUIET);
        let came = trap::interrupts() - before;
        check!(report, "G-004", came, 1, "interrupts in round {round}");
        counters.clear();
    }
}
