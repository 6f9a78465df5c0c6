//! Enable, disable, refresh, reset, period (2.B) and close.

use super::context::Owner;
use super::driver::PmuDriver;
use super::error::EventError;
use super::ids::EventId;
use super::install::Detach;
use super::state::{EventCaps, EventState};
use super::{AttrFlags, Scheduler};
use crate::units::{Count, Nanos};

/// How far an operation on an event reaches. Linux: `PERF_IOC_FLAG_GROUP`.
///
/// # Examples
/// ```
/// # use vpmu::ids::VcpuId;
/// # use vpmu::sched::constraints::{X86Model, X86Pmu};
/// # use vpmu::sched::solver::Constraint;
/// # use vpmu::sched::{Config, EventAttr, OpenRequest, PmuClass, PmuDesc, Scheduler, ScopeTopology, Target};
/// # use vpmu::units::Nanos;
/// # let decode = |_: &_| Some((Constraint::of(0b1), 1));
/// # let one = X86Pmu::new(X86Model { gp: 1, fixed: 0, decode });
/// # let mut s = Scheduler::new(Config::new(ScopeTopology::flat(1)));
/// # let pmu = s.register_pmu(PmuDesc::new("cpu", PmuClass::Hardware), one).unwrap();
/// # let attr = EventAttr::new(s.pmu(pmu).unwrap().1, 0);
/// # let request = OpenRequest::new(attr, Target::Cpu, Some(VcpuId(0)));
/// use vpmu::sched::{EventState, Extent};
///
/// // `s` is a scheduler; an event is disabled alone, or with its group.
/// let event = s.open(Nanos(0), &request).unwrap();
/// s.disable(Nanos(10), event, Extent::Event).unwrap();
/// assert_eq!(s.state(event), Some(EventState::Off));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The event and its inherited children.
    Event,
    /// Each member of its group, with its children (R-025).
    Group,
}

impl<D: PmuDriver> Scheduler<D> {
    pub(super) fn exists(&self, id: EventId) -> Result<(), EventError> {
        // Inherited copies are not for callers.
        match self.events.get(id) {
            Some(e) if e.parent().is_none() && e.state() != EventState::Dead => Ok(()),
            _ => Err(EventError::NoEvent),
        }
    }

    /// Whether a change of the event can be carried out (R-030, R-031).
    ///
    /// Linux: `event_function_call`, as far as it can do nothing.
    fn reachable(&self, id: EventId) -> bool {
        match self.contexts[self.events[id].ctx()].owner {
            Owner::Cpu(vcpu) => self.is_up(vcpu),
            Owner::Task(_) => true,
            Owner::Gone => false,
        }
    }

    fn for_each_child(&mut self, id: EventId, f: fn(&mut Self, EventId)) {
        f(self, id);
        for i in 0..self.events[id].children().len() {
            let child = self.events[id].children()[i];
            f(self, child);
        }
    }

    fn for_each(&mut self, id: EventId, extent: Extent, f: fn(&mut Self, EventId)) {
        if extent == Extent::Event {
            self.for_each_child(id, f);
            return;
        }
        let leader = self.events[id].leader();
        self.for_each_child(leader, f);
        for i in 0..self.events[leader].siblings().len() {
            let sibling = self.events[leader].siblings()[i];
            self.for_each_child(sibling, f);
        }
    }

