//! The time for which the host events of an idle guest stay open. An exit that neither the
//! guest nor that time causes does not shorten it: a message of `perfvisor ctl`, or a timer
//! that is no longer needed. Closed and opened again, an event has no past, and the guest
//! gets no estimate until it has its first turn.

use std::time::{Duration, Instant};

use vpmu::EntryWants;
use vpmu::units::Nanos;

/// The deadline of an entry with no counter on, in real time.
#[derive(Debug, Default)]
pub(super) struct Linger {
    until: Option<(Nanos, Instant)>,
}

impl Linger {
    /// Before an entry with these wants; `now` is asked at the first of several alike.
    pub(super) fn before_entry(&mut self, wants: &EntryWants, now: impl FnOnce() -> Instant) {
        self.until = match (wants.deadline.filter(|_| !wants.guest_time), self.until) {
            (None, _) => None,
            (Some(span), Some((before, at))) if span == before => Some((before, at)),
            (Some(span), _) => Some((span, now() + Duration::from_nanos(span.0))),
        };
    }

    /// Whether an interruption is one for the PMU: it has counters on, or its time is over.
    pub(super) fn is_over(&self, now: impl FnOnce() -> Instant) -> bool {
        self.until.is_none_or(|(_, at)| now() >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos(1_000_000_000);

    fn wants(deadline: Option<Nanos>, guest_time: bool) -> EntryWants {
        EntryWants {
            deadline,
            guest_time,
            ..EntryWants::default()
        }
    }

    /// `perfvisor ctl pmu` twice within a second closed the events of a guest that was just
    /// not counting.
    #[test]
    fn messages_do_not_shorten_it() {
        let start = Instant::now();
        let after = |ms| move || start + Duration::from_millis(ms);
        let mut linger = Linger::default();
        linger.before_entry(&wants(None, false), after(0));
        assert!(linger.is_over(after(0)), "the first begins it");
        let lingers = wants(Some(SECOND), false);
        for ms in [0, 100, 200, 999] {
            linger.before_entry(&lingers, after(ms));
            assert!(!linger.is_over(after(ms)), "{ms} ms");
        }
        linger.before_entry(&lingers, after(1000));
        assert!(linger.is_over(after(1000)));
    }

    #[test]
    fn a_counter_that_is_on_ends_it() {
        let start = Instant::now();
        let now = || start;
        let mut linger = Linger::default();
        linger.before_entry(&wants(Some(SECOND), false), now);
        linger.before_entry(&wants(Some(SECOND), true), now);
        assert!(linger.is_over(now), "every interruption is the PMU's");
        let later = || start + Duration::from_secs(5);
        linger.before_entry(&wants(Some(SECOND), false), later);
        assert!(!linger.is_over(later), "it begins anew");
        linger.before_entry(&wants(Some(Nanos(20_000)), false), later);
        let retried = || start + Duration::from_millis(5001);
        assert!(linger.is_over(retried), "a PMI that was postponed");
        linger.before_entry(&wants(Some(SECOND), false), retried);
        assert!(!linger.is_over(retried));
    }
}
