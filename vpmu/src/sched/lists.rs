//! Installing in a context's lists, and groups (2.E, 2.H).

use alloc::vec::Vec;

use super::Scheduler;
use super::commit::Batch;
use super::driver::PmuDriver;
use super::event::{Birth, PerfEvent, Ready};
use super::groups::{GroupKey, RunKey};
use super::ids::{ContextId, EventId};
use super::state::{EventCaps, EventState, GroupSet};

/// How an event hangs together with its group and its context's lists.
#[derive(Debug)]
pub(crate) struct GroupLinks {
    /// Itself, if it leads.
    leader: EventId,
    siblings: Vec<EventId>,
    /// The AND of the members' capabilities.
    caps: EventCaps,
    /// Moves with each change of the group's members.
    generation: u64,
    /// Linux: `PERF_ATTACH_GROUP`.
    in_group: bool,
    /// Position in the context's list of events, if it is in it. Linux: `PERF_ATTACH_CONTEXT`.
    list_seq: Option<u64>,
    /// Position in its set of groups, if it is in one.
    group_index: Option<u64>,
    /// The tree of ready groups that it is in.
    ready: Option<Ready>,
}

impl GroupLinks {
    /// In no list; of the group of `leader`, if there is one already.
    pub(super) fn new(_: &Birth, leader: Option<EventId>) -> Self {
        Self {
            leader: leader.unwrap_or(EventId::NONE),
            siblings: Vec::new(),
            caps: EventCaps::empty(),
            generation: 0,
            in_group: false,
            list_seq: None,
            group_index: None,
            ready: None,
        }
    }

    /// A new event that joins no group leads itself.
    pub(crate) const fn lead_itself(&mut self, own: EventId) {
        self.leader = own;
    }

    /// An inherited group has the same members as its parent's.
    pub(crate) const fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }
}

impl PerfEvent {
    /// The leader of its group; itself, if it leads.
    pub(crate) const fn leader(&self) -> EventId {
        self.links.leader
    }

    /// The siblings that it leads, in the order of attach.
    pub(crate) fn siblings(&self) -> &[EventId] {
        &self.links.siblings
    }

    /// The AND of the members' capabilities.
    pub(crate) const fn group_caps(&self) -> EventCaps {
        self.links.caps
    }

    /// Moves with each change of the group's members.
    pub(crate) const fn group_generation(&self) -> u64 {
        self.links.generation
    }

    /// Position in the context's list of events, if it is installed.
    pub(crate) const fn list_seq(&self) -> Option<u64> {
        self.links.list_seq
    }

    /// Position in its set of groups, if it is in one.
    pub(crate) const fn group_index(&self) -> Option<u64> {
        self.links.group_index
    }

    /// The tree of ready groups that it is in.
    #[cfg(debug_assertions)]
    pub(crate) const fn ready(&self) -> Option<Ready> {
        self.links.ready
    }
}

impl<D: PmuDriver> Scheduler<D> {
    fn group_key(event: &PerfEvent) -> Option<GroupKey> {
        let run = RunKey {
            vcpu: event.vcpu(),
            pmu: event.slice(),
            cgroup: event.cgroup(),
        };
        Some(GroupKey {
            run,
            index: event.links.group_index?,
        })
    }

    /// Keeps the trees of ready groups true to the leader's state and capabilities.
    pub(super) fn sync_ready(&mut self, id: EventId) {
        let event = &self.events[id];
        let Some(key) = Self::group_key(event) else {
            return;
        };
        let wanted = if !event.state().is_enabled() {
            None
        } else if event.group_caps().contains(EventCaps::SOFTWARE) {
            Some(Ready::Software)
        } else {
            Some(Ready::Hardware)
        };
        let (old, ctx, set) = (event.links.ready, event.ctx(), event.set());
        if old == wanted {
            return;
        }
        let groups = self.contexts[ctx].groups_mut(set);
        if let Some(r) = old {
            groups.clear_ready(&key, r);
        }
        if let Some(r) = wanted {
            groups.set_ready(key, id, r);
        }
        self.events[id].links.ready = wanted;
    }

    /// Puts a leader last in its run. Linux: `add_event_to_groups`.
    pub(super) fn add_to_groups(&mut self, id: EventId) {
        let event = &self.events[id];
        debug_assert!(
            event.links.group_index.is_none(),
            "a group is in its set once"
        );
        let (ctx, set) = (event.ctx(), event.set());
        let index = self.contexts[ctx].groups_mut(set).next_index();
        let event = &mut self.events[id];
        event.links.group_index = Some(index);
        if let Some(key) = Self::group_key(event) {
            self.contexts[ctx].groups_mut(set).insert(key, id);
        }
        self.sync_ready(id);
    }

    /// Linux: `del_event_from_groups`.
    pub(super) fn del_from_groups(&mut self, id: EventId) {
        let event = &mut self.events[id];
        let Some(key) = Self::group_key(event) else {
            return;
        };
        let (ctx, set, ready) = (event.ctx(), event.set(), event.links.ready.take());
        event.links.group_index = None;
        let groups = self.contexts[ctx].groups_mut(set);
        groups.remove(&key);
        if let Some(r) = ready {
            groups.clear_ready(&key, r);
        }
    }

