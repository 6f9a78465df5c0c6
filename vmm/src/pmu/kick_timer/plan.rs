//! When the timer is to fire, and whether it has to be told.

use vpmu::units::Nanos;

/// Where a counter is on, the timer fires again by itself after so long: as often as
/// `vpmu` looks at running events, so that a look needs no call of the host.
pub(super) const REPEAT: Nanos = Nanos(100_000_000);
/// The longest that an idle vCPU is left alone while a counter is due.
const LONGEST_IDLE: Nanos = Nanos(10_000_000);

/// What to do about the timer before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerCall {
    /// It fires soon enough, or is not needed and left to fire.
    Keep,
    /// It is to fire after so long, and from then on by itself after each [`REPEAT`] if it
    /// `repeats`.
    Arm { span: Nanos, repeats: bool },
    /// It would go on for nobody.
    Disarm,
}

/// What the timer is armed for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    armed: Option<Armed>,
    fired: bool,
    /// It was not armed for something that is further away than [`REPEAT`].
    skipped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    /// The guest time of the overflow that it is for.
    due: Nanos,
    /// Guest time when it was armed.
    at: Nanos,
    /// How long it was armed for.
    span: Nanos,
    /// It fires when the guest comes to this time, at the latest.
    fires_by: Nanos,
    repeats: bool,
}

impl Plan {
    /// The guest was interrupted: the timer may have fired.
    pub(super) const fn interrupted(&mut self) {
        self.fired = true;
    }

    /// What to do at guest time `now` for an exit that is due when the guest has run for
    /// `left`; none: nothing is due. A timer that is no longer needed is left to fire: one
    /// exit costs less than a call on every stop.
    pub(super) fn next(&mut self, now: Nanos, left: Option<Nanos>, repeats: bool) -> TimerCall {
        let fired = std::mem::take(&mut self.fired);
        let Some(left) = left else {
            let gone = if fired { self.armed.take() } else { None };
            return match gone {
                Some(armed) if armed.repeats => TimerCall::Disarm,
                _ => TimerCall::Keep,
            };
        };
        let due = now + left;
        if self.is_kept(now, due, fired, repeats) {
            return TimerCall::Keep;
        }
        let span = match self.armed {
            Some(armed) if armed.due == due && fired => left.max(armed.after_idling(now)),
            _ => left,
        };
        self.skipped = false;
        self.armed = Some(Armed {
            due,
            at: now,
            span,
            fires_by: now + span,
            repeats,
        });
        TimerCall::Arm { span, repeats }
    }

    /// Whether the timer fires early enough as it is.
    ///
    /// Right behind an interruption, what is far away is left to the timer's next turn
    /// once: what comes next is most often the guest's handler, with something nearer.
    fn is_kept(&mut self, now: Nanos, due: Nanos, fired: bool, repeats: bool) -> bool {
        let Some(armed) = &mut self.armed else {
            return false;
        };
        if !fired {
            return armed.due == due;
        }
        if !(armed.repeats && repeats) {
            return false;
        }
        // Whether it was this timer that interrupted the guest is not known.
        armed.fires_by = armed.fires_by.max(now + REPEAT);
        let is_far = due > now + REPEAT;
        if due < armed.fires_by || is_far && self.skipped {
            return false;
        }
        self.skipped = is_far;
        armed.due = due;
        true
    }
}

