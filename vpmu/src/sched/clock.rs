//! Context clocks, event times and state changes (2.A, 2.C).

use super::Scheduler;
use super::context::Owner;
use super::driver::PmuDriver;
use super::event::{Birth, PerfEvent};
use super::ids::{ContextId, EventId};
use super::state::{Activity, EventState};
use crate::units::Nanos;

/// State of an event, and the times that it was enabled and running up to
/// `stamp` on its context's clock.
///
/// An installed event changes its state by `set_state` alone, which brings the
/// times up to date first.
#[derive(Debug)]
pub(crate) struct StateTimes {
    state: EventState,
    stamp: Nanos,
    enabled: Nanos,
    running: Nanos,
}

impl StateTimes {
    /// No time yet.
    pub(super) const fn new(_: &Birth, state: EventState) -> Self {
        Self {
            state,
            stamp: Nanos(0),
            enabled: Nanos(0),
            running: Nanos(0),
        }
    }
}

impl PerfEvent {
    /// Its own state.
    pub(crate) const fn state(&self) -> EventState {
        self.times.state
    }

    /// Time enabled, in ns, up to the last update.
    pub(crate) const fn enabled(&self) -> Nanos {
        self.times.enabled
    }

    /// Time running, in ns, up to the last update.
    pub(crate) const fn running(&self) -> Nanos {
        self.times.running
    }

    /// Time enabled and running when the event's clock is at `clock` and its
    /// effective state is `state`.
    pub(crate) fn times_at(&self, clock: Nanos, state: EventState) -> (Nanos, Nanos) {
        let StateTimes {
            stamp,
            mut enabled,
            mut running,
            ..
        } = self.times;
        let delta = clock.since(stamp);
        if state >= EventState::Inactive {
            enabled += delta;
        }
        if state >= EventState::Active {
            running += delta;
        }
        (enabled, running)
    }

    /// The event enters its context: no time has passed before `stamp`.
    pub(crate) const fn stamp_times(&mut self, stamp: Nanos) {
        self.times.stamp = stamp;
    }

    /// Sets the state of an event that is in no context: no time passes there.
    pub(crate) const fn start_in(&mut self, state: EventState) {
        self.times.state = state;
    }

    /// An enable takes an event out of ERROR to OFF. Both count no time, and
    /// neither is ready to run, so that nothing else changes.
    pub(crate) fn leave_error(&mut self) {
        debug_assert_eq!(self.times.state, EventState::Error, "R-017");
        self.times.state = EventState::Off;
    }

    /// Exchanges the times of two events, not their states.
    pub(crate) const fn swap_times(&mut self, other: &mut Self) {
        let (a, b) = (&mut self.times, &mut other.times);
        core::mem::swap(&mut a.enabled, &mut b.enabled);
        core::mem::swap(&mut a.running, &mut b.running);
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// Brings the clock of a context up to date if it runs: once an
    /// operation, as the caller's `now` does not move within one. A task's
    /// clock runs on whatever CPU the task is.
    ///
    /// Linux: `ctx_time_update`.
    pub(super) fn refresh(&mut self, ctx: ContextId) {
        let now = self.now;
        let c = &mut self.contexts[ctx];
        if !c.active.contains(Activity::TIME) {
            return;
        }
        c.refresh(now);
        if let Owner::Cpu(vcpu) = c.owner {
            self.refresh_cgroups(vcpu, false);
        }
    }

    /// The same, with the cgroup clock of one event. Linux: `ctx_time_update_event`.
    pub(super) fn refresh_for(&mut self, ctx: ContextId, event: EventId) {
        let now = self.now;
        let c = &mut self.contexts[ctx];
        if !c.active.contains(Activity::TIME) {
            return;
        }
        c.refresh(now);
        self.refresh_cgroup_of(event);
    }

    /// The clock that the event's times are taken from. Linux: `perf_event_time`.
    pub(super) fn event_time(&self, event: &PerfEvent) -> Nanos {
        match (event.cgroup(), event.vcpu()) {
            (Some(g), Some(v)) => self.cgroups.time(v, g),
            _ => self.contexts[event.ctx()].time,
        }
    }

    /// State of an event as its leader lets it be. Linux: `__perf_effective_state`.
    pub(super) fn effective_state(&self, event: &PerfEvent) -> EventState {
        let leader = match self.events.get(event.leader()) {
            Some(l) => l.state(),
            None => event.state(),
        };
        if leader <= EventState::Off {
            leader
        } else {
            event.state()
        }
    }

    /// Adds the time since the stamp. Linux: `perf_event_update_time`.
    pub(super) fn update_time(&mut self, id: EventId) {
        let event = &self.events[id];
        let now = self.event_time(event);
        let state = self.effective_state(event);
        let delta = now.since(event.times.stamp);
        let times = &mut self.events[id].times;
        if state >= EventState::Inactive {
            times.enabled += delta;
        }
        if state >= EventState::Active {
            times.running += delta;
        }
        times.stamp = now;
    }

    /// Linux: `perf_event_update_sibling_time`.
    pub(super) fn update_sibling_times(&mut self, leader: EventId) {
        for i in 0..self.events[leader].siblings().len() {
            let sibling = self.events[leader].siblings()[i];
            self.update_time(sibling);
        }
    }

    /// Changes the state, with the times brought up to the context clock first
    /// siblings are updated when their leader crosses zero.
    ///
    /// Linux: `perf_event_set_state`.
    pub(super) fn set_state(&mut self, id: EventId, state: EventState) {
        let old = self.events[id].state();
        if old == state {
            return;
        }
        self.update_time(id);
        let crosses = old.is_enabled() != state.is_enabled();
        if crosses {
            self.update_sibling_times(id);
        }
        self.events[id].times.state = state;
        if crosses {
            self.sync_ready(id);
        }
    }

    /// The clock of the event's context at this moment, for its PMU.
    pub(super) fn count_clock(&self, id: EventId) -> Nanos {
        let event = &self.events[id];
        self.contexts[event.ctx()].time_at(self.now)
    }
}
