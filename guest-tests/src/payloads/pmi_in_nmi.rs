//! An overflow inside an NMI handler: its NMI comes behind the handler's IRET, once.
//! guest-contract §4.5 (blocking of NMIs); rules G-004, G-404.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::pmu::{INT, spin_for, spin_until};
use guest_tests::{apic, check, payload, trap};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 100_000;
/// TSC ticks that the first handler lasts beyond the wrap in it.
const LONG: u64 = 2_000_000;
/// Rounds.
const ROUNDS: u32 = 5;

/// How deep in handlers, and how deep it ever was.
static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
/// NMIs of this round.
static ROUND: AtomicU32 = AtomicU32::new(0);
/// Handlers that saw an overflow, by their place in the round.
static SAW: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
/// Rounds whose first handler saw its own counter wrap.
static WRAPPED: AtomicU32 = AtomicU32::new(0);

fn handler() {
    let Some(counters) = Counters::find() else {
        return;
    };
    let depth = DEPTH.fetch_add(1, Ordering::Relaxed) + 1;
    DEEPEST.fetch_max(depth, Ordering::Relaxed);
    let place = ROUND.fetch_add(1, Ordering::Relaxed) as usize;
    counters.stop();
    let saw = counters.overflowed() != 0;
    if let Some(count) = SAW.get(place) {
        count.fetch_add(u32::from(saw), Ordering::Relaxed);
    }
    counters.acknowledge(1);
    if place == 0 {
        counters.load(0, LEFT, INT);
        counters.run(1);
        let wrapped = spin_until(|| counters.overflowed() != 0);
        WRAPPED.fetch_add(u32::from(wrapped), Ordering::Relaxed);
        spin_for(LONG);
    }
    DEPTH.fetch_sub(1, Ordering::Relaxed);
}

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable();
    apic::set_lvtpc(apic::LVT_NMI);
    trap::set_nmi_hook(handler);
    for round in 0..ROUNDS {
        ROUND.store(0, Ordering::Relaxed);
        counters.start(0, LEFT, INT);
        spin_until(|| ROUND.load(Ordering::Relaxed) >= 2);
        spin_for(LONG);
        let nmis = ROUND.load(Ordering::Relaxed);
        check!(report, "G-004", nmis, 2, "NMIs in round {round}");
        counters.clear();
    }
    let wrapped = WRAPPED.load(Ordering::Relaxed);
    check!(report, "s1.4", wrapped, ROUNDS, "wraps inside the handler");
    let deepest = DEEPEST.load(Ordering::Relaxed);
    check!(report, "s4.5", deepest, 1, "handlers within each other");
    let saw = [0, 1, 2].map(|i: usize| SAW[i].load(Ordering::Relaxed));
    check!(report, "G-404", saw, [ROUNDS, ROUNDS, 0], "overflows seen");
}
