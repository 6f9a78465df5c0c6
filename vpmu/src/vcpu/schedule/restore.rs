//! What goes on in another vCPU's schedule: counts, times and the order of turns.
//! What is believed of the host's counters does not; the other host's are found
//! anew.

use crate::host::{HostOpenError, HostPmu};
use crate::ids::Pmc;
use crate::sched::EventState;
use crate::state::Carried;
use crate::units::Nanos;

use super::super::{Policy, Totals};
use super::{Bound, CPU, EventSchedule, Times};

impl<H: HostPmu> EventSchedule<H> {
    /// What of a counter's event goes on in another schedule.
    pub(in crate::vcpu) fn carried(&self, pmc: Pmc) -> Option<Carried> {
        let bound = self.counters.bound(pmc)?;
        Some(Carried {
            attr: bound.counts,
            state: match self.sched.state(bound.event) {
                Some(EventState::Active | EventState::Inactive) => EventState::Inactive,
                Some(EventState::Error) => EventState::Error,
                _ => EventState::Off,
            },
            count: bound.count,
            times: self.times_of_count(bound),
            taken: bound.taken,
            starved: bound.starved,
        })
    }

    /// The times that belong to the known count of the counter's event. Where the
    /// host has taken the counter away and keeps a part, a flexible one did not run
    /// for that part; a pinned one, of which nothing is scaled, was in error from
    /// there on.
    fn times_of_count(&self, bound: &Bound) -> Times {
        let times = self.times_of(bound);
        let clock = self.sched.event_times(self.now, bound.event);
        match (self.policy, clock) {
            (Policy::Pinned, Some(clock)) => {
                let unread = self.driver().unread(bound.pmc.into(), clock.clock);
                Times {
                    enabled: times.enabled.since(unread),
                    running: times.running.since(unread),
                }
            }
            _ => times,
        }
    }

    /// The counters that have events, in the order of their turns.
    pub(in crate::vcpu) fn order(&self) -> impl Iterator<Item = Pmc> {
        let mut counters = self.counters.all_bound();
        let mut order: [_; Pmc::SLOTS] = core::array::from_fn(|_| {
            let bound = counters.next()?;
            let turn = self.sched.turn_of(bound.event).unwrap_or(u64::MAX);
            Some((turn, bound.pmc))
        });
        order.sort_unstable();
        order.into_iter().flatten().map(|(_, pmc)| pmc)
    }

    /// Opens the event of a counter that goes on from `carried`.
    pub(in crate::vcpu) fn carry_on(
        &mut self,
        pmc: Pmc,
        carried: &Carried,
    ) -> Result<(), HostOpenError> {
        self.open(pmc, carried.attr)?;
        let Some(bound) = self.counters.bound_mut(pmc) else {
            return Ok(());
        };
        bound.before = (carried.count, carried.times);
        bound.count = carried.count;
        bound.times = carried.times;
        bound.taken = carried.taken;
        bound.starved = carried.starved;
        let event = bound.event;
        self.set_enabled(pmc, carried.state != EventState::Off);
        if carried.state == EventState::Error {
            let _ = self.sched.lose(self.now, event);
            if let Some(bound) = self.counters.bound_mut(pmc) {
                // The totals that go on have it.
                bound.error_noted = true;
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
        let waits = |b: &Bound| self.sched.state(b.event) == Some(EventState::Inactive);
        self.counters.all_bound().any(waits).then_some(())?;
        Some(self.sched.next_timer()?.at.since(self.now))
    }

    /// The first turn is one that has so much left.
    pub(in crate::vcpu) fn shorten_turn(&mut self, rest: Nanos) {
        let at = self.now + rest;
        self.sched.bring_timer_forward(at, CPU, self.pmu);
    }

    /// Goes on from the totals of another schedule.
    pub(in crate::vcpu) fn carry_totals(&mut self, totals: &Totals) {
        self.pinned_errors = totals.pinned_errors;
        self.rotations = totals.rotations;
        self.driver_mut().set_revocations(totals.host_revocations);
    }
}
