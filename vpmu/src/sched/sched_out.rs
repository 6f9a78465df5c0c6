//! Taking events off their PMU.

use super::AttrFlags;
use super::Scheduler;
use super::commit::Batch;
use super::context::Owner;
use super::driver::PmuDriver;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{Activity, EventState, GroupSet};
use crate::ids::VcpuId;

impl<D: PmuDriver> Scheduler<D> {
    /// Takes one event off and leaves it in `state`; its group mates stay.
    ///
    /// Linux: `event_sched_out`.
    pub(super) fn take_off(&mut self, batch: Batch<'_>, id: EventId, state: EventState) {
        let event = &self.events[id];
        if event.state() != EventState::Active {
            return;
        }
        let Some(vcpu) = event.oncpu() else { return };
        let (ctx, slice, set) = (event.ctx(), event.slice(), event.set());
        let (software, exclusive, freq) = (
            event.is_software(),
            event.attr().has(AttrFlags::EXCLUSIVE),
            event.attr().is_freq(),
        );
        self.contexts[ctx].slice_mut(slice).active[set.index()].remove(&mut self.events, id);
        self.release(batch, vcpu, id);
        if state == EventState::Off {
            self.cgroup_event_disabled(id);
        }
        self.set_state(id, state);
        if freq {
            self.contexts[ctx].slice_mut(slice).nr_freq -= 1;
        }
        self.unsettle_pmu(vcpu, slice);
        let part = self.cpu_mut(vcpu).pmu_mut(slice);
        if !software {
            part.active_oncpu -= 1;
        }
        if exclusive || part.active_oncpu == 0 {
            part.exclusive = false;
        }
    }

    /// A change outside a pass: what the last pass found is not certain any
    /// more, unless all groups were on and there is always room.
    pub(super) fn unsettle(&mut self, id: EventId) {
        let event = &self.events[id];
        let (ctx, leader) = (event.ctx(), event.leader());
        let lone = leader == id && event.siblings().is_empty();
        let leader_slice = self.events.get(leader).map_or(event.slice(), |l| l.slice());
        let pmus = [event.slice(), event.pmu(), leader_slice];
        if self.contexts.get(ctx).is_none() {
            return;
        }
        let Some(vcpu) = self.ctx_vcpu(ctx) else {
            return;
        };
        for pmu in pmus {
            if lone {
                self.unsettle_pmu(vcpu, pmu);
            } else {
                // A member that another slice's pass brought in may wait for its leader's.
                self.cpu_mut(vcpu).pmu_mut(pmu).settled = None;
            }
        }
    }

    fn unsettle_pmu(&mut self, vcpu: VcpuId, pmu: PmuId) {
        let roomy = self.pmus[pmu.index()].driver.always_fits();
        let part = self.cpu_mut(vcpu).pmu_mut(pmu);
        let all_on = matches!(part.settled, Some((_, false))) && !part.exclusive;
        if !(roomy && all_on) {
            part.settled = None;
        }
    }

    /// Takes a whole group off. Linux: `group_sched_out`.
    pub(super) fn take_group_off(&mut self, batch: Batch<'_>, leader: EventId) {
        if self.events[leader].state() != EventState::Active {
            return;
        }
        self.take_off(batch, leader, EventState::Inactive);
        for i in 0..self.events[leader].siblings().len() {
            let sibling = self.events[leader].siblings()[i];
            self.take_off(batch, sibling, EventState::Inactive);
        }
    }

    /// Takes sets of one slice off. Linux: `__pmu_ctx_sched_out`.
    pub(super) fn slice_sched_out(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        ctx: ContextId,
        pmu: PmuId,
        sets: Activity,
    ) {
        let c = &self.contexts[ctx];
        if !c.owner.is_cpu() && !c.active.intersects(Activity::ALL) {
            self.cpu_mut(vcpu).pmu_mut(pmu).task_ctx = None;
        }
        for set in [GroupSet::Pinned, GroupSet::Flexible] {
            if !sets.contains(set.activity()) {
                continue;
            }
            while let Some(leader) = self.first_active(ctx, pmu, set) {
                self.take_group_off(batch, leader);
            }
            if set == GroupSet::Flexible
                && let Some(s) = self.contexts[ctx].slices.get_mut(&pmu)
            {
                s.rotate_necessary = false;
            }
        }
    }

    pub(super) fn first_active(
        &self,
        ctx: ContextId,
        pmu: PmuId,
        set: GroupSet,
    ) -> Option<EventId> {
        self.contexts[ctx].slices.get(&pmu)?.active[set.index()].first()
    }

    /// Where a context is scheduled: its CPU, or where its task runs.
    pub(super) fn ctx_vcpu(&self, ctx: ContextId) -> Option<VcpuId> {
        match self.contexts[ctx].owner {
            Owner::Cpu(v) => Some(v),
            Owner::Task(t) => self.tasks.get(t)?.oncpu,
            Owner::Gone => None,
        }
    }
}

impl GroupSet {
    pub(super) const fn activity(self) -> Activity {
        match self {
            Self::Pinned => Activity::PINNED,
            Self::Flexible => Activity::FLEXIBLE,
        }
    }
}
