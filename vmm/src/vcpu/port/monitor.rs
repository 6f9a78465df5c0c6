//! Orders to a vCPU about its monitors, and the status of one.

use serde::{Deserialize, Serialize};
use vpmu::host::{HostEvent, Quality};
use vpmu::ids::MonitorId;
use vpmu::{AttachError, MonitorView, Policy};

use super::CountingState;
use crate::config::{MonitorPolicy, event};

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
            event: event::name(&view.attr),
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
