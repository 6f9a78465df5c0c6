//! A PMI for each overflow, whatever a handler does to be ready for the next one: not
//! all write GLOBAL_CTRL, as Linux does.
//! guest-contract §4.3; rules G-304, G-401; SDM vol. 3B, "Freezing LBR and Performance
//! Counters on PMI".
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};

use guest_tests::check::Report;
use guest_tests::counters::{Counters, Kind};
use guest_tests::cpu::wrmsr;
use guest_tests::pmu::{self, INT, Leaf0A, low_bits, spin_until};
use guest_tests::{apic, check, payload, pmi, trap};

payload!(main);

/// Counts to a wrap.
const LEFT: u64 = 200_000;
/// Counts to a wrap that never comes.
const FAR: u64 = 1 << 31;
/// Overflows in a row.
const ROW: u32 = 5;
/// DEBUGCTL: freeze on PMI.
const FREEZE: u64 = 1 << 12;
/// GLOBAL_STATUS: the counters are frozen.
const FROZEN: u64 = 1 << 59;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    apic::enable();
    pmi::in_a_row(report, ROW, LEFT, reload, "the next period alone");
    if counters.has_globals() {
        one_after_the_other(report, counters);
    }
    if counters.kind == Kind::Intel && Leaf0A::read().version >= 4 {
        wrmsr(pmu::DEBUG_CONTROL, FREEZE);
        pmi::in_a_row(report, ROW, LEFT, thaw, "thawed by the status");
        wrmsr(pmu::DEBUG_CONTROL, 0);
    }
}

/// Starts the next period of counter 0 while it runs on, and unmasks LVTPC.
fn reload() {
    let Some(counters) = Counters::find() else {
        return;
    };
    let left = if pmi::another_period() { LEFT } else { FAR };
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
