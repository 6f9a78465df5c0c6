//! The counters of one uncore PMU, and the vCPU that stands for each of its instances.

use alloc::vec::Vec;

use super::events::Meter;
use super::model::UncorePmu;
use crate::host::{EnergyDomain, ScopeInstance, UncoreEvent};
use crate::ids::VcpuId;

/// One counter of one instance, or one of its energy domains.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) select: u64,
    /// As of the last look; of a domain, in units of 2^-32 J.
    pub(super) value: u64,
    /// What should be counted. A domain is, from its first read on.
    pub(super) wanted: Option<UncoreEvent>,
    /// What was counted in all.
    pub(super) counted: u64,
    pub(super) meter: Meter,
}

/// Slots of an instance of `power`: one for each domain.
const DOMAINS: u16 = 5;
const _: () = assert!(EnergyDomain::ALL.len() == DOMAINS as usize);

/// All instances of one PMU.
#[derive(Debug)]
pub(super) struct Bank {
    pub(super) pmu: UncorePmu,
    /// How many slots an instance has.
    pub(super) per_instance: u16,
    pub(super) slots: Vec<Slot>,
    /// By instance.
    pub(super) designated: Vec<Option<VcpuId>>,
}

impl Bank {
    pub(super) fn new(pmu: UncorePmu, instances: u16) -> Self {
        let slots = Self::places(pmu, instances).unwrap_or(0);
        Self {
            pmu,
            per_instance: Self::per_instance(pmu),
            slots: alloc::vec![Slot::default(); slots.into()],
            designated: alloc::vec![None; instances.into()],
        }
    }

    const fn per_instance(pmu: UncorePmu) -> u16 {
        match pmu {
            UncorePmu::Power => DOMAINS,
            _ => pmu.counters() as u16,
        }
    }

    /// How many slots so many instances have; `None` if they cannot be named.
    pub(super) fn places(pmu: UncorePmu, instances: u16) -> Option<u16> {
        Self::per_instance(pmu).checked_mul(instances)
    }

    /// The places of an instance's slots.
    pub(super) fn of(&self, instance: ScopeInstance) -> core::ops::Range<u16> {
        let first = instance.0 * self.per_instance;
        first..first + self.per_instance
    }
}
