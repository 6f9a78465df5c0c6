//! How long turns on the host's counters are.
//!
//! Linux's four milliseconds are right for events that are wanted for long. A guest that
//! shares its counters among more events wants each for a few milliseconds at a time. Turns
//! of that length would leave some of them out altogether, and keep step with the guest's.
//! So turns get shorter with the time that the guest leaves its events on, and longer again
//! with it. Each turn costs an exit and some system calls: they are not shorter than
//! they must be.

use crate::times::Times;
use crate::units::Nanos;

/// Linux's own.
const LONGEST: Nanos = Nanos(4_000_000);
/// Two thousand turns a second take some 100 million instructions of the host (DESIGN.md).
const SHORTEST: Nanos = Nanos(500_000);
/// So many turns are to go into the time for which the guest leaves an event on.
const SHARES: u64 = 32;

/// The length of turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    length: Nanos,
    /// The source of unevenness; not 0.
    dice: u32,
}

impl Turns {
    pub(super) const fn new() -> Self {
        Self {
            length: LONGEST,
            dice: 0x9e37_79b9,
        }
    }

    /// How long a turn is.
    pub(super) const fn length(self) -> Nanos {
        self.length
    }

    /// How many of `events` that take turns are to be moved to the end, so that each has the
    /// first turn as often as any other.
    pub(super) fn first(&mut self, events: usize) -> usize {
        // Xorshift (Marsaglia 2003).
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 17;
        self.dice ^= self.dice << 5;
        let below = (u64::from(self.dice) * events as u64) >> 32;
        usize::try_from(below).unwrap_or(0)
    }

    /// The guest has another event for the counter of one that had these times. Says
    /// whether the length of turns is another one now.
    pub(super) fn ended(&mut self, times: Times) -> bool {
        if !times.is_scaled() {
            return false;
        }
        let before = self.length;
        let due = (times.enabled.0 / SHARES).clamp(SHORTEST.0, LONGEST.0);
        // Short at once, and long by and by: one long event among short ones says little.
        self.length = Nanos(due.min(before.0.saturating_mul(2)));
        self.length != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_time_that_the_guest_leaves_its_events_on() {
        let times = |enabled, running| Times {
            enabled: Nanos(enabled),
            running: Nanos(running),
        };
        let mut turns = Turns::new();
        assert!(
            !turns.ended(times(4_000_000, 4_000_000)),
            "it had a counter"
        );
        assert!(turns.ended(times(4_000_000, 0)));
        assert_eq!(turns.length(), SHORTEST);
        let mut lengths = [0; 3];
        for length in &mut lengths {
            turns.ended(times(1_000_000_000, 1));
            *length = turns.length().0;
        }
        assert_eq!(lengths, [1_000_000, 2_000_000, 4_000_000]);
        turns.ended(times(96_000_000, 1));
        assert_eq!(turns.length(), Nanos(3_000_000));
        let mut firsts = [0; 5];
        for _ in 0..5_000 {
            firsts[turns.first(5)] += 1;
        }
        assert!(
            firsts.iter().all(|n| (900..1_100).contains(n)),
            "{firsts:?}"
        );
    }
}
