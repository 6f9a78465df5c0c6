//! The totals of all vCPUs' PMUs, for the line at the end.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use vpmu::Totals;

/// Sums over the vCPUs of one VM; each adds its own when it ends.
#[derive(Debug, Default)]
pub struct VmTotals(Mutex<Totals>);

impl VmTotals {
    /// Adds one vCPU's.
    pub fn add(&self, vcpu: &Totals) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += *vcpu;
    }

    /// The sum of those that have ended.
    #[must_use]
    pub fn get(&self) -> Totals {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
