//! The totals of all vCPUs' PMUs, for the line at the end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vpmu::Totals;

/// Sums over the vCPUs of one VM; each adds its own when it ends.
#[derive(Debug, Default)]
pub struct VmTotals {
    ended: Mutex<Totals>,
    /// Whether the guest has started a counter.
    counted: AtomicBool,
}

impl VmTotals {
    /// Adds one vCPU's.
    pub fn add(&self, vcpu: &Totals) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) += *vcpu;
    }

    /// The sum of those that have ended.
    #[must_use]
    pub fn get(&self) -> Totals {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU's guest has started a counter.
    pub(super) fn counter_started(&self) {
        self.counted.store(true, Ordering::Relaxed);
    }

    /// Whether the guest has started a counter, on any vCPU.
    #[must_use]
    pub fn has_counted(&self) -> bool {
        self.counted.load(Ordering::Relaxed)
    }
}

impl fmt::Display for VmTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.get();
        write!(
            f,
            "overflows={} pmis_injected={} pmis_suppressed={} not_counted={} scaled_reads={} \
             starved={} pinned_errors={} rotations={} revocations={}",
            totals.overflows,
            totals.pmis_injected,
            totals.pmis_suppressed,
            totals.not_counted,
            totals.scaled_reads,
            totals.starved,
            totals.pinned_errors,
            totals.rotations,
            totals.host_revocations
        )
    }
}