    /// Enables an event or its group; its place in the order stays (R-020…R-022, R-026).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `perf_event_enable`.
    pub fn enable(&mut self, now: Nanos, id: EventId, extent: Extent) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        self.for_each(id, extent, Self::enable_one);
        self.check_invariants();
        Ok(())
    }

    /// Linux: `_perf_event_enable`.
    pub(super) fn enable_one(&mut self, id: EventId) {
        let event = &mut self.events[id];
        if event.state().is_enabled() || event.state() < EventState::Error {
            return;
        }
        if event.state() == EventState::Error {
            if event.caps().contains(EventCaps::SIBLING) && event.leader() == id {
                return;
            }
            event.leave_error();
        }
        if self.reachable(id) {
            self.enable_in_ctx(id);
        }
    }

    /// Linux: `__perf_event_enable`.
    fn enable_in_ctx(&mut self, id: EventId) {
        let event = &self.events[id];
        let (ctx, pmu, leader) = (event.ctx(), event.slice(), event.leader());
        self.refresh(ctx);
        self.unsettle(id);
        self.set_state(id, EventState::Inactive);
        if self.events[id].list_seq().is_some() {
            self.cgroup_event_enabled(id);
        }
        if self.contexts[ctx].active.is_empty() {
            return;
        }
        let Some(vcpu) = self.ctx_vcpu(ctx) else {
            return;
        };
        let event = &self.events[id];
        if event.vcpu().is_some_and(|v| v != vcpu) || !self.cgroup_matches(vcpu, event.cgroup()) {
            return;
        }
        if leader != id && self.events[leader].state() != EventState::Active {
            return;
        }
        let installed = self.events[id].group_index().is_some();
        self.batch(|s, batch| {
            if !(installed && s.append(batch, vcpu, id, false)) {
                let (task_ctx, class) = (s.cpu(vcpu).task_ctx, s.class_of(id));
                s.resched(batch, vcpu, task_ctx, pmu, class);
            }
        });
    }

    /// Disables an event or its group; nothing else is scheduled, siblings keep
    /// their own states, and an event in ERROR stays there (R-015, R-017, R-023, R-024).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `perf_event_disable`.
    pub fn disable(&mut self, now: Nanos, id: EventId, extent: Extent) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        self.for_each(id, extent, Self::disable_one);
        self.check_invariants();
        Ok(())
    }

    /// Linux: `_perf_event_disable`, `__perf_event_disable`.
    pub(super) fn disable_one(&mut self, id: EventId) {
        let event = &self.events[id];
        if event.state() <= EventState::Off || !self.reachable(id) {
            return;
        }
        let (ctx, leader) = (event.ctx(), event.leader());
        self.refresh_for(ctx, id);
        self.unsettle(id);
        self.batch(|s, batch| {
            if leader == id {
                s.take_group_off(batch, id);
            } else {
                s.take_off(batch, id, EventState::Inactive);
            }
            s.set_state(id, EventState::Off);
            if s.events[id].list_seq().is_some() {
                s.cgroup_event_disabled(id);
            }
        });
    }

    /// Sets the own counts to 0 (R-027).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `_perf_event_reset`.
    pub fn reset(&mut self, now: Nanos, id: EventId, extent: Extent) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        self.for_each(id, extent, |s, e| {
            s.update_for_read(e, false);
            s.events[e].zero_count();
        });
        Ok(())
    }

    /// Lets the event overflow `n` more times, and enables it (R-028).
    ///
    /// # Errors
    /// Not for inherited or counting events.
    ///
    /// Linux: `_perf_event_refresh`.
    pub fn refresh_budget(&mut self, now: Nanos, id: EventId, n: i32) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        let event = &mut self.events[id];
        if event.attr().has(AttrFlags::INHERIT) {
            return Err(EventError::Inherited);
        }
        if !event.attr().is_sampling() {
            return Err(EventError::NotSampling);
        }
        event.sampling.add_budget(n);
        self.enable_one(id);
        self.check_invariants();
        Ok(())
    }

    /// Sets the sample period in events, or the frequency in Hz (R-029).
    ///
    /// # Errors
    /// A counting event has none; 0, bit 63 and what the PMU refuses are not valid.
    ///
    /// Linux: `_perf_event_period`.
    pub fn set_period(&mut self, now: Nanos, id: EventId, value: u64) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        let event = &self.events[id];
        if !event.attr().is_sampling() {
            return Err(EventError::NotSampling);
        }
        let valid = if event.attr().has(AttrFlags::FREQ) {
            value != 0 && value <= self.config.max_sample_rate
        } else {
            let driver = &self.pmus[event.pmu().index()].driver;
            value != 0 && driver.accepts_period(id, value) && value >> 63 == 0
        };
        if !valid {
            return Err(EventError::Period);
        }
        if self.reachable(id) {
            self.set_period_in_ctx(id, value);
        }
        self.check_invariants();
        Ok(())
    }

    /// Linux: `__perf_event_period`.
    fn set_period_in_ctx(&mut self, id: EventId, value: u64) {
        let event = &mut self.events[id];
        event.set_sample(value);
        let freq = event.attr().has(AttrFlags::FREQ);
        let active = event.state() == EventState::Active;
        if active {
            event.sampling.unthrottle();
            self.stop_in_place(id);
        }
        let event = &mut self.events[id];
        event.sampling.restart_period();
        if !freq {
            event.sampling.set_period(value);
            let pmu = event.pmu();
            self.pmus[pmu.index()].driver.set_period(id, value);
        }
        if active {
            self.start_in_place(id);
        }
    }

    /// Disables without a reschedule and returns the count, which is then
    /// zeroed if `reset` (R-032).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `perf_event_pause`.
    pub fn pause(&mut self, now: Nanos, id: EventId, reset: bool) -> Result<Count, EventError> {
        self.exists(id)?;
        self.at(now);
        self.disable_one(id);
        let event = &mut self.events[id];
        let count = event.count();
        if reset {
            event.zero_count();
        }
        self.check_invariants();
        Ok(count)
    }

    /// Whatever is behind the PMU took the event's counter away, or has none for
    /// it after all: its group goes off. A pinned leader goes to ERROR, as one
    /// that does not fit (R-018), and only enable tries again; a flexible group
    /// waits for the next rotation (R-127). Does nothing unless the leader wants
    /// to run.
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    pub fn lose(&mut self, now: Nanos, id: EventId) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        let leader = self.events[id].leader();
        let event = &self.events[leader];
        if !event.state().is_enabled() {
            return Ok(());
        }
        let (ctx, slice, oncpu) = (event.ctx(), event.slice(), event.oncpu());
        let pinned = event.attr().has(AttrFlags::PINNED);
        self.refresh_for(ctx, leader);
        self.unsettle(leader);
        self.batch(|s, batch| {
            s.take_group_off(batch, leader);
            if pinned {
                if s.events[leader].list_seq().is_some() {
                    s.cgroup_event_disabled(leader);
                }
                s.set_state(leader, EventState::Error);
            } else if let Some(vcpu) = oncpu {
                s.contexts[ctx].slice_mut(slice).rotate_necessary = true;
                s.arm_timer(vcpu, slice);
            }
        });
        self.check_invariants();
        Ok(())
    }

    /// The owner gives the event up (R-076, R-077).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `perf_event_release_kernel`.
    pub fn close(&mut self, now: Nanos, id: EventId) -> Result<(), EventError> {
        self.exists(id)?;
        self.at(now);
        self.remove_from_ctx(id, Detach::CLOSE);
        while let Some(child) = self.events[id].children().first().copied() {
            let state = EventState::Off;
            self.remove_from_ctx(
                child,
                Detach {
                    state,
                    group: true,
                    child: true,
                },
            );
            self.free_event(child);
        }
        self.free_event(id);
        self.check_invariants();
        Ok(())
    }
}
