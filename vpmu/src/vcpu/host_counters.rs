//! How many counters the host is believed to have for this vCPU.
//!
//! A host does not say how many counters it has. It is found out by use: every set
//! of events that runs together for the first time is read, and the host says of
//! an event without a counter that it is lost.
//!
//! ```text
//!            an event is lost: limit = the events that still count
//!   Enough ────────────────────────────────────────────────▶ Short { limit }
//!     ▲                                                       │   ▲   ▲
//!     │ forget: no rotation is due that could try for more,   │   │   │ lost again: limit as found,
//!     │ or a monitor came or went                             │   │   │ the pause to the next try doubles
//!     └───────────────────────────────────────────────────────┤   │   │
//!                                        `pause` rotations on │   │   │
//!                                                             ▼   │   │
//!                                              a try with limit + 1 ──┘
//!                                                   kept: the next try comes with the next rotation
//! ```
//!
//! In `Short` the scheduler gets [`AddError`](crate::sched::driver::AddError) for
//! every event beyond the limit, so that events take turns.

use crate::host::{HostEventId, HostPmu};
use crate::sched::{EventId, EventState, Extent};

use super::Policy;
use super::event_set::HostEventSet;
use super::schedule::{CPU, EventSchedule};

/// The most rotations between two tries with one counter more.
const LONGEST_PAUSE: u32 = 32;

/// How many counters there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    /// One for every event, as far as is known.
    Enough,
    /// Too few.
    Short {
        /// How many there are.
        limit: usize,
        /// Rotations from one try with one counter more to the next.
        pause: u32,
        /// Rotations to the next try; at least 1.
        countdown: u32,
    },
}

/// A try with one counter more than were believed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a try that was kept or not has to be told to HostCounters::judge"]
pub(super) struct Try(usize);

/// What is known of the host's counters.
#[derive(Debug)]
pub(super) struct HostCounters {
    belief: Belief,
    /// Events that were seen to count together: the host has counters for them
    /// and for every part of them, until one of its counters is lost.
    proven: HostEventSet,
    /// Events that lost their counter, which the scheduler was not told yet.
    lost: HostEventSet,
}

impl HostCounters {
    pub(super) const fn new() -> Self {
        Self {
            belief: Belief::Enough,
            proven: HostEventSet::EMPTY,
            lost: HostEventSet::EMPTY,
        }
    }

    /// Whether there is a counter for every event, as far as is known.
    pub(super) const fn are_enough(&self) -> bool {
        matches!(self.belief, Belief::Enough)
    }

    /// Whether there is one counter more than `taken` are taken.
    pub(super) const fn have_room(&self, taken: usize) -> bool {
        match self.belief {
            Belief::Enough => true,
            Belief::Short { limit, .. } => taken < limit,
        }
    }

    /// Whether the host is known to have counters for these events together.
    pub(super) const fn are_proven_for(&self, events: HostEventSet) -> bool {
        events.is_subset(self.proven)
    }

    /// All of `running` were read: those that were not lost have counters.
    pub(super) const fn prove(&mut self, running: HostEventSet) {
        if self.lost.is_empty() {
            self.proven = running;
        }
    }

    /// The event has no counter.
    pub(super) const fn lose(&mut self, id: HostEventId) {
        self.lost.insert(id);
        self.proven = HostEventSet::EMPTY;
    }

    /// Whether the event lost its counter and the scheduler was not told yet.
    pub(super) const fn is_lost(&self, id: HostEventId) -> bool {
        self.lost.has(id)
    }

    /// The event does not run any more, or is a new one: nothing is known of it.
    pub(super) const fn forget_event(&mut self, id: HostEventId) {
        self.lost.remove(id);
        self.proven.remove(id);
    }

    /// The event was stopped: the scheduler need not be told of its loss.
    pub(super) const fn forget_loss(&mut self, id: HostEventId) {
        self.lost.remove(id);
    }

    /// An event without a counter, of which the scheduler is told next: each is
    /// returned once. `running` events have kept theirs.
    pub(super) fn take_lost(&mut self, running: usize) -> Option<HostEventId> {
        let id = self.lost.first()?;
        self.lost.remove(id);
        self.belief = match self.belief {
            Belief::Enough => Belief::Short {
                limit: running,
                pause: 1,
                countdown: 1,
            },
            Belief::Short {
                pause, countdown, ..
            } => Belief::Short {
                limit: running,
                pause,
                countdown,
            },
        };
        Some(id)
    }

    /// Before a rotation: from time to time one counter more is tried.
    pub(super) fn rotate(&mut self) -> Option<Try> {
        let Belief::Short {
            limit,
            pause,
            countdown,
        } = &mut self.belief
        else {
            return None;
        };
        *countdown -= 1;
        if *countdown > 0 {
            return None;
        }
        *limit += 1;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        *countdown = *pause;
        Some(Try(*limit))
    }

    /// After a rotation with a try: whether the host had the counter. If so, the
    /// next try comes with the next rotation.
    pub(super) const fn judge(&mut self, tried: Try) -> bool {
        match &mut self.belief {
            Belief::Enough => true,
            Belief::Short {
                limit,
                pause,
                countdown,
            } => {
                let kept = *limit >= tried.0;
                if kept {
                    *pause = 1;
                    *countdown = 1;
                }
                kept
            }
        }
    }

    /// There may be more counters than before, or nobody will try for more.
    pub(super) const fn forget(&mut self) {
        self.belief = Belief::Enough;
    }
}

