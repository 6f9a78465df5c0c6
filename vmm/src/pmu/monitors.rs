//! What an operator attaches to a VM's vCPUs: events that count beside the
//! guest's.
//!
//! ```text
//!  perfvisor ctl monitor ─▶ control ─▶ Monitors: what there is, by number
//!                              │            │ a vCPU that is plugged in later
//!                              ▼ mailbox    ▼
//!                        MonitorOrder ─▶ port ─▶ VcpuPmu::attach, detach
//! ```
//! The control thread alone changes the list, and starts vCPUs: one of them has
//! each monitor either from the list or by an order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vpmu::host::{HostEvent, Privilege, Quality};
use vpmu::ids::{MonitorId, VcpuId};
use vpmu::{AttachError, MonitorView, Policy};

use super::event_filter;
use super::status::{CountingState, name};

/// What to count on which vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorSpec {
    /// The event, and the guest's privilege levels in which it counts.
    pub attr: HostEvent,
    /// How it competes for host counters.
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
        name(&self.attr)
    }
}

/// The event of a word such as `cycles`, `instructions:u` or `r1d1:k`.
#[must_use]
pub fn event(word: &str) -> Option<HostEvent> {
    let (event, levels) = word.split_once(':').unwrap_or((word, "uk"));
    let privilege = match levels {
        "u" => (true, false),
        "k" => (false, true),
        "uk" | "ku" => (true, true),
        _ => return None,
    };
    let (user, kernel) = privilege;
    Some(HostEvent {
        code: event_filter::event(event)?,
        privilege: Privilege { user, kernel },
    })
}

/// What [`event`] takes, for messages.
#[must_use]
pub fn accepted() -> String {
    let names = event_filter::names();
    format!("{names}, or r and a code such as r1d1, then :u or :k")
}

/// How a monitor competes for host counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorPolicy {
    /// It takes turns, and comes before the guest's flexible counters.
    #[default]
    Flexible,
    /// It has a host counter, before all others, or is in error.
    Pinned,
}

impl From<Policy> for MonitorPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Flexible => Self::Flexible,
            Policy::Pinned => Self::Pinned,
        }
    }
}

impl From<MonitorPolicy> for Policy {
    fn from(policy: MonitorPolicy) -> Self {
        match policy {
            MonitorPolicy::Flexible => Self::Flexible,
            MonitorPolicy::Pinned => Self::Pinned,
        }
    }
}

/// The monitors of a VM.
#[derive(Debug, Default)]
pub struct Monitors(Mutex<BTreeMap<MonitorId, MonitorSpec>>);

impl Monitors {
    /// Notes one more; `None` if there are as many as there can be.
    pub fn add(&self, spec: MonitorSpec) -> Option<MonitorId> {
        let mut all = self.lock();
        let free = MonitorId::all().find(|id| !all.contains_key(id))?;
        all.insert(free, spec);
        Some(free)
    }

    /// Forgets one.
    pub fn remove(&self, id: MonitorId) -> Option<MonitorSpec> {
        self.lock().remove(&id)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: MonitorId) -> Option<MonitorSpec> {
        self.lock().get(&id).copied()
    }

    /// All, as of now.
    #[must_use]
    pub fn all(&self) -> Vec<(MonitorId, MonitorSpec)> {
        self.lock().iter().map(|(id, spec)| (*id, *spec)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MonitorId, MonitorSpec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a vCPU is to do.
#[derive(Clone, Copy, Debug)]
pub enum MonitorOrder {
    /// Count this from now on.
    Attach(MonitorId, HostEvent, Policy),
    /// Stop.
    Detach(MonitorId),
}

/// What became of it: the monitor as it is, or was at the end; `None` if there is
/// no such monitor, or no PMU.
pub type MonitorOutcome = Result<Option<MonitorStatus>, AttachError>;

/// A monitor on one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Its number.
    pub monitor: u8,
    /// What it counts.
    pub event: String,
    /// How it competes for host counters.
    pub policy: MonitorPolicy,
    /// What came of it.
    #[serde(flatten)]
    pub reading: MonitorReading,
}

/// What a monitor has counted on one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorReading {
    /// Whether it counts.
    pub state: CountingState,
    /// What it counted while it had a host counter.
    pub count: u64,
    /// The same scaled by enabled / running, for the whole time.
    pub scaled_count: u64,
    /// Guest time since it was attached, ns.
    pub enabled_ns: u64,
    /// Guest time of that for which it counted, ns.
    pub running_ns: u64,
    /// It is derived from a clock.
    pub clock_derived: bool,
    /// Its share of the privilege levels is estimated from samples.
    pub sampled: bool,
}

impl From<MonitorView> for MonitorStatus {
    fn from(view: MonitorView) -> Self {
        let quality = view.quality.unwrap_or(Quality::Counted);
        Self {
            monitor: u8::try_from(view.id.index()).unwrap_or(u8::MAX),
            event: name(&view.attr),
            policy: view.policy.into(),
            reading: MonitorReading {
                state: view.state.into(),
                count: view.count,
                scaled_count: view.scaled(),
                enabled_ns: view.times.enabled.0,
                running_ns: view.times.running.0,
                clock_derived: quality != Quality::Counted,
                sampled: quality == Quality::SampledClock,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_name_or_a_code_and_levels() {
        for word in ["cycles", "instructions:u", "r1d1:k", "r1d1", "ref-cycles"] {
            let attr = event(word).unwrap();
            assert_eq!(name(&attr), word);
        }
        assert_eq!(event("cycles:uk"), event("cycles"));
        for word in [
            "",
            "cycle",
            "cycles:",
            "cycles:x",
            "r",
            "rxyz",
            "r1f53003c",
            ":u",
        ] {
            assert_eq!(event(word), None, "{word}");
        }
    }

    #[test]
    fn numbers_are_the_lowest_free_ones() {
        let monitors = Monitors::default();
        let spec = MonitorSpec {
            attr: event("cycles").unwrap(),
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
