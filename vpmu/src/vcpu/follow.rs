//! The two ways between the model and its events: counts enter the model, and
//! events follow the model's demands.

use crate::guest::{Demand, Encoding, GuestPmu, Wrap};
use crate::host::{HostEvent, HostPmu};
use crate::ids::{Pmc, PmcSet};
use crate::sched::EventState;
use crate::units::Count;

use super::VcpuPmu;
use super::counter::Unbacked;
use super::schedule::Starved;

/// Which counts are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    /// All.
    All,
    /// Exact ones, and estimates that overflow.
    Overflows,
}

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// Moves the counts of the running host events of `set` into the model. A
    /// PMI among it may have frozen every counter: then the others are taken in
    /// as well, and all are stopped.
    pub(super) fn fold(&mut self, set: PmcSet) {
        self.fold_what(set, Fold::All);
    }

    /// The same for counters that overflow, and for those whose count is no estimate.
    pub(super) fn fold_overflows(&mut self, set: PmcSet) {
        self.fold_what(set, Fold::Overflows);
    }

    fn fold_what(&mut self, set: PmcSet, what: Fold) {
        let wanted = self.schedule.wanted();
        if wanted.is_empty() {
            return;
        }
        let interrupts = self.fold_counters(set, what);
        let stands = |pmc| self.model.demand(pmc).is_none();
        if interrupts && self.schedule.wanted().iter().any(stands) {
            self.fold_counters(self.schedule.enabled(), Fold::All);
            self.reconcile(self.model.counters(), PmcSet::EMPTY);
        }
    }

    /// Says whether a counter of `set` wrapped that asks for an interrupt.
    fn fold_counters(&mut self, set: PmcSet, what: Fold) -> bool {
        let set = set.and(self.schedule.enabled());
        if set.is_empty() {
            return false;
        }
        let mut interrupts = false;
        for pmc in set.iter() {
            let events = match what {
                Fold::All => self.schedule.progress(pmc),
                Fold::Overflows => {
                    let distance = self.model.distance(pmc);
                    self.schedule.progress_up_to(pmc, distance)
                }
            };
            if events == Count(0) {
                continue;
            }
            let wrap = self.model.advance(pmc, events);
            if wrap != Wrap::No {
                // A counter goes on from 0.
                let skid = self.model.value(pmc);
                self.totals.overflows += 1;
                self.totals.skid = self.totals.skid.saturating_add(skid);
                self.totals.longest_skid = self.totals.longest_skid.max(skid);
                self.schedule.aim(pmc, self.model.distance(pmc));
            }
            if wrap == Wrap::Interrupt {
                interrupts = true;
                self.raise_pmi();
            }
        }
        self.schedule.settle();
        interrupts
    }

    /// Brings the events in line with the model's demands after a write to the
    /// counters `touched`, of which the guest gave `rewritten` new values.
    pub(super) fn reconcile(&mut self, touched: PmcSet, rewritten: PmcSet) {
        let mut wanted = self.schedule.wanted();
        let was_paused = wanted.is_empty();
        let mut events = [None; Pmc::SLOTS];
        for pmc in touched.iter() {
            wanted.remove(pmc);
            match self.demand(pmc) {
                None => self.schedule.counters.unwant(pmc),
                Some(Demand::NotBacked(encoding)) => {
                    self.forsake(pmc, Unbacked::NotBacked(encoding), encoding);
                }
                Some(Demand::Denied(encoding)) => {
                    self.forsake(pmc, Unbacked::Denied(encoding), encoding);
                }
                Some(Demand::Event(event)) => {
                    wanted.insert(pmc);
                    events[pmc.slot()] = Some(event);
                }
            }
        }
        let stopped = self.schedule.enabled().without(wanted);
        for pmc in stopped.iter() {
            match self.schedule.newly_starved(pmc) {
                Some(Starved::Unknown) => self.totals.starved += 1,
                Some(Starved::Estimated) => self.totals.estimated += 1,
                None => {}
            }
        }
        if !wanted.is_empty() {
            for pmc in stopped.iter() {
                self.schedule.set_enabled(pmc, false);
            }
            let opened = self.schedule.opened();
            for pmc in wanted.and(touched).iter() {
                if let Some(event) = events[pmc.slot()]
                    && !self.bring_on(pmc, event, rewritten.contains(pmc), was_paused)
                {
                    wanted.remove(pmc);
                }
            }
            if was_paused && self.schedule.opened() != opened {
                self.schedule.shuffle();
            }
        }
        if wanted.is_empty() {
            self.schedule.pause();
        } else {
            self.schedule.resume();
        }
    }

    /// Has the event of `pmc` compete for a counter; `false` if the host opens
    /// none. `rewritten`: the guest gave the counter another value. After a pause,
    /// it has another distance to its overflow and another chance.
    fn bring_on(&mut self, pmc: Pmc, event: HostEvent, rewritten: bool, was_paused: bool) -> bool {
        let kept = self.schedule.counters.bound(pmc);
        if kept.is_none_or(|bound| bound.counts != event)
            && let Err(error) = self.schedule.open(pmc, event)
        {
            if self.schedule.forsake(pmc, Unbacked::Refused(error)) {
                self.totals.not_counted += 1;
                self.uncounted.note(Some(event.code));
            }
            return false;
        }
        let on = self.schedule.enabled().contains(pmc);
        if rewritten || was_paused || !on {
            self.schedule.aim(pmc, self.model.distance(pmc));
        }
        // An event in error leaves that state by another enable only.
        let error = was_paused && self.schedule.event_state(pmc) == Some(EventState::Error);
        if !on || error {
            self.schedule.set_enabled(pmc, true);
        }
        true
    }

    /// The guest gets no count of `pmc`; counted once for each time that it begins.
    fn forsake(&mut self, pmc: Pmc, why: Unbacked, encoding: Encoding) {
        if self.schedule.forsake(pmc, why) {
            self.totals.not_counted += 1;
            self.uncounted.note(encoding.code());
        }
    }
}
