//! How events and contexts come to be and end.

use super::Scheduler;
use super::attr::EventAttr;
use super::driver::PmuDriver;
use super::event::{ChildTotals, PerfEvent, Sampling};
use super::ids::{ContextId, EventId, PmuId};
use super::state::EventCaps;
use crate::units::{Count, Nanos};

impl<D: PmuDriver> Scheduler<D> {
    /// An event with nothing decided but its attributes.
    pub(super) fn blank_event(&mut self, attr: EventAttr, leader: Option<EventId>) -> EventId {
        self.next_event_id += 1;
        let period = if attr.is_freq() { 1 } else { attr.sample };
        let sampling = Sampling {
            period,
            last_period: period,
            period_left: i64::try_from(period).unwrap_or(i64::MAX),
            ..Sampling::default()
        };
        let nowhere = ContextId {
            index: u32::MAX,
            generation: u32::MAX,
        };
        let id = self.events.insert(PerfEvent {
            id: self.next_event_id,
            attr,
            vcpu: None,
            cgroup: None,
            of_task: false,
            holds_exclusive: false,
            ctx: nowhere,
            pmu: PmuId(0),
            slice: PmuId(0),
            state: PerfEvent::initial_state(&attr),
            oncpu: None,
            pending_disable: false,
            was_enabled: false,
            leader: leader.unwrap_or(EventId::NONE),
            siblings: alloc::vec::Vec::new(),
            caps: EventCaps::empty(),
            group_caps: EventCaps::empty(),
            group_generation: 0,
            in_group: false,
            list_seq: None,
            group_index: None,
            ready: None,
            in_active_list: false,
            active_prev: None,
            active_next: None,
            stamp: Nanos(0),
            enabled: Nanos(0),
            running: Nanos(0),
            count: Count(0),
            totals: ChildTotals::default(),
            parent: None,
            child_attached: false,
            children: alloc::vec::Vec::new(),
            sampling,
            counting_on: None,
            touched: false,
        });
        if leader.is_none() {
            self.events[id].leader = id;
        }
        id
    }

    /// Gives back what the event holds of its PMU.
    pub(super) fn release_pmu(&mut self, id: EventId) {
        let event = &self.events[id];
        let (of_task, holds) = (event.of_task, event.holds_exclusive);
        let pmu = &mut self.pmus[event.pmu.index()];
        pmu.events -= 1;
        pmu.driver.event_destroy(id);
        if holds {
            pmu.exclusive_count -= if of_task { 1 } else { -1 };
        }
    }

    /// Forgets an event that was never installed.
    pub(super) fn discard(&mut self, id: EventId) {
        self.release_pmu(id);
        let ctx = self.events[id].ctx;
        self.events.remove(id);
        self.put_context(ctx);
    }

    /// One reference less. Linux: `put_ctx`.
    pub(super) fn put_context(&mut self, ctx: ContextId) {
        let Some(c) = self.contexts.get_mut(ctx) else {
            return;
        };
        c.refs = c.refs.saturating_sub(1);
        if c.refs == 0 && !c.owner.is_cpu() {
            self.contexts.remove(ctx);
        }
    }

    /// Frees an event that is in no list any more. Linux: `free_event`.
    ///
    /// A leader that lost its place in its group and was then given new
    /// siblings keeps them when it is closed: it stays, DEAD, until they are gone.
    pub(super) fn free_event(&mut self, id: EventId) {
        if !self.events[id].siblings.is_empty() {
            return;
        }
        self.release_pmu(id);
        let Some(event) = self.events.remove(id) else {
            return;
        };
        self.put_context(event.ctx);
    }
}
