//! A timer that replaces the overflow interrupt for clock-derived counters: it
//! forces an exit when a counter is about to overflow.
//!
//! A clock-derived counter overflows at a known *guest* time; the timer runs
//! in real time, which is never slower. So the timer may fire before the overflow is
//! due; it is then armed again for the rest.

use std::io;

use vpmu::units::Nanos;

use crate::kvm::Registers;
use crate::sys::timer::ThreadTimer;

/// What passes at the least between arming the timer and entering the guest: one
/// that is armed for less fires before the guest has moved.
const SLACK: Nanos = Nanos(5_000);
/// The most that is added for a guest that does not move: more than any entry takes, be
/// each system call traced.
const MOST_EXTRA: Nanos = Nanos(10_000_000);
/// The longest that an idle vCPU is left alone while a counter is due.
const LONGEST_IDLE: Nanos = Nanos(10_000_000);

/// The timer of one vCPU.
#[derive(Debug)]
pub(super) struct KickTimer {
    timer: ThreadTimer,
    plan: Plan,
    slack: Slack,
}

impl KickTimer {
    /// A disarmed timer that sends `signal` to the calling thread, whose entries
    /// into the guest take `entry_cost` by themselves.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn new(signal: i32, entry_cost: Nanos) -> io::Result<Self> {
        Ok(Self {
            timer: ThreadTimer::new(signal)?,
            plan: Plan::default(),
            slack: Slack::new(SLACK + entry_cost),
        })
    }

    /// The vCPU left the guest because it was interrupted, with these registers: the
    /// timer may have fired.
    pub(super) fn interrupted(&mut self, at: Option<Registers>) {
        self.plan.fired = true;
        self.slack.interrupted(at);
    }

    /// The guest left by what it did.
    pub(super) fn exited(&mut self) {
        self.slack.exited();
    }

    /// Before an entry at guest time `now`, with the next thing to do `left` away.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn before_entry(&mut self, now: Nanos, left: Nanos) -> io::Result<()> {
        match self.plan.next(now, left) {
            Some(span) => self.timer.arm(span + self.slack.armed()),
            None => Ok(()),
        }
    }
}

/// What is added to each span, so that the guest moves before the timer fires. How long
/// an entry takes is not known: a tracer, a debugger or a busy host can make it longer
/// than the span. Then each entry would end before the guest's first instruction, for
/// ever. So what is added doubles as long as the guest stands still.
#[derive(Debug)]
struct Slack {
    least: Nanos,
    extra: Nanos,
    is_armed: bool,
    /// Where the last interruption found the guest.
    at: Option<Registers>,
}

impl Slack {
    const fn new(least: Nanos) -> Self {
        Self {
            least,
            extra: Nanos(0),
            is_armed: false,
            at: None,
        }
    }

    /// The timer is armed: what to add.
    fn armed(&mut self) -> Nanos {
        self.is_armed = true;
        self.least + self.extra
    }

    fn interrupted(&mut self, at: Option<Registers>) {
        let was_armed = std::mem::take(&mut self.is_armed);
        let stands = at.is_some() && at == self.at;
        self.at = at;
        self.extra = match (stands, was_armed) {
            (true, true) => Nanos(self.extra.0 * 2).max(self.least).min(MOST_EXTRA),
            (true, false) => self.extra,
            (false, _) => Nanos(self.extra.0 / 2),
        };
    }

    fn exited(&mut self) {
        (self.extra, self.at) = (Nanos(0), None);
    }
}

/// The time at which to arm the timer, and its interval.
#[derive(Debug, Default)]
struct Plan {
    armed: Option<Armed>,
    fired: bool,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    /// The guest time of the overflow that it is for.
    due: Nanos,
    /// Guest time when it was armed.
    at: Nanos,
    /// How long it was armed for.
    span: Nanos,
}

impl Plan {
    /// The span to arm the timer for; `None` leaves it as it is. A timer that
    /// is no longer needed is left to fire: one exit costs less than a call on
    /// every stop.
    fn next(&mut self, now: Nanos, left: Nanos) -> Option<Nanos> {
        let fired = std::mem::take(&mut self.fired);
        let due = now + left;
        let span = match self.armed {
            Some(armed) if armed.due == due && !fired => return None,
            Some(armed) if armed.due == due => left.max(armed.after_idling(now)),
            _ => left,
        };
        self.armed = Some(Armed { due, at: now, span });
        Some(span)
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

    const STANDS: Option<Registers> = Some(Registers {
        rax: 0,
        rcx: 0,
        rdx: 0,
        rsp: 0,
        rip: 0x1000,
        rflags: 2,
    });

    /// A PMI that is tried again after 20 µs, where an entry takes 3 ms: the guest gets
    /// on.
    #[test]
    fn a_guest_gets_on_however_long_an_entry_takes() {
        const ENTRY: Nanos = Nanos(3_000_000);
        const RETRY: Nanos = Nanos(20_000);
        let (mut plan, mut slack) = (Plan::default(), Slack::new(SLACK));
        let mut registers = STANDS.unwrap();
        let mut moves = 0;
        for round in 0..100 {
            // What the clock shows has nothing to do with it.
            let now = Nanos(round * ENTRY.0);
            let span = plan.next(now, RETRY).unwrap() + slack.armed();
            if span > ENTRY {
                registers.rip += 1;
                moves += 1;
            }
            plan.fired = true;
            slack.interrupted(Some(registers));
        }
        assert!(moves > 30, "{moves}");
        slack.exited();
        assert_eq!(slack.armed(), SLACK);
    }

    #[test]
    fn a_guest_that_stands_is_given_a_bounded_time_and_one_that_moves_none() {
        let mut slack = Slack::new(SLACK);
        for _ in 0..100 {
            slack.armed();
            slack.interrupted(STANDS);
        }
        assert_eq!(slack.armed(), SLACK + MOST_EXTRA);
        let mut moving = STANDS.unwrap();
        for _ in 0..30 {
            moving.rip += 1;
            slack.interrupted(Some(moving));
            slack.armed();
        }
        assert_eq!(slack.extra, Nanos(0));
        for _ in 0..3 {
            slack.is_armed = false;
            slack.interrupted(STANDS);
        }
        assert_eq!(slack.extra, Nanos(0), "somebody else interrupts it");
    }

    fn armed_for(span: u64) -> Option<Nanos> {
        Some(Nanos(span))
    }

    #[test]
    fn exits_before_the_overflow_leave_the_timer_alone() {
        let mut plan = Plan::default();
        assert_eq!(plan.next(Nanos(0), Nanos(1_000_000)), armed_for(1_000_000));
        assert_eq!(plan.next(Nanos(400_000), Nanos(600_000)), None);
        assert_eq!(
            plan.next(Nanos(500_000), Nanos(100)),
            armed_for(100),
            "another period"
        );
    }

    #[test]
    fn a_timer_that_fired_early_is_armed_for_the_rest() {
        let mut plan = Plan::default();
        assert!(plan.next(Nanos(0), Nanos(1_000_000)).is_some());
        plan.fired = true;
        assert_eq!(
            plan.next(Nanos(900_000), Nanos(100_000)),
            armed_for(100_000)
        );
    }

    #[test]
    fn an_idle_vcpu_is_woken_less_and_less_often() {
        let mut plan = Plan::default();
        let left = Nanos(250_000);
        assert_eq!(plan.next(Nanos(0), left), armed_for(250_000));
        for span in [
            500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10_000_000, 10_000_000,
        ] {
            plan.fired = true;
            assert_eq!(plan.next(Nanos(0), left), armed_for(span));
        }
    }
}
