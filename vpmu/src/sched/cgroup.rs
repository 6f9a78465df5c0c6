//! Cgroup events: whose turn it is on a CPU, and the clocks.

use alloc::collections::BTreeMap;

use super::Scheduler;
use super::commit::Batch;
use super::driver::PmuDriver;
use super::groups::MAX_CGROUP;
use super::ids::{CgroupId, EventId, PmuId, TaskId};
use super::state::{Activity, EventState};
use crate::ids::VcpuId;
use crate::units::Nanos;

/// Time that a cgroup or its descendants were current on one CPU.
#[derive(Clone, Copy, Debug, Default)]
struct CgroupClock {
    time: Nanos,
    timestamp: Nanos,
    active: bool,
}

/// The tree of cgroups and their clocks.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    parents: BTreeMap<CgroupId, CgroupId>,
    clocks: BTreeMap<(VcpuId, CgroupId), CgroupClock>,
}

impl Cgroups {
    pub(crate) fn parent(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.parents.get(&cgroup).copied()
    }

    fn exists(&self, cgroup: CgroupId) -> bool {
        cgroup == CgroupId::ROOT || self.parents.contains_key(&cgroup)
    }

    pub(crate) fn is_descendant(&self, cgroup: CgroupId, ancestor: CgroupId) -> bool {
        let mut at = Some(cgroup);
        while let Some(g) = at {
            if g == ancestor {
                return true;
            }
            at = self.parent(g);
        }
        false
    }

    pub(crate) fn time(&self, vcpu: VcpuId, cgroup: CgroupId) -> Nanos {
        self.clocks
            .get(&(vcpu, cgroup))
            .map_or(Nanos(0), |c| c.time)
    }

