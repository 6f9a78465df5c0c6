//! Saving and restoring.
//!
//! A counter's event is opened anew and goes on from the counts and times of the
//! old one, in the old order of turns. What the host gives is found before
//! anything is promised: the events run for a moment in which the guest does not.

use alloc::vec::Vec;

use crate::guest::{GuestPmu, Identity, saved_registers};
use crate::host::{EventCode, HostPmu};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::sched::EventState;
use crate::state::{self, Carried, RestoreError, Saved, SavedEvent, SavedRules};

use super::pmi::PmiLine;
use super::{Policy, Rules, VcpuPmu};

impl<G: GuestPmu, H: HostPmu> VcpuPmu<G, H> {
    /// The state as bytes, for [`VcpuPmu::restore`], after taking in what the
    /// running counters counted. The vCPU may run on afterwards.
    ///
    /// A PMI that the guest still has to get is in it, also one that was postponed.
    /// What a counter counted before the host took it away, and
    /// could not be read since, is not in it either: for a flexible counter it is
    /// estimated from the rest, which [`CounterView::times`](super::CounterView)
    /// shows, and a pinned one was in error from its last read on.
    pub fn save(&mut self) -> Vec<u8> {
        self.fold(self.schedule.enabled());
        let events = self.schedule.order().filter_map(|pmc| {
            let carried = self.schedule.carried(pmc)?;
            Some(SavedEvent { pmc, carried })
        });
        state::encode(&Saved {
            model: self.model.identity(),
            rules: self.rules.saved(),
            registers: held(&self.model).collect(),
            told: self.model.told(),
            armed: self.pmi.is_armed(),
            pmi: self.pmi.is_on_its_way(),
            totals: self.totals(),
            turn: self.schedule.rest_of_turn(),
            levels: self.host().level_memory(),
            events: events.collect(),
        })
    }

    /// The PMU that [`VcpuPmu::save`] saved, on this host. `model` is of the same
    /// kind and has the same numbers ([`state::identity`] tells which); the rules
    /// are the same.
    ///
    /// On the vCPU's thread, before it runs: host events are opened here, and
    /// those of [`host::linux`](crate::host) count the thread that opens them.
    ///
    /// Where the host has fewer counters than before, flexible ones take turns
    /// and pinned ones are refused.
    ///
    /// # Errors
    /// [`RestoreError`]; no host event is open then.
    pub fn restore(
        model: G,
        host: H,
        rules: impl Into<Rules>,
        bytes: &[u8],
    ) -> Result<Self, RestoreError> {
        let saved = state::decode(bytes)?;
        let mut pmu = Self::new(model, host, rules);
        pmu.rules.check(&saved.rules)?;
        pmu.load_model(&saved)?;
        if let Some(levels) = saved.levels {
            pmu.schedule
                .driver_mut()
                .host_mut()
                .set_level_memory(levels);
        }
        pmu.open_saved(&saved)?;
        pmu.try_all(&saved)?;
        // From what the registers want, as after a write to all of them. The
        // events go on: what is in error stays there.
        pmu.schedule.carry_totals(&saved.totals);
        pmu.reconcile(pmu.model.counters(), PmcSet::EMPTY);
        pmu.pmi = PmiLine::saved(saved.armed, saved.pmi);
        // What has no event here had none there: that trouble has been counted.
        pmu.totals = saved.totals;
        pmu.totals.not_counted -= saved.totals.pinned_errors;
        Ok(pmu)
    }

    fn load_model(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        let here = self.model.identity();
        if saved.model != here {
            return Err(RestoreError::OtherModel {
                saved: saved.model,
                here,
            });
        }
        self.model.reset();
        let own = held(&self.model).map(|(msr, _)| msr);
        if !own.eq(saved.registers.iter().map(|(msr, _)| *msr)) {
            return Err(RestoreError::Impossible("the list of its registers"));
        }
        for (msr, value) in &saved.registers {
            let loaded = self.model.load(*msr, *value);
            loaded.map_err(|_| RestoreError::Register {
                msr: *msr,
                value: *value,
            })?;
        }
        let told = self.model.load_told(saved.told);
        told.map_err(|_| RestoreError::Impossible("the wraps that a PMI tells of"))
    }

    fn open_saved(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        self.schedule.pause();
        for SavedEvent { pmc, carried } in &saved.events {
            self.check_event(&saved.model, *pmc, carried)?;
            let opened = self.schedule.carry_on(*pmc, carried);
            opened.map_err(|source| RestoreError::Refused { pmc: *pmc, source })?;
            if carried.state != EventState::Off {
                self.schedule.aim(*pmc, self.model.distance(*pmc));
            }
        }
        Ok(())
    }

    /// Whether the model and the rules could have come to this event.
    fn check_event(
        &self,
        model: &Identity,
        pmc: Pmc,
        carried: &Carried,
    ) -> Result<(), RestoreError> {
        let event = carried.attr.code;
        let known = match event {
            EventCode::Architectural(event) => model.events.contains(event),
            EventCode::Standard(event) => self.rules.standard.contains(event),
            EventCode::Raw(_) => self.rules.codes.is_some(),
        };
        let pinned = self.rules.policy == Policy::Pinned;
        let error = carried.state == EventState::Error;
        if known && self.rules.admits(event) && model.counters.contains(pmc) && (pinned || !error) {
            Ok(())
        } else {
            Err(RestoreError::Impossible("an event"))
        }
    }

    /// Finds out what the host has for the events: nothing counts, as the guest
    /// does not run.
    fn try_all(&mut self, saved: &Saved) -> Result<(), RestoreError> {
        self.schedule.resume();
        if let Some(rest) = saved.turn {
            self.schedule.shorten_turn(rest);
        }
        if self.rules.policy == Policy::Flexible {
            return Ok(());
        }
        for SavedEvent { pmc, carried } in &saved.events {
            let now = self.schedule.event_state(*pmc);
            if carried.state == EventState::Inactive && now == Some(EventState::Error) {
                return Err(RestoreError::TooFewCounters { pmc: *pmc });
            }
        }
        Ok(())
    }
}

/// Each register that stores something, once, with its value.
fn held<G: GuestPmu>(model: &G) -> impl Iterator<Item = (MsrIndex, u64)> {
    saved_registers().filter_map(|msr| {
        let access = model.decode(msr).ok()?;
        Some((msr, model.read(access).ok()?))
    })
}

impl Rules {
    fn saved(&self) -> SavedRules {
        SavedRules {
            policy: self.policy,
            // What no filter admits has no meaning to keep.
            // Nor do the codes of standard events: a CPU counts what it has for them.
            codes: self.codes.filter(|_| self.filter.admits_codes()),
            filter: self
                .filter
                .checksum(self.standard.or(self.standard_by_code)),
        }
    }

    fn check(&self, saved: &SavedRules) -> Result<(), RestoreError> {
        let here = self.saved();
        let other = [
            ("policy", saved.policy != here.policy),
            ("event filter", saved.filter != here.filter),
            ("meaning of raw events", saved.codes != here.codes),
        ];
        match other.into_iter().find(|(_, differs)| *differs) {
            Some((what, _)) => Err(RestoreError::OtherRules(what)),
            None => Ok(()),
        }
    }
}
