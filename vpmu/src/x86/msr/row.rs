//! The form of a row: all that is to be known of one register of one model.
//!
//! A model is a list of rows and the numbers (`C`) that complete them. An exit
//! looks its index up once ([`Window::row`](super::window::Window::row)); the row and the numbers give an
//! [`Access`], which answers every later question without the index.

use crate::ids::{Pmc, PmcSet};

use super::access::{Access, Arming, Meaning, Others};
use super::{MsrError, MsrRun};

/// The numbers of a PMU that complete its rows.
pub(crate) trait RowConfig: Sized + 'static {
    /// A register, as the model's code tells it from others.
    type Register: Copy;
    /// What a PMU must be to have a register: a version, or a feature.
    type Since: Copy;

    /// Whether this PMU has register `number` of a row with `since`. Registers of
    /// counters also need the counter: [`RowConfig::counters`].
    fn has(&self, since: Self::Since, number: u8) -> bool;

    /// The core's counters of this PMU.
    fn counters(&self) -> PmcSet {
        PmcSet::EMPTY
    }

    /// Whether the core's PMU has a status register.
    fn has_status(&self) -> bool {
        true
    }
}

/// One register of a model, or a run of registers that differ by their counter.
///
/// Masks are functions of the model's numbers, as most have a bit for each
/// counter.
#[derive(Debug)]
pub(crate) struct Row<C: RowConfig> {
    /// Name and indices.
    pub(crate) run: MsrRun,
    /// The register at each index.
    pub(crate) register: Numbering<C::Register>,
    /// The first version that has it, or the feature that brings it.
    pub(crate) since: C::Since,
    /// What WRMSR takes, and what becomes of the other bits.
    pub(crate) takes: Takes<C>,
    /// The bits that the register can hold: a restore gives it no others.
    pub(crate) stored: fn(&C) -> u64,
    /// The value after RESET.
    pub(crate) reset: fn(&C) -> u64,
    /// The counters whose values it shows or changes.
    pub(crate) touches: Touches,
    /// What a write means.
    pub(crate) write: Meaning,
    /// Whether a write arms the next PMI.
    pub(crate) arms: Arms,
    /// Where a saved state has the value.
    pub(crate) saved: SavedAs,
}

/// How the registers of a run are told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbering<R> {
    /// There is one.
    One(R),
    /// One for each general-purpose counter.
    Gp(fn(Pmc) -> R),
    /// One for each fixed counter.
    Fixed(fn(Pmc) -> R),
    /// One for each counter of an uncore PMU.
    Nth(fn(u8) -> R),
}

/// What WRMSR takes.
#[derive(Debug)]
pub(crate) enum Takes<C> {
    /// Nothing: every write is #GP.
    Nothing,
    /// These bits; another bit that is set is #GP (Intel).
    Only(fn(&C) -> u64),
    /// These bits; the others are dropped (AMD, rule G-301).
    Part(fn(&C) -> u64),
}

/// The counters that an access must find up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touches {
    /// None.
    Nothing,
    /// The counter that the register belongs to.
    Itself,
    /// All fixed counters.
    Fixed,
    /// All counters: the status must show every wrap that has happened (G-404).
    All,
}

/// Whether a write tells that the guest is ready for the next PMI, where the
/// delivery of one masks LVTPC (rules G-401, G-402).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arms {
    /// It does not.
    Never,
    /// It begins a counter's next period. On a PMU without a status register an
    /// overflow that is still told of interrupts at once.
    Period,
    /// A value that is not 0 ends the handler: an overflow that is still in the
    /// status interrupts at once.
    IfNotZero,
}

/// Where a saved state has a register's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SavedAs {
    /// Nowhere: the register is constant, computed from others, or another address
    /// of a register that is saved.
    Nothing,
    /// By this index.
    Itself,
    /// By this index from this number of the run on; those before are other
    /// addresses of registers that are saved.
    From(u8),
}

impl SavedAs {
    /// Whether register `number` of the run is in a saved state.
    pub(crate) const fn has(self, number: u8) -> bool {
        match self {
            Self::Nothing => false,
            Self::Itself => true,
            Self::From(first) => number >= first,
        }
    }
}

impl<C: RowConfig> Row<C> {
    /// The counters that a register of this row belongs to, on the PMU of `config`.
    pub(crate) fn owners(&self, config: &C) -> PmcSet {
        let owner = |number| self.access(config, number).ok()?.pmc.map(PmcSet::from);
        let all = self.numbers().filter_map(owner);
        all.fold(PmcSet::EMPTY, |set, pmc| PmcSet(set.0 | pmc.0))
    }

    /// The numbers of the registers in the run.
    fn numbers(&self) -> impl Iterator<Item = u8> + use<C> {
        let count = self.run.count;
        (0..=u8::MAX).take_while(move |number| u32::from(*number) < count)
    }

    /// The registers of this row that a saved state lists and that can hold `value`,
    /// on the PMU of `config`.
    pub(crate) fn saved_registers<'a>(
        &'a self,
        config: &'a C,
        value: u64,
    ) -> impl Iterator<Item = C::Register> + use<'a, C> {
        let restored = move |number| self.restored(config, number, value).ok();
        self.numbers().filter_map(restored)
    }

    /// Register `number` of this row, if a saved state lists it and it can hold
    /// `value`.
    ///
    /// # Errors
    /// [`MsrError`]
    pub(crate) fn restored(
        &self,
        config: &C,
        number: u8,
        value: u64,
    ) -> Result<C::Register, MsrError> {
        let access = self.access(config, number)?;
        if self.saved.has(number) && value & !(self.stored)(config) == 0 {
            Ok(access.register())
        } else {
            Err(MsrError::InvalidAccess)
        }
    }

    /// The access to register `number` of this row on the PMU of `config`.
    ///
    /// # Errors
    /// [`MsrError::Unknown`] if this PMU lacks the register.
    pub(crate) fn access(&self, config: &C, number: u8) -> Result<Access<C::Register>, MsrError> {
        if !config.has(self.since, number) {
            return Err(MsrError::Unknown);
        }
        let counters = config.counters();
        let counter = |pmc: Option<Pmc>| pmc.filter(|pmc| counters.contains(*pmc));
        let (register, pmc) = match self.register {
            Numbering::One(register) => (register, None),
            Numbering::Nth(register) => (register(number), None),
            Numbering::Gp(register) => {
                let pmc = counter(Pmc::gp(number)).ok_or(MsrError::Unknown)?;
                (register(pmc), Some(pmc))
            }
            Numbering::Fixed(register) => {
                let pmc = counter(Pmc::fixed(number)).ok_or(MsrError::Unknown)?;
                (register(pmc), Some(pmc))
            }
        };
        let (taken, others) = match self.takes {
            Takes::Nothing => (0, Others::AllFault),
            Takes::Only(bits) => (bits(config), Others::Fault),
            Takes::Part(bits) => (bits(config), Others::Dropped),
        };
        let touches = match self.touches {
            Touches::Nothing => PmcSet::EMPTY,
            Touches::Itself => pmc.map_or(PmcSet::EMPTY, PmcSet::from),
            Touches::Fixed => counters.and(PmcSet::first(0, Pmc::MAX_FIXED)),
            Touches::All => counters,
        };
        let arms = match self.arms {
            Arms::Never => Arming::No,
            Arms::Period if config.has_status() => Arming::Next,
            Arms::Period | Arms::IfNotZero => Arming::AtOnce,
        };
        Ok(Access {
            register,
            pmc,
            others,
            arms,
            unless_zero: matches!(self.arms, Arms::IfNotZero),
            write: self.write,
            taken,
            touches,
        })
    }
}
