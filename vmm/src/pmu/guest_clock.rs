//! Guest time: how long a vCPU ran in the guest. No other module computes it.

use vpmu::host::software::Khz;
use vpmu::units::Nanos;

use crate::sys::clock;
use crate::sys::thread_time::{ThreadTime, TickLength, ticks};

/// Which time passes while the guest runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum TimeSource {
    /// The host's.
    Host,
    /// The vCPU thread's own.
    Thread,
}

/// What a span is measured by.
#[derive(Debug)]
enum SpanClock {
    /// The TSC, if its rate is known, or the host's clock.
    Host(Option<TickLength>),
    Thread(ThreadTime),
}

impl SpanClock {
    fn of(source: TimeSource, tsc: Khz) -> Self {
        match source {
            TimeSource::Host => Self::Host(TickLength::of(tsc)),
            TimeSource::Thread => Self::Thread(ThreadTime::of_this_thread(tsc)),
        }
    }

    fn at_entry(&mut self) -> Nanos {
        match self {
            Self::Host(tsc) => host_time(*tsc),
            Self::Thread(time) => time.at_entry(),
        }
    }

    fn at_exit(&mut self) -> Nanos {
        match self {
            Self::Host(tsc) => host_time(*tsc),
            Self::Thread(time) => time.at_exit(),
        }
    }
}

fn host_time(tsc: Option<TickLength>) -> Nanos {
    tsc.map_or_else(clock::monotonic, |tsc| tsc.span(ticks()))
}

/// How much of that time the guest had: from entry to exit, less what entering and
/// leaving take.
#[derive(Debug)]
pub(super) struct GuestClock {
    clock: SpanClock,
    entry_cost: Nanos,
    guest_time: Nanos,
    entered: Option<Nanos>,
}

impl GuestClock {
    /// For a guest that runs on the calling thread, on a host whose TSC has the rate `tsc`.
    pub(super) fn new(source: TimeSource, tsc: Khz, entry_cost: Nanos) -> Self {
        Self {
            clock: SpanClock::of(source, tsc),
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
        self.entered = Some(self.clock.at_entry());
    }

    /// The guest has left. Returns how long it ran since [`GuestClock::enter`]; 0
    /// without it.
    pub(super) fn leave(&mut self) -> Nanos {
        let Some(entered) = self.entered.take() else {
            return Nanos(0);
        };
        let inside = self.clock.at_exit().since(entered);
        let span = inside.since(self.entry_cost);
        self.guest_time += span;
        span
    }
}
