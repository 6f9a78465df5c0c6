//! A PMI for each overflow, whatever a handler does to be ready for the next one: not
//! all write GLOBAL_CTRL, as Linux does.
//! guest-contract §4.3; rules G-304, G-401; SDM vol. 3B, "Freezing LBR and Performance
//! Counters on PMI".
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::{Counters, Kind};
use guest_tests::cpu::wrmsr;
use guest_tests::pmu::{self, INT, Leaf0A, low_bits, spin_for, spin_until};
use guest_tests::{apic, check, payload, trap};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 200_000;
/// Counts to a wrap that never comes.
const FAR: u64 = 1 << 31;
/// Overflows in a row.
const ROW: u32 = 5;
/// TSC ticks in which a PMI that must not come would come.
const QUIET: u64 = 2_000_000;
/// DEBUGCTL: freeze on PMI.
const FREEZE: u64 = 1 << 12;
/// GLOBAL_STATUS: the counters are frozen.
const FROZEN: u64 = 1 << 59;

/// Periods still to be started by the handler.
static TO_GO: AtomicU32 = AtomicU32::new(0);

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable();
    in_a_row(report, counters, "the next period alone", reload);
    if counters.has_globals() {
        one_after_the_other(report, counters);
    }
    if counters.kind == Kind::Intel && Leaf0A::read().version >= 4 {
        wrmsr(pmu::DEBUG_CONTROL, FREEZE);
        in_a_row(report, counters, "thawed by the status", thaw);
        wrmsr(pmu::DEBUG_CONTROL, 0);
    }
}

/// Each handler starts the next period in its own way; each period's end interrupts.
fn in_a_row(report: &mut Report, counters: Counters, name: &str, handler: fn()) {
    trap::set_nmi_hook(handler);
    apic::set_lvtpc(apic::LVT_NMI);
    let before = trap::nmis();
    TO_GO.store(ROW - 1, Ordering::Relaxed);
    counters.start(0, LEFT, INT);
    // Each has the whole of a slow host's patience.
    let all = (1..=ROW).all(|due| spin_until(|| trap::nmis() - before >= due));
    check!(report, "G-401", all, true, "{name}: {ROW} PMIs come");
    spin_for(QUIET);
    let came = trap::nmis() - before;
    check!(
        report,
        "G-004",
        came,
        ROW,
        "{name}: PMIs of {ROW} overflows"
    );
    counters.clear();
}

/// Starts the next period of counter 0 while it runs on, and unmasks LVTPC.
fn reload() {
    let Some(counters) = Counters::find() else {
        return;
    };
    let to_go = TO_GO.load(Ordering::Relaxed);
    TO_GO.store(to_go.saturating_sub(1), Ordering::Relaxed);
    let left = if to_go > 0 { LEFT } else { FAR };
    let value = left.wrapping_neg() & low_bits(counters.width);
    wrmsr(counters.counter(0), value);
    apic::set_lvtpc(apic::LVT_NMI);
}

/// As [`reload`], while all stand still.
fn thaw() {
    reload();
    if let Some(counters) = Counters::find() {
        counters.acknowledge(1 | FROZEN);
    }
}

/// Counters whose wrap a PMI has told of.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// A handler that only acknowledges what it sees is told of every counter's wrap.
fn one_after_the_other(report: &mut Report, counters: Counters) {
    trap::set_nmi_hook(acknowledge);
    apic::set_lvtpc(apic::LVT_NMI);
    counters.clear();
    for i in 0..counters.number {
        counters.load(i, u64::from(i + 1) * LEFT, INT);
    }
    let all = low_bits(counters.number);
    counters.run(all);
    spin_until(|| TOLD.load(Ordering::Relaxed) == all);
    let told = TOLD.load(Ordering::Relaxed);
    check!(report, "G-401", told, all, "told of by the status alone");
    counters.clear();
}

fn acknowledge() {
    let Some(counters) = Counters::find() else {
        return;
    };
    let status = counters.overflowed();
    TOLD.fetch_or(status, Ordering::Relaxed);
    apic::set_lvtpc(apic::LVT_NMI);
    counters.acknowledge(status);
}
