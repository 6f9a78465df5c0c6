//! One counter of the guest, between its registers and its host event.
//!
//! The guest's registers are the model's, the schedule is the scheduler's, and the
//! host event is the driver's. A [`Counter`] says how they hang together:
//!
//! ```text
//!           the guest wants an event, and the host opens it
//!       ┌──────────────────────────────────────────────────▶ Bound ◀─┐ another event:
//!  Off ─┤◀── RESET, or the host events of an idle guest close ──┤ └──┘ closed and opened anew
//!       │                                                    │
//!       │   no host event stands for it, the operator's      │
//!       │   filter denies it, or the host refuses            ▼
//!       └────────────────────────────────────────────▶ Unbacked(why)
//!                the guest stops it: back to Off
//! ```
//!
//! A bound counter is *enabled* if its event competes for a host counter. When the
//! guest stops all its counters, its PMU is *paused*: enabled counters stay
//! enabled and hold their place in the schedule, and nothing counts. Unless paused,
//! the enabled counters are those that the guest wants.

use crate::guest::Encoding;
use crate::host::{HostEvent, HostOpenError};
use crate::ids::{Pmc, PmcSet};
use crate::sched::EventId;
use crate::times::Rate;
use crate::units::{Count, Nanos};

use super::Times;
use super::driver::Missed;
use super::rates::Prior;

/// Why a counter that the guest wants has no host event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbacked {
    /// No host event stands for the encoding.
    NotBacked(Encoding),
    /// The operator's filter does not admit the encoding.
    Denied(Encoding),
    /// The host opened no event.
    Refused(HostOpenError),
}

/// One counter of the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Counter {
    /// It has no host event and needs none.
    #[default]
    Off,
    /// The guest wants it to count, and it has no host event.
    Unbacked(Unbacked),
    /// It has a host event.
    Bound(Bound),
}

/// A counter with a host event: what of the event's count went to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) pmc: Pmc,
    /// The event in the schedule.
    pub(super) event: EventId,
    /// What the host counts.
    pub(super) counts: HostEvent,
    /// The host's count when it was last read, and the time of that.
    read: (Count, Option<Nanos>),
    /// What it had counted when it was last read.
    pub(super) count: u64,
    pub(super) times: Times,
    /// The part of the whole (count, or estimate) that went to the guest's
    /// register; it never gets less.
    pub(super) taken: u64,
    /// It was noted that the guest stopped it without it ever having had a counter.
    pub(super) starved: bool,
    /// Its error state was noted.
    pub(super) error_noted: bool,
    /// Count and times of before it was restored, and time that it is owed.
    pub(super) before: (u64, Times),
    /// What is known of the event from before it was opened.
    pub(super) prior: Prior,
}

impl Bound {
    /// A counter whose event was just opened.
    pub(super) fn new(pmc: Pmc, event: EventId, counts: HostEvent, prior: Prior) -> Self {
        let owed = Times {
            enabled: prior.owed,
            running: Nanos(0),
        };
        Self {
            pmc,
            event,
            counts,
            read: (Count(0), None),
            count: 0,
            times: owed,
            taken: 0,
            starved: false,
            error_noted: false,
            before: (0, owed),
            prior,
        }
    }

    /// The host's count as it was read at `now`; `None` if it was not.
    pub(super) fn read_at(&self, now: Nanos) -> Option<Count> {
        (self.read.1 == Some(now)).then_some(self.read.0)
    }

    /// The host's count and the event's times, enabled and running, as of `now`. For
    /// what was missed it did not run.
    pub(super) fn note(
        &mut self,
        now: Nanos,
        count: Count,
        (enabled, running): (Nanos, Nanos),
        missed: Missed,
    ) {
        self.read = (count, Some(now));
        self.count = self.before.0.wrapping_add(count.since(missed.count).0);
        self.times = self.before.1.and_then(enabled, running.since(missed.time));
    }

    /// The events that the guest's register has not got yet: counted, or estimated
    /// where the event did not have a counter all the time. Never negative: an
    /// estimate that was too high is made up for by the next ones.
    pub(super) fn take(&mut self) -> Count {
        let progress = self.progress();
        self.taken += progress.0;
        progress
    }

    /// What [`Bound::take`] would take.
    pub(super) fn progress(&self) -> Count {
        Count(self.whole().saturating_sub(self.taken))
    }

    /// What it counted, and what it would have counted in the time without a counter, less
    /// what the guest got too much of before.
    fn whole(&self) -> u64 {
        let whole = self.estimate();
        whole
            .saturating_sub(self.prior.debt)
            .max(self.count.min(whole))
    }

    fn estimate(&self) -> u64 {
        self.times.whole(self.count, self.prior.rate)
    }

