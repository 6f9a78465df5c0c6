//! The registers of uncore PMUs: which MSR is what, and which bits it keeps.
//!
//! One table, as [`crate::x86::msr::TABLE`] is for the core's PMU. Source:
//! guest-contract §6 and §8; SDM vol. 4, "MSR_RAPL_POWER_UNIT" and following;
//! AMD PPR, "L3 Cache PMC", "Data Fabric PMC", "UMC PMC".

use crate::host::{EnergyDomain, RawSelect, UncoreEvent};
use crate::ids::MsrIndex;

use super::model::{PowerForm, UncoreModel, UncorePmu};

/// A counter that the guest programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UncoreCounter {
    /// Of which PMU.
    pub pmu: UncorePmu,
    /// Which one of an instance's.
    pub number: u8,
}

/// What an MSR index means to an uncore PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UncoreRegister {
    /// MSR_RAPL_POWER_UNIT and AMD's.
    PowerUnit(PowerForm),
    /// An energy counter.
    Energy(EnergyDomain),
    /// What a counter counts, and whether.
    Select(UncoreCounter),
    /// A counter's value.
    Counter(UncoreCounter),
}

/// A run of MSR indices.
#[derive(Clone, Copy, Debug)]
pub struct UncoreRange {
    /// Name in the manual.
    pub name: &'static str,
    /// First index.
    pub first: MsrIndex,
    /// Number of indices.
    pub count: u32,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Unit(PowerForm),
    Energy(PowerForm, EnergyDomain),
    /// Selects at even offsets, each followed by its counter.
    Counters(UncorePmu),
    /// The same for all memory controllers, one after the other.
    Umc,
}

const fn one(name: &'static str, index: u32, kind: Kind) -> UncoreRange {
    UncoreRange {
        name,
        first: MsrIndex(index),
        count: 1,
        kind,
    }
}

const fn intel(name: &'static str, index: u32, domain: EnergyDomain) -> UncoreRange {
    one(name, index, Kind::Energy(PowerForm::Intel, domain))
}

const fn pairs(name: &'static str, first: u32, pmu: UncorePmu, counters: u8) -> UncoreRange {
    UncoreRange {
        name,
        first: MsrIndex(first),
        count: counters as u32 * 2,
        kind: Kind::Counters(pmu),
    }
}

/// Every register that some model has.
pub const TABLE: &[UncoreRange] = &[
    one("MSR_RAPL_POWER_UNIT", 0x606, Kind::Unit(PowerForm::Intel)),
    intel("MSR_PKG_ENERGY_STATUS", 0x611, EnergyDomain::Package),
    intel("MSR_DRAM_ENERGY_STATUS", 0x619, EnergyDomain::Memory),
    intel("MSR_PP0_ENERGY_STATUS", 0x639, EnergyDomain::Cores),
    intel("MSR_PP1_ENERGY_STATUS", 0x641, EnergyDomain::Graphics),
    intel("MSR_PLATFORM_ENERGY_STATUS", 0x64d, EnergyDomain::Platform),
    pairs(
        "ChL3PmcCfg, ChL3Pmc",
        0xc001_0230,
        UncorePmu::L3,
        UncoreModel::L3_COUNTERS,
    ),
    pairs(
        "DF_PERF_CTL, DF_PERF_CTR",
        0xc001_0240,
        UncorePmu::DataFabric,
        UncoreModel::DF_COUNTERS,
    ),
    one("RAPL_PWR_UNIT", 0xc001_0299, Kind::Unit(PowerForm::Amd)),
    one(
        "PKG_ENERGY_STAT",
        0xc001_029b,
        Kind::Energy(PowerForm::Amd, EnergyDomain::Package),
    ),
    UncoreRange {
        name: "UMC_PERF_CTL, UMC_PERF_CTR",
        first: MsrIndex(0xc001_0800),
        count: UncoreModel::MAX_UMC as u32 * UncoreModel::UMC_COUNTERS as u32 * 2,
        kind: Kind::Umc,
    },
];

impl UncoreRange {
    /// The register at `msr`, if `model` has it.
    fn register(&self, model: &UncoreModel, msr: MsrIndex) -> Option<UncoreRegister> {
        let offset = msr
            .0
            .checked_sub(self.first.0)
            .filter(|o| *o < self.count)?;
        let nth = u8::try_from(offset / 2).ok()?;
        let counter = match self.kind {
            Kind::Unit(form) => {
                let has = model.power().is_some_and(|p| p.form() == form);
                return has.then_some(UncoreRegister::PowerUnit(form));
            }
            Kind::Energy(form, domain) => {
                let has = |p: &super::Power| p.form() == form && p.has(domain);
                return model
                    .power()
                    .filter(has)
                    .map(|_| UncoreRegister::Energy(domain));
            }
            Kind::Counters(pmu) => UncoreCounter { pmu, number: nth },
            Kind::Umc => UncoreCounter {
                pmu: UncorePmu::Umc(nth / UncoreModel::UMC_COUNTERS),
                number: nth % UncoreModel::UMC_COUNTERS,
            },
        };
        let has = match counter.pmu {
            UncorePmu::Power => false,
            UncorePmu::L3 => model.l3(),
            UncorePmu::DataFabric => model.df(),
            UncorePmu::Umc(unit) => unit < model.umc(),
        };
        has.then_some(if offset.is_multiple_of(2) {
            UncoreRegister::Select(counter)
        } else {
            UncoreRegister::Counter(counter)
        })
    }
}

