//! Taking events off their PMU.

use super::AttrFlags;
use super::Scheduler;
use super::context::Owner;
use super::driver::PmuDriver;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{Activity, EventState, GroupSet};
use crate::ids::VcpuId;

impl<D: PmuDriver> Scheduler<D> {
    /// Takes one event off; its group mates stay. Linux: `event_sched_out`.
    pub(super) fn take_off(&mut self, id: EventId) {
        let event = &self.events[id];
        if event.state != EventState::Active {
            return;
        }
        let Some(vcpu) = event.oncpu else { return };
        let (ctx, slice, set, pmu) = (event.ctx, event.slice, event.set(), event.pmu);
        let (software, exclusive, freq) = (
            event.is_software(),
            event.attr.has(AttrFlags::EXCLUSIVE),
            event.attr.is_freq(),
        );
        self.contexts[ctx].slice_mut(slice).active[set.index()].remove(&mut self.events, id);
        self.pmus[pmu.index()].driver.del(vcpu, id);
        self.touch(vcpu, id);
        let event = &mut self.events[id];
        event.oncpu = None;
        let disable = core::mem::take(&mut event.pending_disable);
        if disable {
            self.cgroup_event_disabled(id);
        }
        self.set_state(
            id,
            if disable {
                EventState::Off
            } else {
                EventState::Inactive
            },
        );
        if freq {
            self.contexts[ctx].slice_mut(slice).nr_freq -= 1;
        }
        self.unsettle_slot(vcpu, slice);
        let slot = self.cpu_mut(vcpu).slot_mut(slice);
        if !software {
            slot.active_oncpu -= 1;
        }
        if exclusive || slot.active_oncpu == 0 {
            slot.exclusive = false;
        }
    }

    /// A change outside a pass: what the last pass found is not certain any
    /// more, unless all groups were on and there is always room.
    pub(super) fn unsettle(&mut self, id: EventId) {
        let event = &self.events[id];
        let (ctx, leader) = (event.ctx, event.leader);
        let lone = leader == id && event.siblings.is_empty();
        let leader_slice = self.events.get(leader).map_or(event.slice, |l| l.slice);
        let slots = [event.slice, event.pmu, leader_slice];
        if self.contexts.get(ctx).is_none() {
            return;
        }
        let Some(vcpu) = self.ctx_vcpu(ctx) else {
            return;
        };
        for pmu in slots {
            if lone {
                self.unsettle_slot(vcpu, pmu);
            } else {
                // A member that another slice's pass brought in may wait for its leader's.
                self.cpu_mut(vcpu).slot_mut(pmu).settled = None;
            }
        }
    }

    fn unsettle_slot(&mut self, vcpu: VcpuId, pmu: PmuId) {
        let roomy = self.pmus[pmu.index()].driver.always_fits();
        let slot = self.cpu_mut(vcpu).slot_mut(pmu);
        let all_on = matches!(slot.settled, Some((_, false))) && !slot.exclusive;
        if !(roomy && all_on) {
            slot.settled = None;
        }
    }

    /// Takes a whole group off. Linux: `group_sched_out`.
    pub(super) fn take_group_off(&mut self, leader: EventId) {
        if self.events[leader].state != EventState::Active {
            return;
        }
        self.take_off(leader);
        for i in 0..self.events[leader].siblings.len() {
            let sibling = self.events[leader].siblings[i];
            self.take_off(sibling);
        }
    }

    /// Takes sets of one slice off. Linux: `__pmu_ctx_sched_out`.
    pub(super) fn slice_sched_out(
        &mut self,
        vcpu: VcpuId,
        ctx: ContextId,
        pmu: PmuId,
        sets: Activity,
    ) {
        let c = &self.contexts[ctx];
        if !c.owner.is_cpu() && !c.active.intersects(Activity::ALL) {
            self.cpu_mut(vcpu).slot_mut(pmu).task_ctx = None;
        }
        for set in [GroupSet::Pinned, GroupSet::Flexible] {
            if !sets.contains(set.activity()) {
                continue;
            }
            while let Some(leader) = self.first_active(ctx, pmu, set) {
                self.take_group_off(leader);
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
