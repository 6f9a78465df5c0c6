//! vCPUs that come and go: which one stands for a scope, and what that does to its
//! counters.

use alloc::vec::Vec;

use super::events::Trouble;
use super::history::Change;
use super::vm::{Place, Uncore};
use crate::host::{ScopeInstance, UncoreHost};
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

impl<H: UncoreHost> Uncore<H> {
    /// The designated vCPU of each instance.
    pub(super) fn designated(&self, bank: usize) -> Vec<Option<VcpuId>> {
        let pmu = self.banks[bank].pmu;
        let mut all = alloc::vec![None; self.banks[bank].designated.len()];
        for vcpu in self.events.designated(bank) {
            let instance = self.model.instance(pmu, &self.topology, vcpu);
            if let Some(designated) = all.get_mut(usize::from(instance.0)) {
                *designated = Some(vcpu);
            }
        }
        all
    }

    /// A vCPU is plugged in: a scope without one has it designated, and what the
    /// guest had left enabled there counts again. No-op for one that is
    /// there, or cannot be.
    pub fn arrived(&mut self, now: Nanos, vcpu: VcpuId) {
        if !self.events.set_present(now, vcpu, true) {
            return;
        }
        for bank in 0..self.banks.len() {
            let Some(instance) = self.note_designated(now, bank, vcpu) else {
                continue;
            };
            for slot in self.banks[bank].of(instance) {
                let place = Place { bank, slot, vcpu };
                if self.slot(place).wanted.is_some() && !self.slot(place).meter.is_open() {
                    self.reopen(now, place);
                }
                if self.slot(place).meter.is_open() {
                    let counter = self.counter_number(bank, slot);
                    self.note(now, bank, instance, Change::Resumed { counter, to: vcpu });
                }
            }
        }
    }

    /// A vCPU was ejected: where it was designated, another one of the scope is,
    /// and has the events; without another one they end, and their
    /// counts stay. No-op for one that is not there.
    pub fn departed(&mut self, now: Nanos, vcpu: VcpuId) {
        if !self.events.set_present(now, vcpu, false) {
            return;
        }
        for bank in 0..self.banks.len() {
            let Some(instance) = self.note_designated(now, bank, vcpu) else {
                continue;
            };
            for slot in self.banks[bank].of(instance) {
                self.slot_departed(now, Place { bank, slot, vcpu }, instance);
            }
        }
    }

    /// The slot's event has moved or gone off with `place.vcpu`.
    fn slot_departed(&mut self, now: Nanos, place: Place, instance: ScopeInstance) {
        let Place { bank, slot, vcpu } = place;
        self.fold(now, bank, slot);
        if !self.slot(place).meter.is_open() {
            return;
        }
        let counter = self.counter_number(bank, slot);
        let count = Count(self.slot(place).counted);
        let Self { events, banks, .. } = self;
        let meter = &mut banks[bank].slots[usize::from(slot)].meter;
        let change = if let Some(to) = events.place(meter) {
            Change::Moved {
                counter,
                from: vcpu,
                to,
                count,
            }
        } else {
            events.close(now, meter);
            meter.trouble = Some(Trouble::NoVcpu);
            Change::Off {
                counter,
                from: vcpu,
                count,
            }
        };
        self.note(now, bank, instance, change);
    }

    fn counter_number(&self, bank: usize, slot: u16) -> u8 {
        u8::try_from(slot % self.banks[bank].per_instance.max(1)).unwrap_or(u8::MAX)
    }

    /// The instance of `vcpu`, if its designated vCPU has changed.
    fn note_designated(&mut self, now: Nanos, bank: usize, vcpu: VcpuId) -> Option<ScopeInstance> {
        let instance = self
            .model
            .instance(self.banks[bank].pmu, &self.topology, vcpu);
        let at = usize::from(instance.0);
        let to = self.designated(bank).get(at).copied()?;
        let before = self.banks[bank].designated.get_mut(at)?;
        let from = core::mem::replace(before, to);
        if from == to {
            return None;
        }
        self.note(now, bank, instance, Change::Designated { from, to });
        Some(instance)
    }

    fn note(&mut self, now: Nanos, bank: usize, instance: ScopeInstance, change: Change) {
        let pmu = self.banks[bank].pmu;
        self.log.note(now, (pmu, instance), change);
    }
}
