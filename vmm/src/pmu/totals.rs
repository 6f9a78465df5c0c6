//! The totals of all vCPUs' PMUs, for the line at the end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use vpmu::Totals;

use crate::vcpu::UncountedNames;

/// Sums over the vCPUs of one VM; each adds its own when it ends.
#[derive(Debug, Default)]
pub struct VmTotals {
    ended: Mutex<Totals>,
    uncounted: Mutex<UncountedNames>,
    /// Whether the guest has started a counter.
    counted: AtomicBool,
}

impl VmTotals {
    /// Adds one vCPU's.
    pub fn add(&self, vcpu: &Totals) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) += *vcpu;
    }

    /// Adds what nobody counted for one vCPU.
    pub(super) fn add_uncounted(&self, of_vcpu: &UncountedNames) {
        let mut all = self
            .uncounted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        add_up(&mut all, of_vcpu);
    }

    /// What nobody counted for those that have ended.
    #[must_use]
    pub fn uncounted(&self) -> UncountedNames {
        let all = self.uncounted.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
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

/// Adds one vCPU's to those of others.
pub fn add_up(all: &mut UncountedNames, of_vcpu: &UncountedNames) {
    for (event, times) in of_vcpu {
        *all.entry(event.clone()).or_default() += times;
    }
}

impl fmt::Display for VmTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.get();
        write!(
            f,
            "overflows={} pmis_injected={} pmis_suppressed={} not_counted={} scaled_reads={} \
             starved={} estimated={} pinned_errors={} rotations={} revocations={}",
            totals.overflows,
            totals.pmis_injected,
            totals.pmis_suppressed,
            totals.not_counted,
            totals.scaled_reads,
            totals.starved,
            totals.estimated,
            totals.pinned_errors,
            totals.rotations,
            totals.host_revocations
        )?;
        let mut before = " uncounted=";
        for (event, times) in self.uncounted() {
            write!(f, "{before}{event}:{times}")?;
            before = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_names_what_nobody_counted() {
        let totals = VmTotals::default();
        assert!(totals.to_string().ends_with(" revocations=0"), "{totals}");
        for _vcpu in 0..2 {
            let of_vcpu = [("r1d1", 1), ("L1-dcache-loads", 2)];
            let of_vcpu = of_vcpu.map(|(event, times)| (event.to_owned(), times));
            totals.add_uncounted(&of_vcpu.into());
        }
        let text = totals.to_string();
        let last = text.rsplit(' ').next();
        assert_eq!(last, Some("uncounted=L1-dcache-loads:4,r1d1:2"));
    }
}