    fn clock(&mut self, vcpu: VcpuId, cgroup: CgroupId) -> &mut CgroupClock {
        self.clocks.entry((vcpu, cgroup)).or_default()
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// Makes a cgroup below `parent` known; `false` if the parent is not, the
    /// cgroup already is, or its number is above 2^31 − 2.
    pub fn create_cgroup(&mut self, cgroup: CgroupId, parent: CgroupId) -> bool {
        if self.cgroups.exists(cgroup) || !self.cgroups.exists(parent) || cgroup.0 > MAX_CGROUP {
            return false;
        }
        self.cgroups.parents.insert(cgroup, parent);
        true
    }

    pub(super) fn cgroup_exists(&self, cgroup: CgroupId) -> bool {
        self.cgroups.exists(cgroup)
    }

    fn current_cgroup(&self, vcpu: VcpuId) -> CgroupId {
        let task = self.cpu(vcpu).current.and_then(|t| self.tasks.get(t));
        task.map_or(CgroupId::ROOT, |t| t.cgroup)
    }

    /// Brings the clocks of the current cgroup and its ancestors up to date.
    ///
    /// Linux: `update_cgrp_time_from_cpuctx`.
    pub(super) fn refresh_cgroups(&mut self, vcpu: VcpuId, last: bool) {
        let now = self.now;
        let mut at = self.cpu(vcpu).cgroup;
        while let Some(g) = at {
            let clock = self.cgroups.clock(vcpu, g);
            if clock.active {
                clock.time += now.since(clock.timestamp);
            }
            clock.timestamp = now;
            if last {
                clock.active = false;
            }
            at = self.cgroups.parent(g);
        }
    }

    /// Linux: `update_cgrp_time_from_event`.
    pub(super) fn refresh_cgroup_of(&mut self, event: EventId) {
        let e = &self.events[event];
        let (Some(g), Some(v)) = (e.cgroup(), e.vcpu()) else {
            return;
        };
        let now = self.now;
        let clock = self.cgroups.clock(v, g);
        if clock.active {
            clock.time += now.since(clock.timestamp);
            clock.timestamp = now;
        }
    }

    /// Starts the clocks of the current cgroup. Linux: `perf_cgroup_set_timestamp`.
    pub(super) fn start_cgroup_clocks(&mut self, vcpu: VcpuId) {
        let now = self.now;
        let mut at = self.cpu(vcpu).cgroup;
        while let Some(g) = at {
            let clock = self.cgroups.clock(vcpu, g);
            clock.timestamp = now;
            clock.active = true;
            at = self.cgroups.parent(g);
        }
    }

    /// An event that wants to run has entered its context. Linux: `perf_cgroup_event_enable`.
    pub(super) fn cgroup_event_enabled(&mut self, id: EventId) {
        let e = &self.events[id];
        let (Some(_), Some(vcpu), ctx, pmu) = (e.cgroup(), e.vcpu(), e.ctx(), e.slice()) else {
            return;
        };
        let c = &mut self.contexts[ctx];
        c.slice_mut(pmu).nr_cgroups += 1;
        c.nr_cgroups += 1;
        if c.nr_cgroups == 1 {
            let current = self.current_cgroup(vcpu);
            self.cpu_mut(vcpu).cgroup = Some(current);
            if self.contexts[ctx].active.contains(Activity::TIME) {
                self.start_cgroup_clocks(vcpu);
            }
        }
    }

    /// Linux: `perf_cgroup_event_disable`.
    pub(super) fn cgroup_event_disabled(&mut self, id: EventId) {
        let e = &self.events[id];
        let (Some(_), Some(vcpu), ctx, pmu) = (e.cgroup(), e.vcpu(), e.ctx(), e.slice()) else {
            return;
        };
        let c = &mut self.contexts[ctx];
        let slice = c.slice_mut(pmu);
        slice.nr_cgroups = slice.nr_cgroups.saturating_sub(1);
        c.nr_cgroups = c.nr_cgroups.saturating_sub(1);
        if c.nr_cgroups == 0 {
            self.refresh_cgroups(vcpu, true);
            self.cpu_mut(vcpu).cgroup = None;
        }
    }

    /// Whether the event's cgroup is current on the CPU. Linux: `perf_cgroup_match`.
    pub(super) fn cgroup_matches(&self, vcpu: VcpuId, cgroup: Option<CgroupId>) -> bool {
        let Some(wanted) = cgroup else { return true };
        let Some(current) = self.cpu(vcpu).cgroup else {
            return false;
        };
        self.cgroups.is_descendant(current, wanted)
    }

    /// Follows the new current task's cgroup. Linux: `perf_cgroup_switch`.
    pub(super) fn cgroup_switch(&mut self, batch: Batch<'_>, vcpu: VcpuId) {
        let cpu = self.cpu(vcpu);
        let (Some(old), ctx) = (cpu.cgroup, cpu.ctx) else {
            return;
        };
        let new = self.current_cgroup(vcpu);
        if old == new {
            return;
        }
        self.refresh(ctx);
        self.refresh_cgroups(vcpu, true);
        self.ctx_sched_out(
            batch,
            vcpu,
            ctx,
            super::resched::Which::Cgroups,
            Activity::ALL,
        );
        self.cpu_mut(vcpu).cgroup = Some(new);
        self.ctx_sched_in(
            batch,
            vcpu,
            ctx,
            super::resched::Which::Cgroups,
            Activity::ALL,
        );
        self.start_cgroup_clocks(vcpu);
    }

    /// Moves a task to another cgroup; where it runs, the CPU follows at once.
    /// `false` if there is no such task or cgroup.
    pub fn move_to_cgroup(&mut self, now: Nanos, task: TaskId, cgroup: CgroupId) -> bool {
        self.at(now);
        if !self.cgroups.exists(cgroup) {
            return false;
        }
        let Some(t) = self.tasks.get_mut(task) else {
            return false;
        };
        t.cgroup = cgroup;
        if let Some(vcpu) = t.oncpu {
            self.batch(|s, batch| s.cgroup_switch(batch, vcpu));
        }
        true
    }

    /// Whether `state` holds a place among the enabled cgroup events.
    pub(super) fn counts_as_cgroup_event(state: EventState) -> bool {
        state > EventState::Off
    }

    /// PMUs of a context that have cgroup events.
    pub(super) fn slice_has_cgroups(&self, ctx: super::ids::ContextId, pmu: PmuId) -> bool {
        self.contexts[ctx]
            .slices
            .get(&pmu)
            .is_some_and(|s| s.nr_cgroups > 0)
    }
}
