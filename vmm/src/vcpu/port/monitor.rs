//! Orders to a vCPU about its monitors, and the status of one.

use serde::{Deserialize, Serialize};
use vpmu::host::{HostEvent, Quality};
use vpmu::ids::MonitorId;
use vpmu::{AttachError, MonitorView, Policy};

use super::CountingState;
use crate::config::{MonitorPolicy, event};

/// An order to a vCPU about a monitor.
#[derive(Clone, Copy, Debug)]
pub enum MonitorOrder {
    /// The vCPU attaches the monitor, which counts from then on.
    Attach(MonitorId, HostEvent, Policy),
    /// The vCPU detaches the monitor.
    Detach(MonitorId),
}

/// What became of it: the monitor as it is, or was at the end; `None` if there is
/// no such monitor, or no PMU.
pub type MonitorOutcome = Result<Option<MonitorStatus>, AttachError>;

/// A monitor on one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// The number of the monitor.
    pub monitor: u8,
    /// The event that the monitor counts.
    pub event: String,
    /// The rule by which the monitor gets host counters.
    pub policy: MonitorPolicy,
    /// The count, with its state and times.
    #[serde(flatten)]
    pub reading: MonitorReading,
}

/// The count of a monitor on one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorReading {
    /// The state of the monitor.
    pub state: CountingState,
    /// The count of the time with a host counter.
    pub count: u64,
    /// The count, scaled by enabled / running to the whole time.
    pub scaled_count: u64,
    /// Guest time since it was attached, ns.
    pub enabled_ns: u64,
    /// Guest time of that for which it counted, ns.
    pub running_ns: u64,
    /// The count is derived from a clock.
    pub clock_derived: bool,
    /// The split by privilege levels is estimated from samples.
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
