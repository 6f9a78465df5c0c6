//! The registers of uncore PMUs, one row each: which MSR is what, which bits it
//! keeps, and which feature brings it.
//!
//! Rows of the same form as those of the core's PMUs ([`crate::guest`]). Source:
//! guest-contract §6 and §8; SDM vol. 4, "MSR_RAPL_POWER_UNIT" and following;
//! AMD PPR, "L3 Cache PMC", "Data Fabric PMC", "UMC PMC".

use crate::host::{EnergyDomain, RawSelect, UncoreEvent};
use crate::ids::MsrIndex;
use crate::x86::msr::row::{Arms, Numbering, Row, RowConfig, SavedAs, Takes, Touches};
use crate::x86::msr::{Access, Meaning, MsrError, MsrRun};

use super::model::{PowerForm, UncoreModel, UncorePmu};
use super::value::ENERGY_START;

/// A counter that the guest programs.
///
/// # Examples
/// ```
/// use vpmu::uncore::{UncoreCounter, UncorePmu};
///
/// let second = UncoreCounter { pmu: UncorePmu::L3, number: 1 };
/// assert!(second.number < UncorePmu::L3.counters());
/// ```
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

/// A feature that a guest must be shown to have a register.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UncoreSince {
    /// RAPL of this form.
    Power(PowerForm),
    /// The same with this domain.
    Energy(PowerForm, EnergyDomain),
    /// `amd_l3`.
    L3,
    /// `amd_df`.
    DataFabric,
    /// The memory controller that the register belongs to.
    Umc,
}

impl RowConfig for UncoreModel {
    type Register = UncoreRegister;
    type Since = UncoreSince;

    fn has(&self, since: UncoreSince, number: u8) -> bool {
        let power = |form, domain| {
            self.power()
                .is_some_and(|p| p.form() == form && p.has(domain))
        };
        match since {
            UncoreSince::Power(form) => self.power().is_some_and(|p| p.form() == form),
            UncoreSince::Energy(form, domain) => power(form, domain),
            UncoreSince::L3 => self.l3(),
            UncoreSince::DataFabric => self.df(),
            UncoreSince::Umc => number / Self::UMC_COUNTERS < self.umc(),
        }
    }
}

type UncoreRow = Row<UncoreModel>;

/// RAPL's registers are read-only. The state of an uncore PMU is not saved.
const fn rapl(
    run: MsrRun,
    register: UncoreRegister,
    since: UncoreSince,
    reset: fn(&UncoreModel) -> u64,
) -> UncoreRow {
    Row {
        run,
        register: Numbering::One(register),
        since,
        takes: Takes::Nothing,
        stored: |_| 0,
        reset,
        touches: Touches::Nothing,
        write: Meaning::Other,
        arms: Arms::Never,
        saved: SavedAs::Nothing,
    }
}

const fn energy(
    name: &'static str,
    index: u32,
    form: PowerForm,
    domain: EnergyDomain,
) -> UncoreRow {
    rapl(
        MsrRun::one(name, MsrIndex(index)),
        UncoreRegister::Energy(domain),
        UncoreSince::Energy(form, domain),
        |_| ENERGY_START,
    )
}

/// The selects of AMD's PMUs; their counters are at the indices between. Bits that
/// a register does not take are dropped (rule G-301).
const fn selects(
    run: MsrRun,
    since: UncoreSince,
    register: fn(u8) -> UncoreRegister,
    kept: fn(&UncoreModel) -> u64,
    enable: u64,
) -> UncoreRow {
    Row {
        run: run.alternating(),
        register: Numbering::Nth(register),
        since,
        takes: Takes::Part(kept),
        stored: kept,
        reset: |_| 0,
        touches: Touches::Nothing,
        write: Meaning::Enables(enable),
        arms: Arms::Never,
        saved: SavedAs::Nothing,
    }
}

const fn counters(
    run: MsrRun,
    since: UncoreSince,
    register: fn(u8) -> UncoreRegister,
    bits: fn(&UncoreModel) -> u64,
) -> UncoreRow {
    Row {
        write: Meaning::SetsCounter,
        ..selects(run, since, register, bits, 0)
    }
}

const L3: u32 = UncoreModel::L3_COUNTERS as u32;
const DF: u32 = UncoreModel::DF_COUNTERS as u32;
const UMC: u32 = UncoreModel::MAX_UMC as u32 * UncoreModel::UMC_COUNTERS as u32;

const fn l3(number: u8) -> UncoreCounter {
    let pmu = UncorePmu::L3;
    UncoreCounter { pmu, number }
}

const fn df(number: u8) -> UncoreCounter {
    let pmu = UncorePmu::DataFabric;
    UncoreCounter { pmu, number }
}

