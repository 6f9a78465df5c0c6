//! Installing and removing events (R-024, R-075, R-131…R-134).

use super::Scheduler;
use super::context::Owner;
use super::driver::PmuDriver;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{Activity, EventState};
use crate::ids::VcpuId;

/// What else happens to an event that leaves its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detach {
    /// The state it ends in, unless it is lower already.
    pub(crate) state: EventState,
    /// Leave the group. Linux: `DETACH_GROUP`.
    pub(crate) group: bool,
    /// Leave the parent, with the counts fed back. Linux: `DETACH_CHILD`.
    pub(crate) child: bool,
}

impl Detach {
    /// For a move to another slice or CPU: the group stays together.
    pub(crate) const MOVE: Self = Self {
        state: EventState::Off,
        group: false,
        child: false,
    };
    /// The CPU goes away.
    pub(crate) const OFFLINE: Self = Self {
        state: EventState::Off,
        group: true,
        child: false,
    };
    /// Closed by its owner.
    pub(crate) const CLOSE: Self = Self {
        state: EventState::Dead,
        group: true,
        child: false,
    };
}

impl<D: PmuDriver> Scheduler<D> {
    /// Linux: `add_event_to_ctx`.
    pub(super) fn add_to_ctx(&mut self, id: EventId) {
        let ctx = self.events[id].ctx();
        self.list_add(id, ctx);
        self.group_attach(id);
    }

    /// Installs an event in its context. Linux: `perf_install_in_context`.
    pub(super) fn install(&mut self, id: EventId) {
        let event = &self.events[id];
        let ctx = event.ctx();
        let off = self.effective_state(event) == EventState::Off;
        if off && self.contexts[ctx].nr_events() > 0 && event.cgroup().is_none() {
            self.add_to_ctx(id);
            return;
        }
        match self.contexts[ctx].owner {
            Owner::Gone => {}
            Owner::Cpu(vcpu) => {
                if self.is_up(vcpu) {
                    self.install_on(vcpu, id);
                }
            }
            Owner::Task(task) => match self.tasks.get(task).and_then(|t| t.oncpu) {
                Some(vcpu) => self.install_on(vcpu, id),
                None => self.add_to_ctx(id),
            },
        }
    }

    /// Linux: `__perf_install_in_context`.
    fn install_on(&mut self, vcpu: VcpuId, id: EventId) {
        let event = &self.events[id];
        let (ctx, pmu, state, cgroup) = (event.ctx(), event.slice(), event.state(), event.cgroup());
        if cgroup.is_some() && state > EventState::Off {
            // R-133; the first cgroup event makes the CPU follow cgroups.
            if self.contexts[ctx].nr_cgroups == 0 {
                self.refresh(ctx);
                self.add_to_ctx(id);
                if self.cgroup_matches(vcpu, cgroup) {
                    let (task_ctx, class) = (self.cpu(vcpu).task_ctx, self.class_of(id));
                    self.batch(|s, batch| s.resched(batch, vcpu, task_ctx, pmu, class));
                }
                return;
            }
            if !self.cgroup_matches(vcpu, cgroup) {
                self.add_to_ctx(id);
                return;
            }
        }
        self.refresh(ctx);
        self.add_to_ctx(id);
        self.batch(|s, batch| {
            if s.append(batch, vcpu, id, true) {
                return;
            }
            let task_ctx = s.task_ctx_for(vcpu, ctx);
            let class = s.class_of(id);
            s.resched(batch, vcpu, task_ctx, pmu, class);
        });
    }

    /// The task context to schedule on a CPU when `ctx` changes there.
    pub(super) fn task_ctx_for(&self, vcpu: VcpuId, ctx: ContextId) -> Option<ContextId> {
        if self.contexts[ctx].owner.is_cpu() {
            self.cpu(vcpu).task_ctx
        } else {
            Some(ctx)
        }
    }

    /// Takes an event out of its context. Linux: `perf_remove_from_context`.
    ///
    /// Where its CPU cannot be reached nothing happens, as nothing of it is
    /// left there.
    pub(super) fn remove_from_ctx(&mut self, id: EventId, how: Detach) {
        let ctx = self.events[id].ctx();
        self.refresh(ctx);
        self.unsettle(id);
        self.batch(|s, batch| {
            // One that its owner closes is OFF as soon as it is off the PMU.
            let off = if how.state == EventState::Dead {
                EventState::Off
            } else {
                EventState::Inactive
            };
            s.take_off(batch, id, off);
            if s.events[id].state() > EventState::Off {
                s.cgroup_event_disabled(id);
            }
            let state = s.events[id].state().min(how.state);
            s.set_state(id, state);
        });
        // The count is complete now: a child may feed it back.
        self.batch(|s, batch| {
            if how.group {
                s.group_detach(batch, id);
            }
            if how.child {
                s.child_detach(id);
            }
            s.list_del(id);
            s.after_removal(ctx, s.events[id].slice());
        });
    }

    ///
    fn after_removal(&mut self, ctx: ContextId, pmu: PmuId) {
        let vcpu = self.ctx_vcpu(ctx);
        let c = &mut self.contexts[ctx];
        let (task, running) = (!c.owner.is_cpu(), !c.active.is_empty());
        let empty = c.nr_events() == 0;
        let slice = c.slice_mut(pmu);
        if slice.nr_events == 0 {
            slice.rotate_necessary = false;
            if let (true, true, Some(v)) = (task, running, vcpu) {
                self.cpu_mut(v).pmu_mut(pmu).task_ctx = None;
            }
        }
        if empty && running {
            if let (false, Some(v)) = (task, vcpu) {
                self.refresh_cgroups(v, true);
            }
            self.contexts[ctx].active = Activity::empty();
            if let (true, Some(v)) = (task, vcpu) {
                self.cpu_mut(v).task_ctx = None;
            }
        }
    }
}
