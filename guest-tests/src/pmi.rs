//! A handler of performance-monitoring interrupts that does what a driver's does,
//! or less, and remembers what it saw.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::counters::{Counters, Kind};
use crate::{apic, cpu, trap};

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