/// The registers of all memory controllers, one after the other.
const fn umc(nth: u8) -> UncoreCounter {
    UncoreCounter {
        pmu: UncorePmu::Umc(nth / UncoreModel::UMC_COUNTERS),
        number: nth % UncoreModel::UMC_COUNTERS,
    }
}

/// Every register that some model has, one row each.
pub(crate) static ROWS: [UncoreRow; 14] = [
    rapl(
        MsrRun::new("MSR_RAPL_POWER_UNIT", 0x606, 1),
        UncoreRegister::PowerUnit(PowerForm::Intel),
        UncoreSince::Power(PowerForm::Intel),
        |_| PowerForm::Intel.unit(),
    ),
    energy(
        "MSR_PKG_ENERGY_STATUS",
        0x611,
        PowerForm::Intel,
        EnergyDomain::Package,
    ),
    energy(
        "MSR_DRAM_ENERGY_STATUS",
        0x619,
        PowerForm::Intel,
        EnergyDomain::Memory,
    ),
    energy(
        "MSR_PP0_ENERGY_STATUS",
        0x639,
        PowerForm::Intel,
        EnergyDomain::Cores,
    ),
    energy(
        "MSR_PP1_ENERGY_STATUS",
        0x641,
        PowerForm::Intel,
        EnergyDomain::Graphics,
    ),
    energy(
        "MSR_PLATFORM_ENERGY_STATUS",
        0x64d,
        PowerForm::Intel,
        EnergyDomain::Platform,
    ),
    selects(
        MsrRun::new("ChL3PmcCfg", 0xc001_0230, L3),
        UncoreSince::L3,
        |nth| UncoreRegister::Select(l3(nth)),
        |_| UncorePmu::L3.kept(),
        UncorePmu::L3.enable(),
    ),
    counters(
        MsrRun::new("ChL3Pmc", 0xc001_0231, L3),
        UncoreSince::L3,
        |nth| UncoreRegister::Counter(l3(nth)),
        |_| COUNTER_MASK,
    ),
    selects(
        MsrRun::new("DF_PERF_CTL", 0xc001_0240, DF),
        UncoreSince::DataFabric,
        |nth| UncoreRegister::Select(df(nth)),
        |_| UncorePmu::DataFabric.kept(),
        UncorePmu::DataFabric.enable(),
    ),
    counters(
        MsrRun::new("DF_PERF_CTR", 0xc001_0241, DF),
        UncoreSince::DataFabric,
        |nth| UncoreRegister::Counter(df(nth)),
        |_| COUNTER_MASK,
    ),
    rapl(
        MsrRun::new("RAPL_PWR_UNIT", 0xc001_0299, 1),
        UncoreRegister::PowerUnit(PowerForm::Amd),
        UncoreSince::Power(PowerForm::Amd),
        |_| PowerForm::Amd.unit(),
    ),
    energy(
        "PKG_ENERGY_STAT",
        0xc001_029b,
        PowerForm::Amd,
        EnergyDomain::Package,
    ),
    selects(
        MsrRun::new("UMC_PERF_CTL", 0xc001_0800, UMC),
        UncoreSince::Umc,
        |nth| UncoreRegister::Select(umc(nth)),
        |_| UncorePmu::Umc(0).kept(),
        UncorePmu::Umc(0).enable(),
    ),
    counters(
        MsrRun::new("UMC_PERF_CTR", 0xc001_0801, UMC),
        UncoreSince::Umc,
        |nth| UncoreRegister::Counter(umc(nth)),
        |_| COUNTER_MASK | UMC_OVERFLOW,
    ),
];

/// Every run of MSR indices that some model has.
pub fn runs() -> impl Iterator<Item = &'static MsrRun> {
    ROWS.iter().map(|row| &row.run)
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
    /// The register at `msr`, ready to be read and written.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if this guest has none there.
    pub fn decode(&self, msr: MsrIndex) -> Result<Access<UncoreRegister>, MsrError> {
        let found = ROWS
            .iter()
            .find_map(|row| Some((row, row.run.number(msr)?)));
        let (row, number) = found.ok_or(MsrError::Unknown)?;
        let number = u8::try_from(number).map_err(|_| MsrError::Unknown)?;
        row.access(self, number)
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

    /// Every register that this guest has.
    pub fn registers(&self) -> impl Iterator<Item = (MsrIndex, UncoreRegister)> + '_ {
        runs().flat_map(move |run| {
            let index_and_register = |msr| Some((msr, self.decode(msr).ok()?.register()));
            run.indices().filter_map(index_and_register)
        })
    }
}
