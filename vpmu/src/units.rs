//! Quantities with their units.

use core::ops::{Add, AddAssign};

/// A span or an instant of a clock that the caller owns, in nanoseconds.
///
/// `vpmu` has no clock: whoever calls says what time it is.
///
/// # Examples
/// ```
/// use vpmu::units::Nanos;
///
/// assert_eq!(Nanos(1_500).since(Nanos(1_000)), Nanos(500));
/// assert_eq!(Nanos(0).since(Nanos(1)), Nanos(0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The span from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(self.0.wrapping_add(rhs.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

/// A number of events that a counter has seen.
///
/// # Examples
/// ```
/// use vpmu::units::Count;
///
/// assert_eq!(Count(5).since(Count(u64::MAX)), Count(6), "counts wrap");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(pub u64);

impl Count {
    /// Events since `earlier`, of a count that wraps at 2^64.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.wrapping_sub(earlier.0))
    }
}

/// Energy in units of 2^-32 joule, as Linux's PMU `power` counts it (`scale`
/// 2.3283064365386962890625e-10). It wraps after 4.29 GJ.
///
/// Linux: `rapl_scale`.
///
/// # Examples
/// ```
/// use vpmu::units::Energy;
///
/// let two_joules = Energy(2 * Energy::PER_JOULE);
/// assert_eq!(two_joules.0 >> 32, 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Energy(pub u64);

impl Energy {
    /// How many of the units are a joule.
    pub const PER_JOULE: u64 = 1 << 32;
}
