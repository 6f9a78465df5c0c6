//! Monitors: events that an operator attaches to a vCPU.
//!
//! A monitor counts what the guest executes, whether the guest's own PMU is
//! enabled or not, and takes part in the competition for host counters: CPU
//! pinned, the guest's pinned ones, CPU flexible, the guest's flexible ones
//! (R-120). The guest does not see it, gets no PMI from it, and does not take
//! it along when it is saved.

use crate::guest::GuestPmu;
use crate::host::{HostEvent, HostOpenError, HostPmu, Quality};
use crate::ids::MonitorId;
use crate::times::Rate;

use super::schedule::Watched;
use super::{CounterState, Policy, Times, VcpuPmu};

/// Why there is no monitor.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::host::{HostEvent, Privilege};
/// use vpmu::ids::MonitorId;
/// use vpmu::x86::event::ArchEvent;
/// use vpmu::{AttachError, Policy, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// let id = MonitorId::new(0).unwrap();
/// let event = HostEvent {
///     code: ArchEvent::Cycles.into(),
///     privilege: Privilege { user: true, kernel: true },
/// };
/// pmu.attach(id, event, Policy::Flexible).unwrap();
/// assert_eq!(pmu.attach(id, event, Policy::Flexible), Err(AttachError::Taken(id)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// There is one with this number.
    #[error("monitor {0} exists already; use another number")]
    Taken(MonitorId),
    /// The host gave no event.
    #[error(transparent)]
    Refused(#[from] HostOpenError),
}

/// One monitor as an operator sees it.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::host::{HostEvent, Privilege};
/// use vpmu::ids::MonitorId;
/// use vpmu::units::Nanos;
/// use vpmu::x86::event::ArchEvent;
/// use vpmu::{Policy, Ran, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// let cycles = HostEvent {
///     code: ArchEvent::Cycles.into(),
///     privilege: Privilege { user: true, kernel: true },
/// };
/// let id = MonitorId::new(0).unwrap();
/// pmu.attach(id, cycles, Policy::Pinned).unwrap();
/// pmu.after_run(Ran { span: Nanos(1_000), ..Ran::default() });
/// let view = pmu.detach(id).unwrap();
/// assert_eq!((view.count, view.scaled()), (1_000, 1_000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorView {
    /// Which.
    pub id: MonitorId,
    /// What it counts.
    pub attr: HostEvent,
    /// How it competes for a host counter.
    pub policy: Policy,
    /// Counting, waiting or in error. One in error stays so until it is attached
    /// anew.
    pub state: CounterState,
    /// How good its count is.
    pub quality: Option<Quality>,
    /// What it counted while it had a host counter.
    pub count: u64,
    /// Guest time since it was attached, and for how much of it it counted.
    pub times: Times,
}

impl MonitorView {
    /// The count for the whole time, estimated from the part in which it had a
    /// host counter: `count × enabled / running`; 0 if it never had one.
    #[must_use]
    pub fn scaled(&self) -> u64 {
        self.times.whole(self.count, Rate::NONE)
    }
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// Counts `attr` from now on, as monitor `id`.
    ///
    /// # Errors
    /// [`AttachError`]; nothing has changed then.
    pub fn attach(
        &mut self,
        id: MonitorId,
        attr: HostEvent,
        policy: Policy,
    ) -> Result<(), AttachError> {
        if self.schedule.monitor(id).is_some() {
            return Err(AttachError::Taken(id));
        }
        // What the guest's counters have so far is theirs.
        self.fold(self.schedule.enabled());
        let paused = self.is_paused();
        Ok(self.schedule.attach(id, attr, policy, paused)?)
    }

    /// Ends a monitor; returns it as it was at the end.
    pub fn detach(&mut self, id: MonitorId) -> Option<MonitorView> {
        let state = self.monitor_state(id);
        let watched = self.schedule.detach(id)?;
        Some(self.monitor_view(id, &watched, state))
    }

    /// Each monitor, as of now.
    pub fn monitors(&mut self) -> impl Iterator<Item = MonitorView> {
        self.schedule.read_monitors();
        MonitorId::all().filter_map(|id| {
            let watched = self.schedule.monitor(id)?;
            Some(self.monitor_view(id, watched, self.monitor_state(id)))
        })
    }

    /// Whether there is a monitor.
    #[must_use]
    pub const fn has_monitors(&self) -> bool {
        self.schedule.has_monitors()
    }

    fn monitor_state(&self, id: MonitorId) -> CounterState {
        self.schedule.monitor_state(id).into()
    }

    fn monitor_view(&self, id: MonitorId, watched: &Watched, state: CounterState) -> MonitorView {
        MonitorView {
            id,
            attr: watched.attr,
            policy: watched.policy,
            state,
            quality: Some(self.host().quality(&watched.attr)),
            count: watched.count,
            times: watched.times,
        }
    }
}
