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

    /// The estimate for the whole time from a count of the running time: for the time
    /// without a counter at the rate of this count and of `lately`. Of an event that
    /// never ran nothing is known: 0.
    pub(crate) fn whole(&self, count: u64, lately: Rate) -> u64 {
        if !self.is_scaled() {
            return count;
        }
        let (without, running) = (self.without(), self.running(lately));
        if running == 0 {
            return 0;
        }
        let known = u128::from(count) + u128::from(lately.count);
        let whole = u128::from(count) + known.saturating_mul(without) / running;
        u64::try_from(whole).unwrap_or(u64::MAX)
    }

    /// The count of the running time at which that estimate reaches `whole`.
    pub(crate) fn part(&self, whole: u64, lately: Rate) -> u64 {
        let (without, running) = (self.without(), self.running(lately));
        if without == 0 || running == 0 {
            return whole;
        }
        let part = (u128::from(whole) * running)
            .saturating_sub(u128::from(lately.count) * without)
            .div_ceil(running + without);
        u64::try_from(part).unwrap_or(u64::MAX)
    }

    /// Time without a counter.
    fn without(&self) -> u128 {
        self.enabled.since(self.running).0.into()
    }

    /// Time of which the count is known.
    fn running(&self, lately: Rate) -> u128 {
        u128::from(self.running.0) + u128::from(lately.time.0)
    }
}

/// How often an event occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    /// So many times ...
    pub(crate) count: u64,
    /// ... in this guest time; nothing is known if it is 0.
    pub(crate) time: Nanos,
}

impl Rate {
    /// Nothing is known.
    pub(crate) const NONE: Self = Self {
        count: 0,
        time: Nanos(0),
    };

    /// Whether it says anything.
    pub(crate) fn is_known(&self) -> bool {
        self.time > Nanos(0)
    }

    /// At most this much time of it.
    pub(crate) fn within(self, most: Nanos) -> Self {
        if self.time <= most {
            return self;
        }
        let count = u128::from(self.count) * u128::from(most.0) / u128::from(self.time.0);
        Self {
            count: u64::try_from(count).unwrap_or(u64::MAX),
            time: most,
        }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            time: self.time + other.time,
        }
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
        assert_eq!(times.whole(10, Rate::NONE), 40);
        assert_eq!(times.part(40, Rate::NONE), 10);
        let later = times.part(41, Rate::NONE);
        assert_eq!(later, 11, "rounded up: an overflow is never early");
        let always = Times::default();
        let both = (always.whole(7, Rate::NONE), always.part(7, Rate::NONE));
        assert_eq!(both, (7, 7));
    }

    #[test]
    fn a_rate_of_before_stands_for_time_without_a_counter() {
        let lately = Rate {
            count: 30,
            time: Nanos(1_000),
        };
        let waited = Times {
            enabled: Nanos(100),
            running: Nanos(0),
        };
        assert_eq!(waited.whole(7, Rate::NONE), 0, "nothing is made up");
        assert_eq!(waited.whole(0, lately), 3);
        // 10 counted in 250, and 40 in 1,250 with what was before.
        let times = Times {
            enabled: Nanos(1_000),
            running: Nanos(250),
        };
        assert_eq!(times.whole(10, lately), 10 + 24);
        for whole in [34, 35, 100, 4_321] {
            let part = times.part(whole, lately);
            assert!(times.whole(part, lately) >= whole, "{whole}");
            assert!(times.whole(part - 1, lately) < whole, "not later: {whole}");
        }
        assert_eq!(times.part(1, lately), 0, "it is there without a count");
        let always = Times::default();
        let both = (always.whole(7, lately), always.part(7, lately));
        assert_eq!(both, (7, 7), "what is counted is no estimate");
    }

    #[test]
    fn the_largest_numbers_are_no_trouble() {
        let most = Rate {
            count: u64::MAX,
            time: Nanos(1),
        };
        let times = Times {
            enabled: Nanos(u64::MAX),
            running: Nanos(1),
        };
        assert_eq!(times.whole(u64::MAX, most), u64::MAX);
        assert_eq!(times.part(u64::MAX, most), 0);
        assert_eq!(most.and(most).count, u64::MAX);
    }
}
