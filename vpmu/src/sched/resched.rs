//! Which classes go out and in. Linux: `ctx_resched`,
//! `ctx_sched_out`, `ctx_sched_in`.

use super::Scheduler;
use super::commit::Batch;
use super::context::Owner;
use super::driver::PmuDriver;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{Activity, EventClass, GroupSet};
use crate::ids::VcpuId;

/// Which slices of a context an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Every PMU's.
    All,
    /// One PMU's.
    One(PmuId),
    /// Those that have cgroup events.
    Cgroups,
}

impl<D: PmuDriver> Scheduler<D> {
    /// Class of an event: its leader's set, its own context's kind.
    ///
    /// Linux: `get_event_type`.
    pub(super) fn class_of(&self, id: EventId) -> EventClass {
        let event = &self.events[id];
        let set = self
            .events
            .get(event.leader())
            .map_or(event.set(), super::event::PerfEvent::set);
        EventClass {
            set,
            of_cpu: self.contexts[event.ctx()].owner.is_cpu(),
        }
    }

    /// The slice behind the `at`-th PMU of a selection, walking upwards.
    fn next_slice(&self, ctx: ContextId, which: Which, from: u16) -> Option<PmuId> {
        if let Which::One(pmu) = which {
            return (pmu.0 >= from && self.contexts[ctx].slices.contains_key(&pmu)).then_some(pmu);
        }
        let slices = &self.contexts[ctx].slices;
        let mut rest = slices.range(PmuId(from)..).map(|(p, _)| *p);
        rest.find(|p| which == Which::All || self.slice_has_cgroups(ctx, *p))
    }

    /// Linux: `ctx_sched_out`.
    pub(super) fn ctx_sched_out(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        ctx: ContextId,
        which: Which,
        what: Activity,
    ) {
        if self.contexts[ctx].nr_events() == 0 {
            return;
        }
        self.refresh(ctx);
        let c = &mut self.contexts[ctx];
        let before = c.active;
        c.active.remove(what);
        if !c.active.intersects(Activity::ALL) {
            c.active = Activity::empty();
        }
        let gone = before ^ c.active;
        let (task, idle) = (!c.owner.is_cpu(), c.active.is_empty());
        if task && idle {
            self.cpu_mut(vcpu).task_ctx = None;
        }
        let mut from = 0;
        while let Some(pmu) = self.next_slice(ctx, which, from) {
            self.slice_sched_out(batch, vcpu, ctx, pmu, gone);
            from = pmu.0 + 1;
        }
    }

    /// Linux: `ctx_sched_in`.
    pub(super) fn ctx_sched_in(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        ctx: ContextId,
        which: Which,
        what: Activity,
    ) {
        let now = self.now;
        let c = &mut self.contexts[ctx];
        if c.nr_events() == 0 {
            return;
        }
        let before = c.active;
        if !before.contains(Activity::TIME) {
            c.timestamp = now;
        }
        c.active |= what | Activity::TIME;
        let (new, task) = (before ^ c.active, matches!(c.owner, Owner::Task(_)));
        if !before.contains(Activity::TIME) && !task {
            self.start_cgroup_clocks(vcpu);
        }
        if task {
            self.cpu_mut(vcpu).task_ctx = Some(ctx);
        }
        for set in [GroupSet::Pinned, GroupSet::Flexible] {
            if !new.contains(set.activity()) {
                continue;
            }
            let mut from = 0;
            while let Some(pmu) = self.next_slice(ctx, which, from) {
                self.pass(batch, vcpu, ctx, pmu, set);
                from = pmu.0 + 1;
            }
        }
    }

    /// Fills a CPU in priority order. Linux: `perf_event_sched_in`.
    pub(super) fn fill(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        task_ctx: Option<ContextId>,
        which: Which,
    ) {
        let cpu_ctx = self.cpu(vcpu).ctx;
        for set in [Activity::PINNED, Activity::FLEXIBLE] {
            self.ctx_sched_in(batch, vcpu, cpu_ctx, which, set);
            if let Some(ctx) = task_ctx {
                self.ctx_sched_in(batch, vcpu, ctx, which, set);
            }
        }
    }

    /// Redoes a PMU on a CPU from a class downwards. Linux: `ctx_resched`.
    pub(super) fn resched(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        task_ctx: Option<ContextId>,
        pmu: PmuId,
        class: EventClass,
    ) {
        let which = Which::One(pmu);
        let pinned = class.set == GroupSet::Pinned;
        let out = if pinned {
            Activity::ALL
        } else {
            Activity::FLEXIBLE
        };
        let cpu_ctx = self.cpu(vcpu).ctx;
        if let Some(ctx) = task_ctx
            && self.cpu(vcpu).task_ctx == Some(ctx)
        {
            self.ctx_sched_out(batch, vcpu, ctx, which, out);
        }
        if class.of_cpu {
            self.ctx_sched_out(batch, vcpu, cpu_ctx, which, out);
        } else if pinned {
            self.ctx_sched_out(batch, vcpu, cpu_ctx, which, Activity::FLEXIBLE);
        }
        self.fill(batch, vcpu, task_ctx, which);
    }

    /// Redoes all four classes of a PMU on a CPU. Linux: `perf_pmu_resched`.
    ///
    /// `false` if there is no such CPU or PMU.
    pub fn resched_pmu(&mut self, now: crate::units::Nanos, vcpu: VcpuId, pmu: PmuId) -> bool {
        self.at(now);
        if !self.is_up(vcpu) || self.pmus.get(pmu.index()).is_none() {
            return false;
        }
        let task_ctx = self.cpu(vcpu).task_ctx;
        let class = EventClass {
            set: GroupSet::Pinned,
            of_cpu: true,
        };
        self.batch(|s, batch| s.resched(batch, vcpu, task_ctx, pmu, class));
        self.check_invariants();
        true
    }
}