    /// Puts an event into its context; its stamp is the clock as it stands.
    ///
    /// Linux: `list_add_event`.
    pub(super) fn list_add(&mut self, id: EventId, ctx: ContextId) {
        let stamp = self.event_time(&self.events[id]);
        let seq = self.contexts[ctx].next_seq();
        let event = &mut self.events[id];
        event.stamp_times(stamp);
        event.links.list_seq = Some(seq);
        let (slice, stat) = (
            event.slice(),
            event.attr().has(super::AttrFlags::INHERIT_STAT),
        );
        let (no_fast, state, leader) = (
            event.attr().inherits_sample_read(),
            event.state(),
            event.leader() == id,
        );
        if leader {
            event.links.caps = event.caps();
            self.add_to_groups(id);
        }
        let c = &mut self.contexts[ctx];
        c.events.insert(seq, id);
        c.nr_stat += usize::from(stat);
        c.nr_no_switch_fast += usize::from(no_fast);
        c.generation += 1;
        c.slice_mut(slice).nr_events += 1;
        if Self::counts_as_cgroup_event(state) {
            self.cgroup_event_enabled(id);
        }
    }

    /// Linux: `list_del_event`.
    pub(super) fn list_del(&mut self, id: EventId) {
        let event = &mut self.events[id];
        let Some(seq) = event.links.list_seq.take() else {
            return;
        };
        let (ctx, slice) = (event.ctx(), event.slice());
        let (stat, no_fast) = (
            event.attr().has(super::AttrFlags::INHERIT_STAT),
            event.attr().inherits_sample_read(),
        );
        let leader = event.leader() == id;
        let c = &mut self.contexts[ctx];
        c.events.remove(&seq);
        c.nr_stat -= usize::from(stat);
        c.nr_no_switch_fast -= usize::from(no_fast);
        if leader {
            self.del_from_groups(id);
        }
        if self.events[id].state() > EventState::Off {
            self.cgroup_event_disabled(id);
            self.set_state(id, EventState::Off);
        }
        let c = &mut self.contexts[ctx];
        c.generation += 1;
        c.slice_mut(slice).nr_events -= 1;
    }

    /// Makes an event a member of its leader's group. Linux: `perf_group_attach`.
    pub(super) fn group_attach(&mut self, id: EventId) {
        let event = &mut self.events[id];
        if event.links.in_group {
            return;
        }
        event.links.in_group = true;
        let (leader, caps) = (event.leader(), event.caps());
        if leader == id {
            return;
        }
        let l = &mut self.events[leader];
        l.links.caps &= caps;
        l.links.siblings.push(id);
        l.links.generation += 1;
        self.sync_ready(leader);
        self.unsettle(id);
    }

    /// Takes an event out of its group; the siblings of a leader become
    /// leaders of their own, without an update of their times. Linux: `perf_group_detach`.
    pub(super) fn group_detach(&mut self, batch: Batch<'_>, id: EventId) {
        let event = &mut self.events[id];
        if !event.links.in_group {
            return;
        }
        event.links.in_group = false;
        let leader = event.leader();
        if leader != id {
            event.links.leader = id;
            event.links.caps = event.caps();
            let l = &mut self.events[leader];
            l.links.siblings.retain(|s| *s != id);
            l.links.generation += 1;
            let dead = l.state() == EventState::Dead && l.siblings().is_empty();
            if dead {
                self.free_event(leader);
            }
            return;
        }
        let siblings = core::mem::take(&mut event.links.siblings);
        let (caps, slice) = (event.group_caps(), event.slice());
        for sibling in &siblings {
            self.promote(batch, *sibling, caps, slice);
        }
    }

    /// Makes a sibling a leader of its own, last in its set; it stays on the
    /// PMU if it is.
    fn promote(&mut self, batch: Batch<'_>, id: EventId, caps: EventCaps, slice: super::PmuId) {
        let event = &mut self.events[id];
        event.links.leader = id;
        event.links.caps = caps;
        if event.links.list_seq.is_none() {
            return;
        }
        debug_assert!(
            event.slice() == slice || event.is_software(),
            "a group has one slice"
        );
        let lost_group = event.caps().contains(EventCaps::SIBLING);
        if lost_group {
            self.take_off(batch, id, EventState::Inactive);
            self.set_state(id, EventState::Error);
        }
        self.add_to_groups(id);
        // No pass has visited the new group.
        if let Some(vcpu) = self.ctx_vcpu(self.events[id].ctx()) {
            let slice = self.events[id].slice();
            self.cpu_mut(vcpu).pmu_mut(slice).settled = None;
        }
        let event = &self.events[id];
        if event.state() == EventState::Active {
            let (ctx, pmu, set) = (event.ctx(), event.slice(), event.set());
            self.push_active(ctx, pmu, set, id);
        }
    }

    pub(super) fn push_active(
        &mut self,
        ctx: ContextId,
        pmu: super::PmuId,
        set: GroupSet,
        id: EventId,
    ) {
        let list = &mut self.contexts[ctx].slice_mut(pmu).active[set.index()];
        list.push(&mut self.events, id);
    }
}
