//! An access: the answer to one decode of an MSR index.

use crate::ids::{Pmc, PmcSet};

use super::MsrError;

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

/// What becomes of a write's bits that the register does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
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
///
/// # Examples
/// ```
/// use vpmu::guest::Arming;
///
/// let needs_entry = |arming| arming != Arming::No;
/// assert!(needs_entry(Arming::Next) && needs_entry(Arming::AtOnce));
/// ```
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
    pub(super) register: R,
    /// The counter that the register belongs to.
    pub(super) pmc: Option<Pmc>,
    pub(super) others: Others,
    pub(super) arms: Arming,
    /// A write of 0 does not arm.
    pub(super) unless_zero: bool,
    pub(super) write: Meaning,
    pub(super) taken: u64,
    pub(super) touches: PmcSet,
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
