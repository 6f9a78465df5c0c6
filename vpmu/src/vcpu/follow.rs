//! The two ways between the model and its events: counts enter the model, and
//! events follow what the model wants.

use crate::guest::{Demand, GuestPmu, Wrap};
use crate::host::{HostEvent, HostPmu};
use crate::ids::{Pmc, PmcSet};
use crate::sched::EventState;
use crate::units::Count;

use super::{CounterState, VcpuPmu};

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// Moves what the running host events of `set` counted into the model. A
    /// PMI among it may have frozen every counter: then the others are taken in
    /// as well, and all are stopped.
    pub(super) fn fold(&mut self, set: PmcSet) {
        if self.is_paused() {
            return;
        }
        let interrupts = self.fold_counters(set);
        let stands = |pmc| self.model.demand(pmc).is_none();
        if interrupts && self.wanted.iter().any(stands) {
            self.fold_counters(self.enabled);
            self.reconcile(self.model.counters(), PmcSet::EMPTY);
        }
    }

    /// Says whether a counter of `set` wrapped that asks for an interrupt.
    fn fold_counters(&mut self, set: PmcSet) -> bool {
        let mut interrupts = false;
        for pmc in set.and(self.enabled).iter() {
            let events = self.backing.progress(pmc.slot());
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
                self.backing.aim(pmc.slot(), self.model.distance(pmc));
            }
            if wrap == Wrap::Interrupt {
                interrupts = true;
                self.raise_pmi();
            }
        }
        self.backing.settle();
        interrupts
    }

    /// Brings the events in line with what the model wants of them after a write
    /// to the counters `touched`, of which the guest gave `rewritten` new values.
    pub(super) fn reconcile(&mut self, touched: PmcSet, rewritten: PmcSet) {
        let was_paused = self.is_paused();
        for pmc in touched.iter() {
            match self.demand(pmc) {
                None => {
                    self.wanted.remove(pmc);
                    self.unbacked[pmc.slot()] = CounterState::Off;
                }
                Some(Demand::NotBacked(encoding)) => {
                    self.forsake(pmc, CounterState::NotBacked(encoding));
                }
                Some(Demand::Denied(encoding)) => {
                    self.forsake(pmc, CounterState::Denied(encoding));
                }
                Some(Demand::Event(_)) => self.wanted.insert(pmc),
            }
        }
        for pmc in self.enabled.iter() {
            if !self.wanted.contains(pmc) && self.backing.is_newly_starved(pmc.slot()) {
                self.totals.starved += 1;
            }
        }
        if !self.is_paused() {
            let stale = if was_paused { self.wanted } else { touched };
            self.enable_wanted(stale, rewritten, was_paused);
        }
        if self.is_paused() {
            self.backing.pause();
        } else {
            self.backing.resume();
        }
    }

    /// Disables what is not wanted and brings on what is, of `stale`; after a
    /// pause, each has another distance to its overflow and another chance.
    fn enable_wanted(&mut self, stale: PmcSet, rewritten: PmcSet, was_paused: bool) {
        for pmc in self.enabled.iter() {
            if !self.wanted.contains(pmc) {
                self.backing.set_enabled(pmc.slot(), false);
                self.enabled.remove(pmc);
            }
        }
        for pmc in stale.and(self.wanted).iter() {
            if let Some(Demand::Event(attr)) = self.demand(pmc) {
                self.bring_on(pmc, attr, rewritten.contains(pmc), was_paused);
            }
        }
    }

    /// Has the event of `pmc` compete for a counter; `rewritten`: the guest gave
    /// it another value.
    fn bring_on(&mut self, pmc: Pmc, attr: HostEvent, rewritten: bool, was_paused: bool) {
        let slot = pmc.slot();
        let kept = self.backing.has(slot, &attr);
        if !kept {
            self.enabled.remove(pmc);
            if let Err(error) = self.backing.open(slot, attr) {
                self.forsake(pmc, CounterState::Refused(error));
                return;
            }
        }
        self.unbacked[slot] = CounterState::Off;
        let on = self.enabled.contains(pmc);
        if rewritten || was_paused || !on {
            self.backing.aim(slot, self.model.distance(pmc));
        }
        // What is in error is only left by another enable.
        let error = was_paused && self.backing.state(slot) == Some(EventState::Error);
        if !on || error {
            self.backing.set_enabled(slot, true);
            self.enabled.insert(pmc);
        }
    }

    /// The guest gets no count of `pmc`; counted once for each time that it begins.
    fn forsake(&mut self, pmc: Pmc, state: CounterState) {
        self.wanted.remove(pmc);
        self.enabled.remove(pmc);
        self.backing.close(pmc.slot());
        let unbacked = &mut self.unbacked[pmc.slot()];
        if *unbacked != state {
            *unbacked = state;
            self.totals.not_counted += 1;
        }
    }
}
