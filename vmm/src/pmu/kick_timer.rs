//! A timer that replaces the overflow interrupt for clock-derived counters: it
//! forces an exit when a counter is about to overflow.
//!
//! A clock-derived counter overflows at a known *guest* time; the timer runs
//! in real time, which is never slower. So the timer may fire before the overflow is
//! due; it is then armed again for the rest.

mod plan;

use std::io;

use vpmu::units::Nanos;

use crate::kvm::Registers;
use crate::sys::timer::ThreadTimer;
use plan::{Plan, REPEAT, TimerCall};

/// What passes at the least between arming the timer and entering the guest: one
/// that is armed for less fires before the guest has moved.
const SLACK: Nanos = Nanos(2_000);
/// The most that is added for a guest that does not move: more than any entry takes, be
/// each system call traced.
const MOST_EXTRA: Nanos = Nanos(10_000_000);
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
        self.plan.interrupted();
        self.slack.interrupted(at);
    }

    /// The guest left by what it did.
    pub(super) fn exited(&mut self) {
        self.slack.exited();
    }

    /// Before an entry at guest time `now`, with the next thing to do `left` away, if there
    /// is any. `runs`: guest time passes.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn before_entry(
        &mut self,
        now: Nanos,
        left: Option<Nanos>,
        runs: bool,
    ) -> io::Result<()> {
        match self.plan.next(now, left, runs) {
            TimerCall::Keep => Ok(()),
            TimerCall::Disarm => self.timer.disarm(),
            TimerCall::Arm { span, repeats } => {
                let span = span + self.slack.armed();
                self.timer.arm(span, repeats.then_some(REPEAT))
            }
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
            let TimerCall::Arm { span, .. } = plan.next(now, Some(RETRY), true) else {
                panic!("what is near needs the timer");
            };
            let span = span + slack.armed();
            if span > ENTRY {
                registers.rip += 1;
                moves += 1;
            }
            plan.interrupted();
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
}
