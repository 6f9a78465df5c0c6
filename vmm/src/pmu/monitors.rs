//! Monitors: events that an operator attaches to a VM's vCPUs. They count beside
//! the guest's events.
//!
//! ```text
//!  perfvisor ctl monitor ─▶ control ─▶ VmMonitors: what there is, by number
//!                              │            │ a vCPU that is plugged in later
//!                              ▼ mailbox    ▼
//!                        MonitorOrder ─▶ port ─▶ VcpuPmu::attach, detach
//! ```
//! Only the control thread changes the list and starts vCPUs. So a vCPU gets each
//! monitor exactly once: from the list when it starts, or later by an order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vpmu::Policy;
use vpmu::host::HostEvent;
use vpmu::ids::{MonitorId, VcpuId};

use crate::config::event;

/// The event and the vCPUs of a monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorSpec {
    /// The event, and the guest's privilege levels in which it counts.
    pub attr: HostEvent,
    /// The rule by which the monitor gets host counters.
    pub policy: Policy,
    /// The only vCPU; `None`: all, those included that are plugged in later.
    pub vcpu: Option<VcpuId>,
}

impl MonitorSpec {
    /// Whether it is one of `vcpu`'s.
    #[must_use]
    pub fn is_for(&self, vcpu: VcpuId) -> bool {
        self.vcpu.is_none_or(|only| only == vcpu)
    }

    /// The event as `perf` writes it.
    #[must_use]
    pub fn event(&self) -> String {
        event::name(&self.attr)
    }
}

/// The monitors of a VM.
#[derive(Debug, Default)]
pub struct VmMonitors(Mutex<BTreeMap<MonitorId, MonitorSpec>>);

impl VmMonitors {
    /// Notes one more; `None` if there are as many as there can be.
    pub fn add(&self, spec: MonitorSpec) -> Option<MonitorId> {
        let mut all = self.lock();
        let free = MonitorId::all().find(|id| !all.contains_key(id))?;
        all.insert(free, spec);
        Some(free)
    }

    /// Removes a monitor from the list, and returns it.
    pub fn remove(&self, id: MonitorId) -> Option<MonitorSpec> {
        self.lock().remove(&id)
    }

    /// The monitor of this number.
    #[must_use]
    pub fn get(&self, id: MonitorId) -> Option<MonitorSpec> {
        self.lock().get(&id).copied()
    }

    /// All present monitors.
    #[must_use]
    pub fn all(&self) -> Vec<(MonitorId, MonitorSpec)> {
        self.lock().iter().map(|(id, spec)| (*id, *spec)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MonitorId, MonitorSpec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_lowest_free_ones() {
        let monitors = VmMonitors::default();
        let spec = MonitorSpec {
            attr: event::with_levels("cycles").unwrap(),
            policy: Policy::Flexible,
            vcpu: Some(VcpuId(1)),
        };
        assert!(spec.is_for(VcpuId(1)) && !spec.is_for(VcpuId(0)));
        let ids: Vec<_> = (0..=MonitorId::MAX).map(|_| monitors.add(spec)).collect();
        assert_eq!(ids.last(), Some(&None), "one too many");
        let second = ids[1].unwrap();
        assert_eq!(monitors.remove(second), Some(spec));
        assert_eq!(
            (monitors.get(second), monitors.remove(second)),
            (None, None)
        );
        assert_eq!(monitors.add(spec), Some(second));
        assert_eq!(monitors.all().len(), usize::from(MonitorId::MAX));
    }
}