impl Armed {
    /// How long to leave the vCPU alone if it hardly ran since the timer was
    /// armed: twice as long as the last time. So the lateness of an overflow
    /// after idling is never longer than the idling was.
    fn after_idling(self, now: Nanos) -> Nanos {
        let ran = now.since(self.at);
        if ran.0 < self.span.0 / 4 {
            Nanos(self.span.0 * 2).min(LONGEST_IDLE)
        } else {
            Nanos(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn armed_for(span: u64) -> TimerCall {
        TimerCall::Arm {
            span: Nanos(span),
            repeats: true,
        }
    }

    fn next(plan: &mut Plan, now: u64, left: u64) -> TimerCall {
        plan.next(Nanos(now), Some(Nanos(left)), true)
    }

    #[test]
    fn exits_before_the_overflow_leave_the_timer_alone() {
        let mut plan = Plan::default();
        assert_eq!(next(&mut plan, 0, MILLISECOND), armed_for(MILLISECOND));
        assert_eq!(next(&mut plan, 400_000, 600_000), TimerCall::Keep);
        assert_eq!(
            next(&mut plan, 500_000, 100),
            armed_for(100),
            "another period"
        );
    }

    #[test]
    fn a_timer_that_fired_early_is_armed_for_the_rest() {
        let mut plan = Plan::default();
        assert_eq!(next(&mut plan, 0, MILLISECOND), armed_for(MILLISECOND));
        plan.fired = true;
        assert_eq!(next(&mut plan, 900_000, 100_000), armed_for(100_000));
    }

    #[test]
    fn an_idle_vcpu_is_woken_less_and_less_often() {
        let mut plan = Plan::default();
        assert_eq!(next(&mut plan, 0, 250_000), armed_for(250_000));
        for span in [
            500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10_000_000, 10_000_000,
        ] {
            plan.fired = true;
            assert_eq!(next(&mut plan, 0, 250_000), armed_for(span));
        }
    }

    /// A sampling guest: the timer fires, the PMI is delivered with nothing near, and the
    /// handler starts the next period.
    #[test]
    fn a_period_arms_the_timer_once() {
        for far in [REPEAT.0, 1 << 48] {
            let (mut plan, mut now) = (Plan::default(), 0);
            assert_eq!(next(&mut plan, now, MILLISECOND), armed_for(MILLISECOND));
            for _ in 0..300 {
                now += MILLISECOND;
                plan.fired = true;
                assert_eq!(next(&mut plan, now, far), TimerCall::Keep);
                assert_eq!(next(&mut plan, now + 10, far - 10), TimerCall::Keep);
                now += 20;
                assert_eq!(next(&mut plan, now, MILLISECOND), armed_for(MILLISECOND));
            }
        }
    }

    #[test]
    fn looks_and_the_hosts_signals_need_no_call() {
        let (mut plan, mut now) = (Plan::default(), 0);
        assert_eq!(next(&mut plan, now, REPEAT.0), armed_for(REPEAT.0));
        for span in [REPEAT.0, 1000, REPEAT.0 - 1000, 30 * MILLISECOND, REPEAT.0] {
            assert_eq!(next(&mut plan, now, REPEAT.0), TimerCall::Keep);
            now += span;
            plan.fired = true;
            assert_eq!(next(&mut plan, now, REPEAT.0), TimerCall::Keep);
        }
        // Somebody interrupts a guest whose timer is armed for much later.
        assert_eq!(next(&mut plan, now + 1, 1 << 40), armed_for(1 << 40));
        plan.fired = true;
        assert_eq!(next(&mut plan, now + 2, REPEAT.0), armed_for(REPEAT.0));
    }

    /// A guest whose handler does not come, or does not start the counter.
    #[test]
    fn what_is_far_away_gets_its_own_timer_in_the_end() {
        let mut plan = Plan::default();
        assert_eq!(next(&mut plan, 0, MILLISECOND), armed_for(MILLISECOND));
        let (due, mut now) = (1 << 40, MILLISECOND);
        plan.fired = true;
        assert_eq!(next(&mut plan, now, due - now), TimerCall::Keep);
        now += REPEAT.0;
        plan.fired = true;
        assert_eq!(next(&mut plan, now, due - now), armed_for(due - now));
        // Which begins later than the next turn of the timer.
        assert_eq!(
            next(&mut plan, now + 1, REPEAT.0 * 3),
            armed_for(REPEAT.0 * 3)
        );
    }

    #[test]
    fn a_guest_without_a_counter_is_left_alone() {
        let mut plan = Plan::default();
        assert_eq!(next(&mut plan, 0, MILLISECOND), armed_for(MILLISECOND));
        assert_eq!(plan.next(Nanos(10), None, false), TimerCall::Keep);
        plan.fired = true;
        assert_eq!(plan.next(Nanos(10), None, false), TimerCall::Disarm);
        plan.fired = true;
        assert_eq!(plan.next(Nanos(10), None, false), TimerCall::Keep);
        assert_eq!(
            next(&mut plan, 10, 5),
            armed_for(5),
            "what it was for is over"
        );
        // The time for which its events stay open: once.
        let linger = Nanos(1_000_000_000);
        let once = TimerCall::Arm {
            span: linger,
            repeats: false,
        };
        plan.fired = true;
        assert_eq!(plan.next(Nanos(10), Some(linger), false), once);
        plan.fired = true;
        assert_eq!(plan.next(Nanos(10), None, false), TimerCall::Keep);
        assert_eq!(plan.next(Nanos(10), Some(linger), false), once, "it fired");
    }
}
