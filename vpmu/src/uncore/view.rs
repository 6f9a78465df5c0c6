//! What an operator may see of uncore PMUs.

use alloc::string::String;
use alloc::vec::Vec;

use super::bank::{Bank, Slot};
use super::events::Trouble;
use super::model::UncorePmu;
use super::vm::Uncore;
use crate::host::{ScopeInstance, UncoreCount, UncoreEvent, UncoreHost};
use crate::ids::VcpuId;
use crate::sched::Scope;
use crate::times::Times;
use crate::units::{Count, Energy, Nanos};

/// What becomes of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncoreState {
    /// The guest does not want it to count.
    Off,
    /// It counts, on this vCPU.
    Counting(VcpuId),
    /// It is wanted, and does not count.
    Stopped(Trouble),
}

/// One counter, or energy domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncoreCounterView {
    /// Its number, or the domain's place in
    /// [`EnergyDomain::ALL`](crate::host::EnergyDomain::ALL).
    pub number: u8,
    /// What the guest wants counted.
    pub wanted: Option<UncoreEvent>,
    /// The host's event, in its words.
    pub host: Option<String>,
    /// Whether it counts.
    pub state: UncoreState,
    /// For how long it had an event, and for how long that counted; of all its
    /// events.
    pub times: Times,
    /// What was counted in all.
    pub counted: UncoreCount,
}

/// One instance of an uncore PMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Which.
    pub instance: ScopeInstance,
    /// The vCPU that is designated; none if the scope has none.
    pub designated: Option<VcpuId>,
    /// The counters that are wanted, or have counted.
    pub counters: Vec<UncoreCounterView>,
}

/// An uncore PMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncoreView {
    /// Which.
    pub pmu: UncorePmu,
    /// Who shares an instance.
    pub scope: Scope,
    /// All instances.
    pub instances: Vec<InstanceView>,
}

impl<H: UncoreHost> Uncore<H> {
    /// Every PMU as it is now: counts are brought up to date.
    pub fn view(&mut self, now: Nanos) -> Vec<UncoreView> {
        for bank in 0..self.banks.len() {
            for slot in 0..self.banks[bank].slots.len() {
                if let Ok(slot) = u16::try_from(slot) {
                    self.fold(now, bank, slot);
                }
            }
        }
        let banks = self.banks.iter().enumerate();
        let view = |(at, bank): (usize, &Bank)| UncoreView {
            pmu: bank.pmu,
            scope: self.model().scope(bank.pmu),
            instances: self.instances(now, at, bank),
        };
        banks.map(view).collect()
    }

    fn instances(&self, now: Nanos, at: usize, bank: &Bank) -> Vec<InstanceView> {
        let slots = bank.slots.chunks(usize::from(bank.per_instance.max(1)));
        let instances = slots.zip(&bank.designated).zip(0..);
        let view = |((slots, designated), instance): ((&[_], &Option<VcpuId>), u16)| InstanceView {
            instance: ScopeInstance(instance),
            designated: *designated,
            counters: (0..)
                .zip(slots)
                .filter_map(|(number, slot)| self.counter(now, at, number, slot))
                .collect(),
        };
        instances.map(view).collect()
    }

    fn counter(
        &self,
        now: Nanos,
        bank: usize,
        number: u8,
        slot: &Slot,
    ) -> Option<UncoreCounterView> {
        if slot.wanted.is_none() && slot.counted == 0 {
            return None;
        }
        let meter = &slot.meter;
        let state = match (slot.wanted, self.events.place(meter), meter.trouble) {
            (None, ..) => UncoreState::Off,
            (Some(_), Some(vcpu), _) => UncoreState::Counting(vcpu),
            (Some(_), None, trouble) => UncoreState::Stopped(trouble.unwrap_or(Trouble::NoVcpu)),
        };
        let counted = match self.banks[bank].pmu {
            UncorePmu::Power => UncoreCount::Energy(Energy(slot.counted)),
            _ => UncoreCount::Events(Count(slot.counted)),
        };
        Some(UncoreCounterView {
            number,
            wanted: slot.wanted,
            host: self.events.describe(bank, meter),
            state,
            times: self.events.times(now, meter),
            counted,
        })
    }
}
