//! A handler of performance-monitoring interrupts that does what a driver's does,
//! or less, and remembers what it saw.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::cpu::{rdmsr, wrmsr};
use crate::{apic, pmu, trap};

/// GLOBAL_STATUS as the last PMI handler saw it.
static SEEN: AtomicU64 = AtomicU64::new(0);
/// GLOBAL_STATUS as the handler read it again after the acknowledgement.
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

/// GLOBAL_STATUS at the last PMI; 0 if none came since [`forget`].
#[must_use]
pub fn seen() -> u64 {
    SEEN.load(Ordering::Relaxed)
}

/// GLOBAL_STATUS after the last acknowledgement; all ones if none since [`forget`].
#[must_use]
pub fn seen_again() -> u64 {
    AGAIN.load(Ordering::Relaxed)
}

/// Forgets what earlier PMIs saw.
pub fn forget() {
    SEEN.store(0, Ordering::Relaxed);
    AGAIN.store(u64::MAX, Ordering::Relaxed);
}

/// The accesses of a driver's handler, without re-enabling.
fn handle(lvtpc: u32) {
    let handler = HANDLER.load(Ordering::Relaxed);
    if handler == Handler::Nothing as u8 {
        return;
    }
    apic::set_lvtpc(lvtpc);
    wrmsr(pmu::GLOBAL_CONTROL, 0);
    let status = rdmsr(pmu::GLOBAL_STATUS);
    SEEN.store(status, Ordering::Relaxed);
    if handler == Handler::Acknowledge as u8 {
        wrmsr(pmu::GLOBAL_OVERFLOW, status);
        AGAIN.store(rdmsr(pmu::GLOBAL_STATUS), Ordering::Relaxed);
    }
}
