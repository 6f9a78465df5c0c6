//! What goes on in another backing: counts, times and the order of turns. What is
//! believed of the host's counters does not; the other host's are found anew.

use crate::host::{HostOpenError, HostPmu};
use crate::ids::Pmc;
use crate::sched::EventState;
use crate::state::Carried;
use crate::units::Nanos;

use super::super::{Policy, Totals};
use super::{Backing, CPU, Times, Tracked};

impl<H: HostPmu> Backing<H> {
    /// What of a counter's event goes on in another backing.
    pub(in crate::vcpu) fn carried(&self, slot: usize) -> Option<Carried> {
        let event = self.events[slot]?;
        Some(Carried {
            attr: event.attr,
            state: match self.sched.state(event.event) {
                Some(EventState::Active | EventState::Inactive) => EventState::Inactive,
                Some(EventState::Error) => EventState::Error,
                _ => EventState::Off,
            },
            count: event.count,
            times: self.times_of_count(slot),
            taken: event.taken,
            starved: event.starved,
        })
    }

    /// The times that belong to what the counter's event is known to have
    /// counted. Where the host has taken the counter away and keeps a part, a
    /// flexible one did not run for that part; a pinned one, of which nothing is
    /// scaled, was in error from there on.
    fn times_of_count(&self, slot: usize) -> Times {
        let Times { enabled, running } = self.times_now(slot);
        let unread = self.driver().map_or(Nanos(0), |p| p.unread(slot));
        Times {
            enabled: match self.policy {
                Policy::Flexible => enabled,
                Policy::Pinned => enabled.since(unread),
            },
            running: running.since(unread),
        }
    }

    /// The slots that have events, in the order of their turns.
    pub(in crate::vcpu) fn order(&self) -> impl Iterator<Item = usize> {
        let mut slots: [_; Pmc::SLOTS] = core::array::from_fn(|slot| {
            let place = |e: &Tracked| (self.sched.turn_of(e.event).unwrap_or(u64::MAX), slot);
            self.events[slot].as_ref().map(place)
        });
        slots.sort_unstable();
        slots.into_iter().flatten().map(|(_, slot)| slot)
    }

    /// Opens the event of a counter that goes on from `carried`.
    pub(in crate::vcpu) fn carry_on(
        &mut self,
        slot: usize,
        carried: &Carried,
    ) -> Result<(), HostOpenError> {
        self.open(slot, carried.attr)?;
        if let Some(event) = &mut self.events[slot] {
            event.before = (carried.count, carried.times);
            event.count = carried.count;
            event.times = carried.times;
            event.taken = carried.taken;
            event.starved = carried.starved;
            let id = event.event;
            self.set_enabled(slot, carried.state != EventState::Off);
            if carried.state == EventState::Error {
                let _ = self.sched.lose(self.now, id);
                // The totals that go on have it.
                self.in_error |= 1 << slot;
            }
        }
        Ok(())
    }

    /// Guest time to the next rotation, if an event waits for its turn. The
    /// timer by itself runs on to its next expiry when nothing does any more, and
    /// for monitors while the guest's events are off the CPU.
    pub(in crate::vcpu) fn rest_of_turn(&self) -> Option<Nanos> {
        if self.away {
            return None;
        }
        let mut events = self.events.iter().flatten();
        let waits = |e: &Tracked| self.sched.state(e.event) == Some(EventState::Inactive);
        events.any(waits).then_some(())?;
        Some(self.sched.next_timer()?.at.since(self.now))
    }

    /// The first turn is one that has so much left.
    pub(in crate::vcpu) fn shorten_turn(&mut self, rest: Nanos) {
        let at = self.now + rest;
        self.sched.bring_timer_forward(at, CPU, self.pmu);
    }

    /// Goes on from what another backing has seen.
    pub(in crate::vcpu) fn carry_totals(&mut self, totals: &Totals) {
        self.pinned_errors = totals.pinned_errors;
        self.rotations = totals.rotations;
        if let Some(driver) = self.driver_mut() {
            driver.set_revocations(totals.host_revocations);
        }
    }
}
