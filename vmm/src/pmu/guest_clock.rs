//! Guest time: how long a vCPU ran in the guest. No other module computes it.

use vpmu::units::Nanos;

use crate::sys::clock::Clock;

/// How much of the thread's time the guest had: from entry to exit, less what
/// entering and leaving take.
#[derive(Debug)]
pub(super) struct GuestClock {
    clock: Clock,
    entry_cost: Nanos,
    guest_time: Nanos,
    entered: Option<Nanos>,
}

impl GuestClock {
    pub(super) const fn new(clock: Clock, entry_cost: Nanos) -> Self {
        Self {
            clock,
            entry_cost,
            guest_time: Nanos(0),
            entered: None,
        }
    }

    /// Guest time so far.
    pub(super) const fn guest_time(&self) -> Nanos {
        self.guest_time
    }

    /// The guest is about to run.
    pub(super) fn enter(&mut self) {
        self.entered = Some((self.clock)());
    }

    /// The guest has left. Returns how long it ran since [`GuestClock::enter`]; 0
    /// without it.
    pub(super) fn leave(&mut self) -> Nanos {
        let Some(entered) = self.entered.take() else {
            return Nanos(0);
        };
        let inside = (self.clock)().since(entered);
        let span = inside.since(self.entry_cost);
        self.guest_time += span;
        span
    }
}