impl<H: HostPmu> EventSchedule<H> {
    /// Finds out whether the events that run have counters, and tells the scheduler
    /// of those that do not.
    pub(super) fn settle(&mut self) {
        if let Some(lost) = self.next_lost() {
            self.settle_from(lost);
        } else if self.has_monitors() {
            self.note_errors();
        }
    }

    fn next_lost(&mut self) -> Option<EventId> {
        let driver = self.driver_mut();
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
            next = self.driver_mut().take_lost();
        }
        for event in pinned.into_iter().flatten() {
            // Which redoes its class and those below.
            let _ = self.sched.enable(self.now, event, Extent::Event);
        }
        self.sched.resched_pmu(self.now, CPU, self.pmu);
    }

    /// Counts the guest's pinned events that have got into the error state.
    fn note_errors(&mut self) {
        if self.policy != Policy::Pinned {
            return;
        }
        for bound in self.counters.all_bound_mut() {
            let state = self.sched.state(bound.event);
            if state == Some(EventState::Error) && !bound.error_noted {
                bound.error_noted = true;
                self.pinned_errors += 1;
            }
        }
    }

    /// What is believed of the number of host counters is tried by rotations;
    /// where none is due, it would be believed for ever.
    fn forget_limit_unless_tried(&mut self) {
        if self.sched.next_timer().is_none() {
            self.driver_mut().counters.forget();
        }
    }

    /// Rotates, from time to time with a try for one counter more.
    pub(super) fn rotate(&mut self) {
        let tried = self.driver_mut().counters.rotate();
        self.sched.fire_timer(self.now, CPU, self.pmu);
        self.settle();
        if self.sched.next_timer().is_some() {
            self.rotations += 1;
        } else if self.policy == Policy::Pinned {
            self.forget_limit_unless_tried();
        }
        if let Some(tried) = tried
            && !self.driver_mut().counters.judge(tried)
        {
            // The host took the counter from the event that was opened last: the
            // one that was tried in vain gives it back.
            self.sched.resched_pmu(self.now, CPU, self.pmu);
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(ids: &[usize]) -> HostEventSet {
        let mut set = HostEventSet::EMPTY;
        for id in ids {
            set.insert(HostEventId(*id));
        }
        set
    }

    /// Short of counters after a loss with two events left.
    fn short_of_two() -> HostCounters {
        let mut counters = HostCounters::new();
        counters.lose(HostEventId(2));
        assert_eq!(counters.take_lost(2), Some(HostEventId(2)));
        counters
    }

    #[test]
    fn a_loss_limits_the_number_to_what_still_counts() {
        let mut counters = HostCounters::new();
        assert!(counters.are_enough() && counters.have_room(19));
        counters.lose(HostEventId(5));
        counters.lose(HostEventId(3));
        assert!(counters.are_enough(), "the scheduler was not told yet");
        assert_eq!(counters.take_lost(2), Some(HostEventId(3)), "lowest first");
        assert_eq!(counters.take_lost(1), Some(HostEventId(5)));
        assert_eq!(counters.take_lost(1), None, "each once");
        assert!(!counters.are_enough());
        assert!(counters.have_room(0) && !counters.have_room(1));
    }

    #[test]
    fn what_ran_together_is_proven_until_a_loss() {
        let mut counters = HostCounters::new();
        assert!(!counters.are_proven_for(events(&[0])));
        counters.prove(events(&[0, 1, 2]));
        assert!(counters.are_proven_for(events(&[0, 2])), "and a part of it");
        assert!(!counters.are_proven_for(events(&[0, 3])));
        counters.forget_event(HostEventId(1));
        assert!(!counters.are_proven_for(events(&[1])), "a new event");
        counters.lose(HostEventId(0));
        assert!(!counters.are_proven_for(events(&[2])));
        counters.prove(events(&[2]));
        assert!(!counters.are_proven_for(events(&[2])), "a loss is open");
    }

    #[test]
    fn a_stopped_event_is_not_reported_as_lost() {
        let mut counters = HostCounters::new();
        counters.lose(HostEventId(4));
        counters.forget_loss(HostEventId(4));
        assert_eq!(counters.take_lost(3), None);
        assert!(counters.are_enough());
    }

    #[test]
    fn tries_in_vain_are_ever_further_apart() {
        let mut counters = short_of_two();
        let mut gaps = [0; 8];
        for gap in &mut gaps {
            let tried = loop {
                *gap += 1;
                if let Some(tried) = counters.rotate() {
                    break tried;
                }
            };
            assert!(counters.have_room(2) && !counters.have_room(3));
            counters.lose(HostEventId(2));
            assert!(counters.take_lost(2).is_some());
            assert!(!counters.judge(tried));
        }
        assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn a_try_that_is_kept_brings_the_next_one_at_once() {
        let mut counters = short_of_two();
        for limit in 3..6 {
            let tried = counters.rotate().unwrap();
            assert!(counters.judge(tried));
            assert!(counters.have_room(limit - 1) && !counters.have_room(limit));
        }
    }

    #[test]
    fn what_is_forgotten_begins_anew() {
        let mut counters = short_of_two();
        let tried = counters.rotate().unwrap();
        counters.forget();
        assert!(counters.are_enough() && counters.have_room(19));
        assert!(counters.judge(tried), "nothing speaks against it");
        assert_eq!(counters.rotate(), None, "nothing to try for");
    }
}
