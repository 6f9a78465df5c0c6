//! The form of a row: all that is to be known of one register of one model.
//!
//! A model is a list of rows and the numbers (`C`) that complete them. An exit
//! looks its index up once ([`Window::row`]); the row and the numbers give an
//! [`Access`], which answers every later question without the index.

use crate::ids::{MsrIndex, Pmc, PmcSet};

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

/// What a write means to the guest's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It gives the counter of this register a value.
    SetsCounter,
    /// It lets counters run if it sets one of these bits.
    Enables(u64),
    /// It acknowledges overflows.
    Acknowledges,
    /// None of these.
    Other,
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
    /// The registers of this row that a saved state lists and that can hold `value`,
    /// on the PMU of `config`.
    pub(crate) fn saved_registers<'a>(
        &'a self,
        config: &'a C,
        value: u64,
    ) -> impl Iterator<Item = C::Register> + use<'a, C> {
        let numbers = (0..=u8::MAX).take_while(|number| u32::from(*number) < self.run.count);
        numbers.filter_map(move |number| self.restored(config, number, value).ok())
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

/// What becomes of a write's bits that the register does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// The register takes none: #GP whatever the value is.
    AllFault,
    /// #GP.
    Fault,
    /// They are dropped.
    Dropped,
}

/// What a write does besides storing, for a VMM that has to act on it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It gives a counter a value.
    SetsCounter,
    /// It lets counters run, as far as this register goes.
    Enables,
    /// Neither.
    Other,
}

/// What a write does for the PMIs that follow, where a delivery has masked LVTPC
/// (rules G-401, G-402).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arming {
    /// Nothing.
    No,
    /// The next overflow interrupts.
    Next,
    /// That, and at once an overflow that is still in the status.
    AtOnce,
}

/// A register of a PMU that has been found: the answer to one decode of an MSR
/// index, good for every step of the access. `R` tells one register from another.
///
/// An access is good for the PMU that gave it, and for PMUs of the same kind and
/// numbers.
///
/// # Examples
/// ```
/// use vpmu::guest::{Arming, Effect, GuestPmu, Model, ModelConfig, ModelKind};
/// use vpmu::x86::event::ArchEventSet;
/// use vpmu::x86::msr::GLOBAL_CTRL;
///
/// let kind = ModelKind::INTEL_GENERIC;
/// let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL)?;
/// let model = Model::new(config);
/// let access = model.decode(GLOBAL_CTRL)?;
/// assert_eq!(access.effect(0xf), Effect::Enables);
/// assert_eq!(access.arming(0), Arming::No);
/// assert_eq!(access.touches(), model.counters());
/// assert_eq!(model.read(access), Ok(0xf));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<R> {
    register: R,
    /// The counter that the register belongs to.
    pmc: Option<Pmc>,
    others: Others,
    arms: Arming,
    /// A write of 0 does not arm.
    unless_zero: bool,
    write: Meaning,
    taken: u64,
    touches: PmcSet,
}

impl<R: Copy> Access<R> {
    /// The register.
    #[must_use]
    pub const fn register(&self) -> R {
        self.register
    }

    /// The counter whose value this register is, by any of its addresses.
    #[must_use]
    pub const fn counter(&self) -> Option<Pmc> {
        match self.write {
            Meaning::SetsCounter => self.pmc,
            _ => None,
        }
    }

    /// The counters whose current values the access shows or changes: bring them
    /// up to date first.
    #[must_use]
    pub const fn touches(&self) -> PmcSet {
        self.touches
    }

    /// What a write of `value` would do.
    #[must_use]
    pub const fn effect(&self, value: u64) -> Effect {
        let value = match self.others {
            Others::Dropped => value & self.taken,
            Others::AllFault | Others::Fault => value,
        };
        match self.write {
            Meaning::SetsCounter => Effect::SetsCounter,
            Meaning::Enables(bits) if value & bits != 0 => Effect::Enables,
            Meaning::Enables(_) | Meaning::Acknowledges | Meaning::Other => Effect::Other,
        }
    }

    /// Whether a write of `value` tells that the guest is ready for another PMI
    /// (rule G-401).
    #[must_use]
    pub const fn arming(&self, value: u64) -> Arming {
        if self.unless_zero && value == 0 {
            Arming::No
        } else {
            self.arms
        }
    }

    /// The bits of `value` that a write takes.
    ///
    /// # Errors
    /// [`MsrError::InvalidAccess`] if the value has a bit that is #GP, or the
    /// register is read-only.
    pub(crate) const fn taken(&self, value: u64) -> Result<u64, MsrError> {
        match self.others {
            Others::AllFault => Err(MsrError::InvalidAccess),
            Others::Fault if value & !self.taken != 0 => Err(MsrError::InvalidAccess),
            Others::Fault | Others::Dropped => Ok(value & self.taken),
        }
    }
}

/// A row of a list and the number of one of its registers.
#[derive(Clone, Copy)]
struct Entry {
    row: u8,
    number: u8,
}

const NO_ROW: u8 = u8::MAX;

/// A span of `N` MSR indices from `base` on, with the row of each: a look-up is
/// one load, whatever the number of rows is.
pub(crate) struct Window<const N: usize> {
    base: u32,
    entries: [Entry; N],
}

impl<const N: usize> Window<N> {
    /// The window from `base` on over the rows of a model. Rows outside of it are
    /// left out.
    pub(crate) const fn new<C: RowConfig>(base: u32, rows: &[Row<C>]) -> Self {
        let empty = Entry {
            row: NO_ROW,
            number: 0,
        };
        let mut entries = [empty; N];
        let mut row = 0;
        while row < rows.len() {
            let run = &rows[row].run;
            let mut number = 0;
            while number < run.count {
                let index = run.index(number).0;
                if index >= base && ((index - base) as usize) < N {
                    let entry = &mut entries[(index - base) as usize];
                    assert!(entry.row == NO_ROW, "two rows have the same index");
                    assert!(row < NO_ROW as usize && number <= u8::MAX as u32);
                    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
                    {
                        *entry = Entry {
                            row: row as u8,
                            number: number as u8,
                        };
                    }
                }
                number += 1;
            }
            row += 1;
        }
        Self { base, entries }
    }

    /// The row of `msr` among `rows`, of which the window was made, and the number
    /// of the register in the row's run.
    pub(crate) fn row<'r, C: RowConfig>(
        &self,
        rows: &'r [Row<C>],
        msr: MsrIndex,
    ) -> Option<(&'r Row<C>, u8)> {
        #[cfg(test)]
        tests::note_decode();
        let at = usize::try_from(msr.0.checked_sub(self.base)?).ok()?;
        let entry = self.entries.get(at)?;
        Some((rows.get(usize::from(entry.row))?, entry.number))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! Counts look-ups, for tests that an access makes one.

    extern crate std;

    use core::cell::Cell;

    std::thread_local! {
        static DECODES: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) fn note_decode() {
        DECODES.set(DECODES.get() + 1);
    }

    /// Look-ups of an index by this thread so far.
    pub(crate) fn decodes() -> u32 {
        DECODES.get()
    }
}
