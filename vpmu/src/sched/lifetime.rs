//! How events and contexts come to be and end.

use super::Scheduler;
use super::attr::EventAttr;
use super::driver::PmuDriver;
use super::event::PerfEvent;
use super::ids::{ContextId, EventId};

impl<D: PmuDriver> Scheduler<D> {
    /// An event with nothing decided but its attributes.
    pub(super) fn blank_event(&mut self, attr: EventAttr, leader: Option<EventId>) -> EventId {
        self.next_event_id += 1;
        let event = PerfEvent::new(self.next_event_id, attr, leader);
        let id = self.events.insert(event);
        if leader.is_none() {
            self.events[id].links.lead_itself(id);
        }
        id
    }

    /// Gives back what the event holds of its PMU.
    pub(super) fn release_pmu(&mut self, id: EventId) {
        let event = &self.events[id];
        let (of_task, holds) = (event.of_task(), event.holds_exclusive());
        let pmu = &mut self.pmus[event.pmu().index()];
        pmu.events -= 1;
        pmu.driver.event_destroy(id);
        if holds {
            pmu.exclusive_count -= if of_task { 1 } else { -1 };
        }
    }

    /// Forgets an event that was never installed.
    pub(super) fn discard(&mut self, id: EventId) {
        self.release_pmu(id);
        let ctx = self.events[id].ctx();
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
        if !self.events[id].siblings().is_empty() {
            return;
        }
        self.release_pmu(id);
        let Some(event) = self.events.remove(id) else {
            return;
        };
        self.put_context(event.ctx());
    }
}
