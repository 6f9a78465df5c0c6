//! Counters of a guest whose host has too few: what is known of an event's rate, which
//! counters never had a turn, and how long turns are.

use crate::host::{HostEvent, HostPmu};
use crate::ids::Pmc;
use crate::units::Nanos;

use super::super::Policy;
use super::super::rates::Prior;
use super::{Bound, CPU, EventSchedule};

/// A counter that the guest stops before its event had a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vcpu) enum Starved {
    /// What it would have counted is estimated from the event's rate of before.
    Estimated,
    /// Nothing is known of it.
    Unknown,
}

impl<H: HostPmu> EventSchedule<H> {
    /// Whether flexible counters take turns, as far as is known.
    fn is_short(&self) -> bool {
        self.policy == Policy::Flexible && !self.driver().counters.are_enough()
    }

    /// What is known of an event that is opened. Pinned ones are never estimated.
    pub(super) fn known_of(&self, counts: &HostEvent) -> Prior {
        match self.policy {
            Policy::Flexible => self.rates.of(counts, self.now),
            Policy::Pinned => Prior::default(),
        }
    }

    /// What a counter's event, which is closed, says of its rate; and whether turns are
    /// short enough for events that the guest wants for so long.
    pub(super) fn remember(&mut self, pmc: Pmc) {
        if self.policy == Policy::Pinned {
            return;
        }
        let Some(bound) = self.note_count(pmc) else {
            return;
        };
        let (counts, times, legacy) = (bound.counts, bound.times, bound.legacy());
        if times.enabled == Nanos(0) {
            return;
        }
        self.rates.note(counts, self.now, legacy);
        if self.turns.ended(times) {
            let turn = self.turns.length();
            self.sched.set_mux_interval_of(CPU, self.pmu, turn);
            self.sched
                .bring_timer_forward(self.now + turn, CPU, self.pmu);
        }
    }

    /// How many events were opened for counters.
    pub(in crate::vcpu) const fn opened(&self) -> u64 {
        self.opened
    }

    /// The guest has put other events on its counters: which of all is first is left to
    /// chance. By themselves the new ones would be last, each time.
    pub(in crate::vcpu) fn shuffle(&mut self) {
        // Where monitors go on, the guest's events have left the CPU, and are not moved.
        if !self.is_short() || self.away {
            return;
        }
        for _ in 0..self.turns.first(self.counters.enabled().len().into()) {
            self.sched.fire_timer(self.now, CPU, self.pmu);
        }
    }

    /// Whether nothing but the event's rate of before says what the counter counted.
    pub(in crate::vcpu) fn is_estimated(&self, pmc: Pmc) -> bool {
        let bound = self.counters.bound(pmc);
        bound.is_some_and(|bound| bound.is_estimated(self.times_of(bound)))
    }

    /// Whether the counter's event, which the guest stops, has been wanted and
    /// never had a counter, and what the guest reads then. Said once for each event.
    pub(in crate::vcpu) fn newly_starved(&mut self, pmc: Pmc) -> Option<Starved> {
        // An event that had run when it was last read is not one.
        let candidate = |b: &&Bound| !b.starved && b.times.running == Nanos(0);
        let bound = self.counters.bound(pmc).filter(candidate)?;
        let times = self.times_of(bound);
        let starved = times.running == Nanos(0) && times.enabled > Nanos(0);
        let how = if bound.is_estimated(times) {
            Starved::Estimated
        } else {
            Starved::Unknown
        };
        if let Some(bound) = self.counters.bound_mut(pmc) {
            bound.starved = starved;
        }
        starved.then_some(how)
    }
}