/// Bits 47:0: every counter's.
pub(super) const COUNTER_MASK: u64 = (1 << 48) - 1;
/// A memory controller's counter has come to its end (AMD PPR, "UMC PMC").
pub(super) const UMC_OVERFLOW: u64 = 1 << 48;

impl UncorePmu {
    /// How many counters an instance has; `power` has domains.
    #[must_use]
    pub const fn counters(self) -> u8 {
        match self {
            Self::Power => 0,
            Self::L3 => UncoreModel::L3_COUNTERS,
            Self::DataFabric => UncoreModel::DF_COUNTERS,
            Self::Umc(_) => UncoreModel::UMC_COUNTERS,
        }
    }

    /// The enable bit of a select.
    #[must_use]
    pub const fn enable(self) -> u64 {
        match self {
            Self::Umc(_) => 1 << 31,
            _ => 1 << 22,
        }
    }

    /// The bits of a select that choose what is counted.
    const fn choice(self) -> u64 {
        match self {
            Self::Power => 0,
            // Event, unit mask; core, all slices, all cores, slices, threads.
            Self::L3 => 0xffff | 0xff0f_dc00_0000_0000,
            // Event and unit mask with their extensions, of all families.
            Self::DataFabric => 0xffff | 0xf << 24 | 0x3f << 32 | 3 << 59,
            // Event; reads, writes.
            Self::Umc(_) => 0x3ff,
        }
    }

    /// The bits of a select that are kept; the others are dropped, never #GP.
    pub(super) const fn kept(self) -> u64 {
        self.choice() | self.enable()
    }

    /// The bits of a counter's register.
    pub(super) const fn counter_mask(self) -> u64 {
        match self {
            Self::Umc(_) => COUNTER_MASK | UMC_OVERFLOW,
            _ => COUNTER_MASK,
        }
    }

    /// What a select asks for; `None` for one that is not enabled.
    #[must_use]
    pub const fn event(self, select: u64) -> Option<UncoreEvent> {
        if select & self.enable() == 0 {
            return None;
        }
        let raw = RawSelect(select & self.choice());
        match self {
            Self::Power => None,
            Self::L3 => Some(UncoreEvent::L3(raw)),
            Self::DataFabric => Some(UncoreEvent::DataFabric(raw)),
            Self::Umc(unit) => Some(UncoreEvent::Umc { unit, select: raw }),
        }
    }
}

impl PowerForm {
    /// What the unit register reads: power in 1/8 W, energy in 2^-14 or 2^-16 J,
    /// time in 2^-10 s.
    #[must_use]
    pub const fn unit(self) -> u64 {
        match self {
            Self::Intel => 0xa_0e03,
            Self::Amd => 0xa_1003,
        }
    }

    /// The energy unit is 2 to the minus this joule.
    #[must_use]
    pub const fn energy_shift(self) -> u32 {
        match self {
            Self::Intel => 14,
            Self::Amd => 16,
        }
    }
}

impl UncoreModel {
    /// The register at `msr`; `None`: not one of this guest's, #GP.
    #[must_use]
    pub fn register(&self, msr: MsrIndex) -> Option<UncoreRegister> {
        TABLE.iter().find_map(|range| range.register(self, msr))
    }

    /// The counter that RDPMC reads with this ECX: 6 to 9 data fabric, 10 to 15
    /// last-level cache; `None` is #GP(0).
    #[must_use]
    pub fn rdpmc_counter(&self, ecx: u32) -> Option<UncoreCounter> {
        let nth = |base: u32| u8::try_from(ecx - base).ok();
        match ecx {
            6..=9 if self.df() => Some(UncoreCounter {
                pmu: UncorePmu::DataFabric,
                number: nth(6)?,
            }),
            10..=15 if self.l3() => Some(UncoreCounter {
                pmu: UncorePmu::L3,
                number: nth(10)?,
            }),
            _ => None,
        }
    }

    /// Every register that this guest has, ascending.
    pub fn registers(&self) -> impl Iterator<Item = (MsrIndex, UncoreRegister)> + '_ {
        TABLE.iter().flat_map(move |range| {
            (0..range.count).filter_map(move |offset| {
                let index = MsrIndex(range.first.0 + offset);
                range
                    .register(self, index)
                    .map(|register| (index, register))
            })
        })
    }
}
