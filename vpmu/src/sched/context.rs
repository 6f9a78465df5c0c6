//! Contexts and their per-PMU slices. Linux: `struct perf_event_context`,
//! `struct perf_event_pmu_context`.
//!
//! ```text
//!  task ──owns 0..1──▶ context ◀──now 0..1── CPU record ──owns 1──▶ context
//!                       │   │                                        │   │
//!        sets of groups │   │ slices (one a PMU)       sets of groups│   │ slices
//!                       ▼   ▼                                        ▼   ▼
//!              pinned│flexible   active lists, rotate_necessary   pinned│flexible …
//! ```

use alloc::collections::BTreeMap;

use super::arena::Arena;
use super::event::{Birth, PerfEvent};
use super::groups::EventGroups;
use super::ids::{ContextId, EventId, PmuId, TaskId};
use super::state::{Activity, GroupSet};
use crate::ids::VcpuId;
use crate::units::Nanos;

/// Groups that are on the PMU, in the order in which they got on: a list
/// through the events, so that it never allocates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActiveList {
    head: Option<EventId>,
    tail: Option<EventId>,
}

/// Neighbours of an event in the active list of its slice.
#[derive(Debug)]
pub(crate) struct ActiveLinks {
    listed: bool,
    prev: Option<EventId>,
    next: Option<EventId>,
}

impl ActiveLinks {
    /// In no list.
    pub(super) const fn new(_: &Birth) -> Self {
        Self {
            listed: false,
            prev: None,
            next: None,
        }
    }
}

impl PerfEvent {
    /// Whether it is in an active list.
    #[cfg(debug_assertions)]
    pub(crate) const fn in_active_list(&self) -> bool {
        self.active.listed
    }

    /// The event behind it in its active list.
    pub(crate) const fn active_next(&self) -> Option<EventId> {
        self.active.next
    }
}

impl ActiveList {
    pub(crate) const fn first(&self) -> Option<EventId> {
        self.head
    }

    pub(crate) fn push(&mut self, events: &mut Arena<EventId, PerfEvent>, id: EventId) {
        let e = &mut events[id].active;
        debug_assert!(!e.listed, "an event is in one active list once");
        e.listed = true;
        e.prev = self.tail;
        e.next = None;
        match self.tail {
            Some(t) => events[t].active.next = Some(id),
            None => self.head = Some(id),
        }
        self.tail = Some(id);
    }

    pub(crate) fn remove(&mut self, events: &mut Arena<EventId, PerfEvent>, id: EventId) {
        let e = &mut events[id].active;
        if !e.listed {
            return;
        }
        e.listed = false;
        let (prev, next) = (e.prev.take(), e.next.take());
        match prev {
            Some(p) => events[p].active.next = next,
            None => self.head = next,
        }
        match next {
            Some(n) => events[n].active.prev = prev,
            None => self.tail = prev,
        }
    }
}

/// The part of a context that belongs to one PMU (R-003).
#[derive(Debug, Default)]
pub(crate) struct Slice {
    pub(crate) active: [ActiveList; 2],
    /// A flexible group stayed out.
    pub(crate) rotate_necessary: bool,
    pub(crate) nr_events: usize,
    pub(crate) nr_cgroups: usize,
    pub(crate) nr_freq: usize,
}

/// Whose events a context holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A CPU's.
    Cpu(VcpuId),
    /// A task's.
    Task(TaskId),
    /// A task's that has exited.
    Gone,
}

impl Owner {
    pub(crate) const fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu(_))
    }
}

/// The events that are scheduled together (R-001, R-002).
#[derive(Debug)]
pub(crate) struct EventContext {
    pub(crate) owner: Owner,
    sets: [EventGroups; 2],
    pub(crate) slices: BTreeMap<PmuId, Slice>,
    /// Every installed event by its place; the newest is last.
    pub(crate) events: BTreeMap<u64, EventId>,
    next_seq: u64,
    pub(crate) active: Activity,
    pub(crate) time: Nanos,
    pub(crate) timestamp: Nanos,
    pub(crate) generation: u64,
    /// The context that this one is a clone of, and its generation then.
    pub(crate) clone_of: Option<(ContextId, u64)>,
    pub(crate) rotate_disable: bool,
    pub(crate) nr_cgroups: usize,
    pub(crate) nr_stat: usize,
    pub(crate) nr_no_switch_fast: usize,
    /// Events that name this context, installed or not.
    pub(crate) refs: usize,
}

impl EventContext {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            sets: Default::default(),
            slices: BTreeMap::new(),
            events: BTreeMap::new(),
            next_seq: 0,
            active: Activity::empty(),
            time: Nanos(0),
            timestamp: Nanos(0),
            generation: 0,
            clone_of: None,
            rotate_disable: false,
            nr_cgroups: 0,
            nr_stat: 0,
            nr_no_switch_fast: 0,
            refs: 0,
        }
    }

    pub(crate) const fn groups(&self, set: GroupSet) -> &EventGroups {
        &self.sets[set.index()]
    }

    pub(crate) const fn groups_mut(&mut self, set: GroupSet) -> &mut EventGroups {
        &mut self.sets[set.index()]
    }

    pub(crate) fn nr_events(&self) -> usize {
        self.events.len()
    }

    pub(crate) const fn next_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    pub(crate) fn slice_mut(&mut self, pmu: PmuId) -> &mut Slice {
        self.slices.entry(pmu).or_default()
    }

    /// The clock at `now`, without moving it. Linux: `perf_event_time_now`.
    pub(crate) fn time_at(&self, now: Nanos) -> Nanos {
        if self.active.contains(Activity::TIME) {
            self.time + now.since(self.timestamp)
        } else {
            self.time
        }
    }

    /// Brings a running clock up to `now`. Linux: `__update_context_time`.
    pub(crate) fn refresh(&mut self, now: Nanos) {
        self.time = self.time_at(now);
        self.timestamp = now;
    }
}
