//! What all vCPUs' PMUs did, for the line at the end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use vpmu::Totals;

/// Sums over the vCPUs of one VM; each adds its own when it ends.
#[derive(Debug, Default)]
pub struct VmTotals {
    overflows: AtomicU64,
    pmis: AtomicU64,
    troubles: AtomicU64,
}

impl VmTotals {
    /// Adds one vCPU's.
    pub fn add(&self, vcpu: &Totals) {
        self.overflows.fetch_add(vcpu.overflows, Ordering::Relaxed);
        self.pmis.fetch_add(vcpu.pmis, Ordering::Relaxed);
        self.troubles.fetch_add(vcpu.troubles, Ordering::Relaxed);
    }
}

impl fmt::Display for VmTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "overflows={} pmis_injected={} not_counted={}",
            load(&self.overflows),
            load(&self.pmis),
            load(&self.troubles)
        )
    }
}
