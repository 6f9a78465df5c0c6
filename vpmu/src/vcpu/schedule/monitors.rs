//! Monitors: events of the CPU beside the guest's, which are of its task.

use crate::host::{HostEvent, HostOpenError, HostPmu};
use crate::ids::MonitorId;
use crate::sched::{EventId, EventState, Extent, Target};

use super::super::{Policy, Times};
use super::{CPU, EventSchedule};

/// One monitor.
#[derive(Clone, Copy, Debug)]
pub(in crate::vcpu) struct Watched {
    event: EventId,
    pub(in crate::vcpu) attr: HostEvent,
    pub(in crate::vcpu) policy: Policy,
    /// Its count when it was last read.
    pub(in crate::vcpu) count: u64,
    pub(in crate::vcpu) times: Times,
}

/// The monitors of a vCPU, by [`MonitorId`].
#[derive(Debug, Default)]
pub(super) struct Monitors {
    all: [Option<Watched>; MonitorId::MAX as usize],
    attached: u8,
}

impl<H: HostPmu> EventSchedule<H> {
    pub(in crate::vcpu) const fn has_monitors(&self) -> bool {
        self.monitors.attached > 0
    }

    /// A monitor, as it was last read.
    pub(in crate::vcpu) fn monitor(&self, id: MonitorId) -> Option<&Watched> {
        self.monitors.all[id.index()].as_ref()
    }

    pub(in crate::vcpu) fn monitor_state(&self, id: MonitorId) -> Option<EventState> {
        self.sched.state(self.monitor(id)?.event)
    }

    /// Attaches a monitor, of which there is none with this number; `paused`:
    /// the guest's PMU is disabled.
    pub(in crate::vcpu) fn attach(
        &mut self,
        id: MonitorId,
        attr: HostEvent,
        policy: Policy,
        paused: bool,
    ) -> Result<(), HostOpenError> {
        // Counters may have come back since somebody last tried.
        self.driver_mut().counters.forget();
        let event = self.open_event(id.into(), &attr, policy, Target::Cpu)?;
        if paused {
            self.leave();
        }
        self.monitors.attached += 1;
        self.monitors.all[id.index()] = Some(Watched {
            event,
            attr,
            policy,
            count: 0,
            times: Times::default(),
        });
        let _ = self.sched.enable(self.now, event, Extent::Event);
        self.settle();
        Ok(())
    }

    /// Takes a monitor away and returns it as it was at the end. What it leaves
    /// is for those that wait, at their next turn at the latest.
    pub(in crate::vcpu) fn detach(&mut self, id: MonitorId) -> Option<Watched> {
        self.read_monitor(id);
        let watched = self.monitors.all[id.index()].take()?;
        let _ = self.sched.close(self.now, watched.event);
        self.monitors.attached -= 1;
        self.settle();
        self.driver_mut().counters.forget();
        Some(watched)
    }

    /// Brings counts and times of all monitors up to date.
    pub(in crate::vcpu) fn read_monitors(&mut self) {
        if self.has_monitors() {
            MonitorId::all().for_each(|id| self.read_monitor(id));
        }
    }

    fn read_monitor(&mut self, id: MonitorId) {
        let Some(monitor) = &mut self.monitors.all[id.index()] else {
            return;
        };
        let Some(times) = self.sched.event_times(self.now, monitor.event) else {
            return;
        };
        // A pinned event without a counter cannot be read: it stays where it was.
        if monitor.policy == Policy::Flexible || times.state == EventState::Active {
            let driver = &mut self.sched[self.pmu];
            monitor.count = driver.count(id.into(), times.clock).0;
            (monitor.times.enabled, monitor.times.running) = (times.enabled, times.running);
        }
    }

    /// The guest's task leaves the CPU: its events give their counters up, and
    /// its clock stands.
    pub(super) fn leave(&mut self) {
        if !core::mem::replace(&mut self.away, true) {
            let _ = self.sched.switch_to(self.now, CPU, None);
            // Whatever was held still has gone.
            self.driver_mut().resume();
        }
    }

    pub(super) fn come_back(&mut self) {
        if core::mem::take(&mut self.away) {
            let _ = self.sched.switch_to(self.now, CPU, Some(self.task));
        }
    }
}
