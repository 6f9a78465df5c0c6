//! Events that turn out to have no host counter, and what follows.

use crate::host::{HostEventId, HostPmu};
use crate::sched::{EventId, EventState, Extent};

use super::super::Policy;
use super::{Backing, CPU, CounterDriver};

impl<H: HostPmu> Backing<H> {
    /// Looks whether the events that run have counters, and tells the scheduler
    /// of those that do not.
    pub(in crate::vcpu) fn settle(&mut self) {
        if let Some(lost) = self.next_lost() {
            self.settle_from(lost);
        } else if self.has_monitors() {
            self.note_errors();
        }
    }

    fn next_lost(&mut self) -> Option<EventId> {
        let driver = self.driver_mut()?;
        driver.verify();
        driver.take_lost()
    }

    /// Each round believes in fewer counters, so this ends.
    fn settle_from(&mut self, first: EventId) {
        let mut next = Some(first);
        while let Some(first) = next {
            if self.has_monitors() {
                self.share_out(first);
            } else {
                let _ = self.sched.lose(self.now, first);
            }
            next = self.next_lost();
        }
        self.note_errors();
        self.forget_limit_unless_tried();
    }

    /// The host takes counters from whom it likes. Among events of several classes
    /// the scheduler shares out those that are left, as R-120 says: all that lost
    /// theirs give up their place, and then compete anew.
    fn share_out(&mut self, first: EventId) {
        let mut pinned = [None; HostEventId::COUNT];
        let (mut next, mut places) = (Some(first), pinned.iter_mut());
        while let Some(event) = next {
            let _ = self.sched.lose(self.now, event);
            if self.sched.state(event) == Some(EventState::Error)
                && let Some(place) = places.next()
            {
                *place = Some(event);
            }
            next = self.driver_mut().and_then(CounterDriver::take_lost);
        }
        for event in pinned.into_iter().flatten() {
            // Which redoes its class and those below.
            let _ = self.sched.enable(self.now, event, Extent::Event);
        }
        self.sched.resched_pmu(self.now, CPU, self.pmu);
    }

    /// Counts the guest's pinned events that have got into the error state.
    pub(super) fn note_errors(&mut self) {
        if self.policy != Policy::Pinned {
            return;
        }
        for (slot, event) in self.events.iter().enumerate() {
            let state = event.as_ref().and_then(|e| self.sched.state(e.event));
            if state == Some(EventState::Error) && self.in_error >> slot & 1 == 0 {
                self.in_error |= 1 << slot;
                self.pinned_errors += 1;
            }
        }
    }

    /// What is believed of the number of host counters is tried by rotations;
    /// where none is due, it would be believed for ever.
    pub(super) fn forget_limit_unless_tried(&mut self) {
        if self.sched.next_timer().is_none() {
            self.driver_mut().map(CounterDriver::forget_limit);
        }
    }
}
