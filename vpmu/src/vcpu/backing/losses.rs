//! Events that turn out to have no host counter, and what follows.

use crate::host::HostPmu;
use crate::sched::{EventId, EventState, Extent};

use super::super::Policy;
use super::{Backing, CPU, Placement};

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
        let placement = self.placement_mut()?;
        placement.verify();
        placement.take_lost()
    }

    /// The host takes a counter from whom it likes. Among events of several
    /// classes the scheduler then shares out those that are left, as R-120 says;
    /// each round believes in fewer of them, so this ends.
    fn settle_from(&mut self, first: EventId) {
        let mut lost = Some(first);
        while let Some(event) = lost {
            let _ = self.sched.lose(self.now, event);
            if self.has_monitors() {
                self.share_out(event);
            }
            lost = self.next_lost();
        }
        self.note_errors();
        self.forget_limit_unless_tried();
    }

    fn share_out(&mut self, lost: EventId) {
        if self.sched.state(lost) == Some(EventState::Error) {
            // Which redoes its class and those below.
            let _ = self.sched.enable(self.now, lost, Extent::Event);
        } else {
            self.sched.resched_pmu(self.now, CPU, self.pmu);
        }
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
            self.placement_mut().map(Placement::forget_limit);
        }
    }
}
