//! Guest time by privilege level, from samples.
//!
//! A clock sees when the guest runs and not at which level. Asynchronous exits
//! do, as they come at any instruction alike: the time since the last look is
//! given to the level that one finds. What a read finds unsampled is shared out
//! by the recent samples.
//!
//! A guest that stays at one level is looked at less and less often, as each look costs an
//! exit. Which time a look will be given is decided before it, so the shares stay right.

use super::pmu::Level;
use crate::units::Nanos;

/// Mean guest time between two samples of a guest that changes its level.
const INTERVAL: u64 = 1_000_000;
/// The time doubles up to three times, to 8 ms, as the share of the level that the samples
/// do not find gets below these: after 16, 48 and 68 samples in a row at one level.
const RARE: [u32; 3] = [7_740, 107, 8];
/// A share of 1.
const ONE: u64 = 1 << 16;
/// How many samples the share remembers.
const MEMORY: u64 = 8;

/// What the samples of a guest's levels come to, for a PMU that goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelMemory {
    /// User mode's share of the recent samples, of [`ONE`].
    pub(crate) user_share: u32,
    /// Guest time to the next sample.
    pub(crate) next: Nanos,
    /// Where the uneven distances between samples go on.
    pub(crate) dice: u32,
}

impl LevelMemory {
    /// Whether samples can come to it.
    pub(crate) const fn is_possible(&self) -> bool {
        self.user_share as u64 <= ONE && self.next.0 < (2 * INTERVAL) << RARE.len()
    }
}

/// The clocks of the two levels.
#[derive(Debug)]
pub(super) struct LevelClocks {
    user: Nanos,
    kernel: Nanos,
    /// Guest time that belongs to neither yet.
    pending: Nanos,
    /// User mode's share of the recent samples, of [`ONE`]. None without one:
    /// the time before the first read belongs to the kernel, which it exits from.
    user_share: u32,
    /// Guest time to the next sample that is asked for.
    next: Nanos,
    dice: u32,
}

impl LevelClocks {
    pub(super) const fn new() -> Self {
        Self {
            user: Nanos(0),
            kernel: Nanos(0),
            pending: Nanos(0),
            user_share: 0,
            next: Nanos(INTERVAL),
            dice: 1,
        }
    }

    /// The guest ran for `span`.
    pub(super) fn ran(&mut self, span: Nanos) {
        self.pending += span;
        self.next = self.next.since(span);
    }

    /// An asynchronous exit found the guest at `level`.
    pub(super) fn sample(&mut self, level: Level) {
        let pending = core::mem::take(&mut self.pending);
        let of_sample = match level {
            Level::User => {
                self.user += pending;
                ONE
            }
            Level::Kernel => {
                self.kernel += pending;
                0
            }
        };
        let share = (u64::from(self.user_share) * (MEMORY - 1) + of_sample).div_ceil(MEMORY);
        self.user_share = u32::try_from(share).unwrap_or(u32::MAX);
        self.next = self.interval();
    }

    /// Between half and one and a half of the mean, so that samples do not keep
    /// step with the guest's own timer.
    fn interval(&mut self) -> Nanos {
        self.dice = self
            .dice
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        // 0 says that no sample has found user mode yet.
        let rare = match u64::from(self.user_share) {
            0 => u32::MAX,
            share => u32::try_from(share.min(ONE.saturating_sub(share))).unwrap_or(0),
        };
        let doublings = RARE.iter().filter(|&&most| rare <= most).count();
        Nanos((INTERVAL / 2 + u64::from(self.dice >> 12)) << doublings)
    }

    /// Shares out what no sample has claimed.
    pub(super) fn settle(&mut self) {
        let pending = core::mem::take(&mut self.pending);
        let user = u128::from(pending.0) * u128::from(self.user_share) / u128::from(ONE);
        let user = Nanos(u64::try_from(user).unwrap_or(pending.0));
        self.user += user;
        self.kernel += pending.since(user);
    }

    /// How long the guest was at `level`, as far as it is settled.
    pub(super) const fn time(&self, level: Level) -> Nanos {
        match level {
            Level::User => self.user,
            Level::Kernel => self.kernel,
        }
    }

    pub(super) const fn memory(&self) -> LevelMemory {
        LevelMemory {
            user_share: self.user_share,
            next: self.next,
            dice: self.dice,
        }
    }

    /// Goes on from what others have seen.
    pub(super) const fn remember(&mut self, memory: LevelMemory) {
        let LevelMemory {
            user_share,
            next,
            dice,
        } = memory;
        (self.user_share, self.next, self.dice) = (user_share, next, dice);
    }

    /// Guest time to the next sample.
    pub(super) const fn next(&self) -> Nanos {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that is in user mode for `user` of each 100 us.
    fn share(user: u64) -> f64 {
        let (mut clocks, mut now) = (LevelClocks::new(), 0);
        for _ in 0..5_000 {
            let next = clocks.next().0;
            clocks.ran(Nanos(next));
            now += next;
            let level = if now % 100_000 < user * 1_000 {
                Level::User
            } else {
                Level::Kernel
            };
            clocks.sample(level);
        }
        assert_eq!(
            clocks.user.0 + clocks.kernel.0,
            now,
            "each ns has one level"
        );
        clocks.user.0 as f64 / now as f64
    }

    #[test]
    fn each_level_has_the_time_that_the_guest_spent_there() {
        assert!(share(100) > 0.999_999);
        assert!(share(0) < 0.000_001);
        for user in [10, 50, 90] {
            let share = share(user) * 100.0;
            assert!((share - user as f64).abs() < 3.0, "{user}: {share}");
        }
    }

    #[test]
    fn what_is_read_between_samples_is_shared_as_the_samples_were() {
        let mut clocks = LevelClocks::new();
        clocks.ran(Nanos(1_000));
        clocks.settle();
        assert_eq!(clocks.time(Level::Kernel), Nanos(1_000), "no sample yet");
        for _ in 0..100 {
            clocks.ran(Nanos(1_000));
            clocks.sample(Level::User);
        }
        clocks.ran(Nanos(1_000));
        clocks.settle();
        assert_eq!(clocks.time(Level::User), Nanos(101_000));
    }

    /// Guest time of 1,000 samples, the levels of which are given in turns.
    fn sampled(clocks: &mut LevelClocks, levels: [Level; 2]) -> u64 {
        let one = |level: &Level| {
            clocks.sample(*level);
            clocks.next().0
        };
        levels.iter().cycle().take(1_000).map(one).sum()
    }

    #[test]
    fn samples_come_once_a_millisecond_and_less_often_while_they_agree() {
        let mut clocks = LevelClocks::new();
        let sum = sampled(&mut clocks, [Level::User, Level::Kernel]);
        assert!(sum.abs_diff(1_000 * INTERVAL) < 50 * INTERVAL, "{sum}");
        for (one, other) in [(Level::User, Level::Kernel), (Level::Kernel, Level::User)] {
            sampled(&mut clocks, [one; 2]);
            let sum = sampled(&mut clocks, [one; 2]);
            assert!(sum.abs_diff(8_000 * INTERVAL) < 400 * INTERVAL, "{sum}");
            assert!(clocks.memory().is_possible());
            clocks.sample(other);
            assert!(clocks.next().0 < 2 * INTERVAL, "at once");
        }
    }
}
