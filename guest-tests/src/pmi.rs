//! A handler of performance-monitoring interrupts that does what a driver's does,
//! or less, and remembers what it saw.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::check::Report;
use crate::counters::{Counters, Kind};
use crate::pmu::{INT, spin_for, spin_until};
use crate::{apic, check, cpu, trap};

/// The status as the last PMI handler saw it ([`Counters::overflowed`]).
static SEEN: AtomicU64 = AtomicU64::new(0);
/// The status as the handler read it again after the acknowledgement.
static AGAIN: AtomicU64 = AtomicU64::new(0);
static HANDLER: AtomicU8 = AtomicU8::new(Handler::Acknowledge as u8);

/// What the handler does at a PMI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Handler {
    /// Unmask LVTPC, stop all counters, acknowledge the status; the default.
    Acknowledge,
    /// Unmask and stop, but leave the status.
    LeaveStatus,
    /// Nothing: LVTPC stays as the delivery left it, the counters run on.
    Nothing,
}

/// Handles PMIs that come as NMI, and those at [`trap::PMI_VECTOR`].
pub fn install() {
    trap::set_nmi_hook(|| handle(apic::LVT_NMI));
    trap::set_interrupt_hook(|| handle(u32::from(trap::PMI_VECTOR)));
}

/// Chooses what the handler does from now on.
pub fn set_handler(handler: Handler) {
    HANDLER.store(handler as u8, Ordering::Relaxed);
}

/// The status at the last PMI; 0 if none came since [`forget`].
#[must_use]
pub fn seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}

/// The status after the last acknowledgement; all ones if none since [`forget`].
#[must_use]
pub fn seen_again() -> u64 {
    AGAIN.load(Ordering::Relaxed)
}

/// Forgets what earlier PMIs saw.
pub fn forget() {
    SEEN.store(0, Ordering::Relaxed);
    AGAIN.store(u64::MAX, Ordering::Relaxed);
}

/// Lets interrupts in for `ticks` of the TSC, and some times at least, for a host that is
/// busy elsewhere lets the time go by: whatever is on its way comes.
pub fn settle(ticks: u64) {
    const ROUNDS: u32 = 16;
    let start = cpu::rdtsc();
    let mut rounds = 0;
    while rounds < ROUNDS || cpu::rdtsc().wrapping_sub(start) < ticks {
        cpu::interrupts_for(100);
        rounds += 1;
    }
}

/// Periods that the handler of [`in_a_row`] is still to start.
static TO_GO: AtomicU32 = AtomicU32::new(0);

/// Whether the handler of [`in_a_row`] is to start another period; counted down.
pub fn another_period() -> bool {
    let to_go = TO_GO.load(Ordering::Relaxed);
    TO_GO.store(to_go.saturating_sub(1), Ordering::Relaxed);
    to_go > 0
}

/// Checks that `row` overflows of counter 0, each `left` counts after the last, are as
/// many NMIs. `handler` starts the next period if [`another_period`] says so.
pub fn in_a_row(report: &mut Report, row: u32, left: u64, handler: fn(), name: &str) {
    const QUIET: u64 = 2_000_000;
    let Some(counters) = Counters::find() else {
        return;
    };
    trap::set_nmi_hook(handler);
    apic::set_lvtpc(apic::LVT_NMI);
    let before = trap::nmis();
    TO_GO.store(row - 1, Ordering::Relaxed);
    counters.start(0, left, INT);
    // Each has the whole of a slow host's patience.
    let all = (1..=row).all(|due| spin_until(|| trap::nmis() - before >= due));
    check!(report, "G-004", all, true, "{name}: {row} PMIs come");
    spin_for(QUIET);
    let came = trap::nmis() - before;
    check!(
        report,
        "G-004",
        came,
        row,
        "{name}: PMIs of {row} overflows"
    );
    counters.clear();
}

/// The accesses of a driver's handler, without re-enabling. PerfMonV2's writes
/// no LVTPC (guest-contract §3.3).
fn handle(lvtpc: u32) {
    let handler = HANDLER.load(Ordering::Relaxed);
    let Some(counters) = Counters::find() else {
        return;
    };
    if handler == Handler::Nothing as u8 {
        return;
    }
    if counters.kind != Kind::AmdV2 {
        apic::set_lvtpc(lvtpc);
    }
    counters.stop();
    let status = counters.overflowed();
    SEEN.store(status, Ordering::Relaxed);
    if handler == Handler::Acknowledge as u8 {
        counters.acknowledge(status);
        AGAIN.store(counters.overflowed(), Ordering::Relaxed);
    }
}
