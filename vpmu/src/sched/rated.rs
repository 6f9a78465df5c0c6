//! Simulated counting: events that count at a rate while they have a counter.

use alloc::vec::Vec;

use super::ids::EventId;
use crate::units::{Count, Nanos};

/// The events of a PMU that counts in simulation, and what the PMU itself knows of
/// each (`T`).
#[derive(Debug)]
pub(super) struct RatedEvents<T> {
    events: Vec<Option<RatedEvent<T>>>,
}

#[derive(Debug)]
struct RatedEvent<T> {
    /// Events a nanosecond.
    rate: u64,
    /// Counted up to this time.
    since: Nanos,
    counting: bool,
    own: T,
}

impl<T> RatedEvents<T> {
    /// No events.
    pub(super) const fn new() -> Self {
        Self { events: Vec::new() }
    }

    /// Takes an event that does not count yet.
    pub(super) fn insert(&mut self, event: EventId, rate: u64, own: T) {
        let at = event.slot();
        if self.events.len() <= at {
            self.events.resize_with(at + 1, || None);
        }
        self.events[at] = Some(RatedEvent {
            rate,
            since: Nanos(0),
            counting: false,
            own,
        });
    }

    /// Forgets an event.
    pub(super) fn remove(&mut self, event: EventId) {
        if let Some(e) = self.events.get_mut(event.slot()) {
            *e = None;
        }
    }

    /// What the PMU knows of an event, if it has taken it.
    pub(super) fn find(&self, event: EventId) -> Option<&T> {
        Some(&self.events.get(event.slot())?.as_ref()?.own)
    }

    /// What the PMU knows of an event that it has taken.
    pub(super) fn own(&self, event: EventId) -> &T {
        match self.find(event) {
            Some(own) => own,
            None => unreachable!("an event that this PMU never took"),
        }
    }

    /// The same, to be changed.
    pub(super) fn own_mut(&mut self, event: EventId) -> &mut T {
        &mut self.event_mut(event).own
    }

    fn event_mut(&mut self, event: EventId) -> &mut RatedEvent<T> {
        match self.events.get_mut(event.slot()) {
            Some(Some(e)) => e,
            _ => unreachable!("an event that this PMU never took"),
        }
    }

    /// Whether an event that the PMU has taken counts.
    pub(super) fn is_counting(&self, event: EventId) -> bool {
        let found = self.events.get(event.slot());
        found.is_some_and(|e| e.as_ref().is_some_and(|e| e.counting))
    }

    /// Counting begins.
    pub(super) fn start(&mut self, event: EventId, at: Nanos) {
        let e = self.event_mut(event);
        (e.since, e.counting) = (at, true);
    }

    /// Counting ends; gives the count since the last read.
    pub(super) fn stop(&mut self, event: EventId, at: Nanos) -> Count {
        let count = self.read(event, at);
        self.event_mut(event).counting = false;
        count
    }

    /// The count since the last read.
    pub(super) fn read(&mut self, event: EventId, at: Nanos) -> Count {
        let e = self.event_mut(event);
        if !e.counting {
            return Count(0);
        }
        let span = at.since(e.since);
        e.since = at;
        Count(span.0.wrapping_mul(e.rate))
    }
}
