//! How long the guest ran.

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

    /// It has left: how long it ran, if [`GuestClock::enter`] was called.
    pub(super) fn leave(&mut self) -> Option<Nanos> {
        let inside = (self.clock)().since(self.entered.take()?);
        let span = inside.since(self.entry_cost);
        self.guest_time += span;
        Some(span)
    }
}
