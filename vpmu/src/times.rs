//! How long an event was wanted and how long it counted, and what that makes of
//! its count.

use crate::units::Nanos;

/// How long an event was wanted, and how long it had a counter.
///
/// # Examples
/// ```
/// use vpmu::Times;
/// use vpmu::units::Nanos;
///
/// let times = Times {
///     enabled: Nanos(4_000_000),
///     running: Nanos(1_000_000),
/// };
/// assert!(times.is_scaled());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Guest time for which the guest wanted it.
    pub enabled: Nanos,
    /// Guest time for which it had a counter.
    pub running: Nanos,
}

impl Times {
    /// These, and then those.
    pub(crate) fn and_then(self, enabled: Nanos, running: Nanos) -> Self {
        Self {
            enabled: self.enabled + enabled,
            running: self.running + running,
        }
    }

    /// Whether the count is an estimate for the whole from a part.
    #[must_use]
    pub fn is_scaled(&self) -> bool {
        self.enabled != self.running
    }

    /// The estimate for the whole time from a count of the running time. Of an
    /// event that never ran nothing is known: 0.
    pub(crate) fn whole(&self, count: u64) -> u64 {
        if !self.is_scaled() {
            return count;
        }
        if self.running == Nanos(0) {
            return 0;
        }
        let whole = u128::from(count) * u128::from(self.enabled.0) / u128::from(self.running.0);
        u64::try_from(whole).unwrap_or(u64::MAX)
    }

    /// The count of the running time at which the estimate reaches `whole`.
    pub(crate) fn part(&self, whole: u64) -> u64 {
        if !self.is_scaled() || self.running == Nanos(0) {
            return whole;
        }
        let part = (u128::from(whole) * u128::from(self.running.0))
            .div_ceil(u128::from(self.enabled.0.max(1)));
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stands_for_the_whole_and_back() {
        let times = Times {
            enabled: Nanos(1_000),
            running: Nanos(250),
        };
        assert_eq!(times.whole(10), 40);
        assert_eq!(times.part(40), 10);
        assert_eq!(times.part(41), 11, "rounded up: an overflow is never early");
        let never = Times {
            enabled: Nanos(5),
            running: Nanos(0),
        };
        assert_eq!(never.whole(7), 0, "nothing is made up");
        let always = Times::default();
        assert_eq!((always.whole(7), always.part(7)), (7, 7));
    }
}
