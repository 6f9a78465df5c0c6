//! What is known of the rates of events that a guest counts now and then.
//!
//! A guest that shares its counters among more events stops and starts them every few
//! milliseconds. Where the host has fewer counters than the guest was told of, an event
//! may be stopped before it had a turn on the host. What it counted lately then stands
//! for what it would have counted: the rate of the same event, in the same privilege
//! levels, on this vCPU.
//!
//! ```text
//!  a counter's event is closed: count, times ─▶ Rates ─▶ Prior of the event when it is opened next
//! ```

use crate::host::HostEvent;
use crate::times::Rate;
use crate::units::Nanos;

/// Only so much of the past, in time that an event ran, says anything of the present.
const HORIZON: Nanos = Nanos(8_000_000);
/// So much of it is worth as much as what an event counts now.
const WEIGHT: Nanos = Nanos(50_000);
/// After so much guest time nothing of an event's past is of use.
const STALE: Nanos = Nanos(200_000_000);
/// More events than a guest's kernel has in turns of its own, as a rule; the one that was
/// longest away makes room.
const KNOWN: usize = 24;

/// What is known of an event when it is opened again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prior {
    /// What it counted lately.
    pub(super) rate: Rate,
    /// Time that the guest wanted it before, for which there was no rate.
    pub(super) owed: Nanos,
    /// Events that the guest got before and that were not there: estimates that were too
    /// high. The next estimates are lower by them.
    pub(super) debt: u64,
}

/// One event, as it was when it was closed.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    event: HostEvent,
    at: Nanos,
    prior: Prior,
}

/// The events of one vCPU.
#[derive(Clone, Debug)]
pub(super) struct Rates([Option<Remembered>; KNOWN]);

impl Rates {
    pub(super) const NONE: Self = Self([None; KNOWN]);

    /// What is known of `event` at `now`.
    pub(super) fn of(&self, event: &HostEvent, now: Nanos) -> Prior {
        let is_it = |known: &&Remembered| known.event == *event && now.since(known.at) <= STALE;
        let known = self.0.iter().flatten().find(is_it);
        known.map_or(Prior::default(), |known| Prior {
            rate: known.prior.rate.within(WEIGHT),
            ..known.prior
        })
    }

    /// `event` is closed at `now`, and leaves `legacy`.
    pub(super) fn note(&mut self, event: HostEvent, now: Nanos, legacy: Prior) {
        let place = self.place(&event, now);
        let before = place.map_or(Rate::NONE, |known| known.prior.rate);
        let last = legacy.rate.within(HORIZON);
        let prior = Prior {
            rate: last.and(before.within(HORIZON.since(last.time))),
            ..legacy
        };
        *place = Some(Remembered {
            event,
            at: now,
            prior,
        });
    }

    /// Where the event is, or else the place that it takes, emptied.
    fn place(&mut self, event: &HostEvent, now: Nanos) -> &mut Option<Remembered> {
        let age =
            |place: &Option<Remembered>| place.map_or(u64::MAX, |known| now.since(known.at).0);
        let is_it = |place: &Option<Remembered>| place.is_some_and(|known| known.event == *event);
        let found = self.0.iter().position(is_it);
        let oldest = self
            .0
            .iter()
            .enumerate()
            .max_by_key(|(_, place)| age(place));
        let number = found.unwrap_or(oldest.map_or(0, |(number, _)| number));
        let place = &mut self.0[number];
        if found.is_none() || age(place) > STALE.0 {
            *place = None;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Privilege;
    use crate::x86::event::RawEvent;

    const MS: u64 = 1_000_000;

    fn event(code: u64) -> HostEvent {
        HostEvent {
            code: RawEvent::of_event_sel(code).into(),
            privilege: Privilege {
                user: true,
                kernel: true,
            },
        }
    }

    /// What an event leaves that counted `count` in `time`.
    fn counted(count: u64, time: u64) -> Prior {
        Prior {
            rate: Rate {
                count,
                time: Nanos(time),
            },
            ..Prior::default()
        }
    }

    #[test]
    fn the_last_milliseconds_make_the_rate_and_long_ago_is_no_rate() {
        let mut rates = Rates::NONE;
        let now = Nanos(MS);
        rates.note(event(1), now, counted(1_000_000, 100 * MS));
        let indebted = Prior {
            debt: 7,
            ..counted(300, 4 * MS)
        };
        rates.note(event(1), now, indebted);
        // Half of what is remembered is the last 4 ms, and a fraction of a millisecond of it counts.
        let known = rates.of(&event(1), now);
        let rate = Rate {
            count: (300 + 40_000) / 160,
            time: WEIGHT,
        };
        assert_eq!((known.rate, known.debt), (rate, 7));
        assert_eq!(rates.of(&event(2), now), Prior::default());
        let later = now + STALE + Nanos(1);
        assert_eq!(rates.of(&event(1), later), Prior::default());
    }

    #[test]
    fn an_event_without_a_turn_keeps_its_rate_and_is_owed_its_time() {
        let mut rates = Rates::NONE;
        let now = Nanos(MS);
        let waited = |owed| Prior {
            owed: Nanos(owed),
            ..Prior::default()
        };
        rates.note(event(1), now, waited(4 * MS));
        assert_eq!(rates.of(&event(1), now), waited(4 * MS));
        rates.note(event(1), now, counted(50, MS));
        rates.note(event(1), now, waited(0));
        let known = rates.of(&event(1), now);
        assert!(known.rate.is_known());
        assert_eq!(known.owed, Nanos(0));
    }

    #[test]
    fn the_event_that_was_away_the_longest_makes_room() {
        let mut rates = Rates::NONE;
        for code in 0..KNOWN as u64 + 1 {
            rates.note(event(code), Nanos(MS + code), counted(5, MS));
        }
        let now = Nanos(MS + 100);
        assert!(!rates.of(&event(0), now).rate.is_known());
        for code in 1..KNOWN as u64 + 1 {
            assert!(rates.of(&event(code), now).rate.is_known(), "{code}");
        }
    }
}