    /// What the event leaves to the next one of its kind.
    pub(super) fn legacy(&self) -> Prior {
        let Times { enabled, running } = self.times;
        // Without a rate the time is owed; with one it was estimated.
        let owes = running == Nanos(0) && !self.prior.rate.is_known();
        let given = self.taken.saturating_add(self.prior.debt);
        Prior {
            rate: match running {
                Nanos(0) => Rate::NONE,
                time => Rate {
                    count: self.count,
                    time,
                },
            },
            owed: if owes { enabled } else { Nanos(0) },
            debt: given.saturating_sub(self.estimate()),
        }
    }

    /// Whether nothing but the event's rate of before says what it counted.
    pub(super) fn is_estimated(&self, times: Times) -> bool {
        times.running == Nanos(0) && times.enabled > Nanos(0) && self.prior.rate.is_known()
    }

    /// How far the host's count is from the guest's overflow, which is `distance`
    /// events away; at least 1.
    pub(super) fn left(&self, distance: Count) -> Count {
        let target = self.taken.saturating_add(distance.0);
        let part = self.times.part(target, self.prior.rate);
        let left = part.saturating_sub(self.count);
        Count(left.max(1))
    }
}

/// The counters of a vCPU.
#[derive(Debug)]
pub(super) struct Counters {
    /// By [`Pmc::slot`].
    all: [Counter; Pmc::SLOTS],
    /// The bound ones whose event competes for a host counter. Written here only.
    enabled: PmcSet,
    /// Those whose event the host has refused. Written here only.
    refused: PmcSet,
    paused: bool,
}

impl Counters {
    pub(super) const fn new() -> Self {
        Self {
            all: [Counter::Off; Pmc::SLOTS],
            enabled: PmcSet::EMPTY,
            refused: PmcSet::EMPTY,
            paused: true,
        }
    }

    pub(super) const fn get(&self, pmc: Pmc) -> &Counter {
        &self.all[pmc.slot()]
    }

    /// The counter, if it has a host event.
    pub(super) const fn bound(&self, pmc: Pmc) -> Option<&Bound> {
        match &self.all[pmc.slot()] {
            Counter::Bound(bound) => Some(bound),
            _ => None,
        }
    }

    pub(super) const fn bound_mut(&mut self, pmc: Pmc) -> Option<&mut Bound> {
        match &mut self.all[pmc.slot()] {
            Counter::Bound(bound) => Some(bound),
            _ => None,
        }
    }

    /// Every counter with a host event.
    pub(super) fn all_bound(&self) -> impl Iterator<Item = &Bound> {
        self.all.iter().filter_map(|counter| match counter {
            Counter::Bound(bound) => Some(bound),
            _ => None,
        })
    }

    /// The counters with a host event.
    pub(super) fn with_event(&self) -> PmcSet {
        let mut set = PmcSet::EMPTY;
        self.all_bound().for_each(|bound| set.insert(bound.pmc));
        set
    }

    /// Every counter with a host event, to be changed.
    pub(super) fn all_bound_mut(&mut self) -> impl Iterator<Item = &mut Bound> {
        self.all.iter_mut().filter_map(|counter| match counter {
            Counter::Bound(bound) => Some(bound),
            _ => None,
        })
    }

    /// Makes `counter` of it, not enabled; returns the one that it was.
    pub(super) const fn put(&mut self, pmc: Pmc, counter: Counter) -> Counter {
        self.enabled.remove(pmc);
        if matches!(counter, Counter::Unbacked(Unbacked::Refused(_))) {
            self.refused.insert(pmc);
        } else {
            self.refused.remove(pmc);
        }
        core::mem::replace(&mut self.all[pmc.slot()], counter)
    }

    /// The guest does not want it to count. Its host event, if any, stays.
    pub(super) const fn unwant(&mut self, pmc: Pmc) {
        if matches!(self.all[pmc.slot()], Counter::Unbacked(_)) {
            self.put(pmc, Counter::Off);
        }
    }

    /// Whether its event competes for a host counter. Does nothing without one.
    pub(super) const fn set_enabled(&mut self, pmc: Pmc, enabled: bool) {
        if enabled && self.bound(pmc).is_some() {
            self.enabled.insert(pmc);
        } else {
            self.enabled.remove(pmc);
        }
    }

    /// The counters whose event the host has refused: it may open it the next time.
    pub(super) const fn refused(&self) -> PmcSet {
        self.refused
    }

    /// The counters whose events compete for a host counter.
    pub(super) const fn enabled(&self) -> PmcSet {
        self.enabled
    }

    /// The counters that the guest wants to count and that have an event.
    pub(super) const fn wanted(&self) -> PmcSet {
        if self.paused {
            PmcSet::EMPTY
        } else {
            self.enabled
        }
    }

    pub(super) const fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }
}
