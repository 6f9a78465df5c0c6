//! A host PMU derived from a clock, for hosts without a PMU.
//!
//! Cycles and reference cycles are guest time at the TSC's frequency; no other
//! event is supported. A clock cannot see the privilege level, so user and
//! kernel filters are not applied: [`EventAttr::privilege`] is ignored.

use crate::ids::Pmc;
use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet};

use super::pmu::{EventAttr, HostEventId, HostPmu, NoCounter, OpenError, ReadError};

/// A clock rate in kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Khz(pub u32);

impl Khz {
    const NANOS_PER_TICK_AT_1KHZ: u128 = 1_000_000;

    /// Ticks in `span`, rounded down.
    fn ticks(self, span: Nanos) -> Count {
        let ticks = u128::from(span.0) * u128::from(self.0) / Self::NANOS_PER_TICK_AT_1KHZ;
        Count(u64::try_from(ticks).unwrap_or(u64::MAX))
    }

    /// The shortest span that has `ticks`; the longest there is if none has.
    fn span(self, ticks: Count) -> Nanos {
        let nanos = (u128::from(ticks.0) * Self::NANOS_PER_TICK_AT_1KHZ)
            .div_ceil(u128::from(self.0.max(1)));
        Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Event {
    /// Guest time that this event has counted in earlier runs.
    ran: Nanos,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    since: Nanos,
    /// The guest time, in `ran`'s terms, at which the next overflow is due.
    due: Nanos,
}

/// The clock-derived PMU of one vCPU.
#[derive(Debug)]
pub struct SoftwarePmu {
    rate: Khz,
    /// Guest time so far, as told by [`HostPmu::guest_ran`].
    now: Nanos,
    events: [Option<Event>; Pmc::SLOTS],
}

impl SoftwarePmu {
    /// The events that a clock can stand for.
    pub const SUPPORTED: ArchEventSet = ArchEventSet::EMPTY
        .with(ArchEvent::Cycles)
        .with(ArchEvent::RefTsc);

    /// A PMU whose cycles tick at `rate`: the guest's TSC frequency.
    #[must_use]
    pub const fn new(rate: Khz) -> Self {
        Self {
            rate,
            now: Nanos(0),
            events: [None; Pmc::SLOTS],
        }
    }

    fn event(&mut self, id: HostEventId) -> Option<&mut Event> {
        self.events.get_mut(id.0)?.as_mut()
    }

    fn ran(&self, event: &Event) -> Nanos {
        event.ran + event.running.map_or(Nanos(0), |r| self.now.since(r.since))
    }
}

impl HostPmu for SoftwarePmu {
    fn supported(&self) -> ArchEventSet {
        Self::SUPPORTED
    }

    fn open(&mut self, id: HostEventId, attr: &EventAttr) -> Result<(), OpenError> {
        if !Self::SUPPORTED.contains(attr.event) {
            return Err(OpenError::Unsupported);
        }
        let slot = self.events.get_mut(id.0).ok_or(OpenError::Unsupported)?;
        *slot = Some(Event::default());
        Ok(())
    }

    fn close(&mut self, id: HostEventId) {
        if let Some(slot) = self.events.get_mut(id.0) {
            *slot = None;
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        let (rate, now) = (self.rate, self.now);
        let event = self.event(id).ok_or(NoCounter)?;
        if let Some(running) = event.running {
            event.ran += now.since(running.since);
        }
        // From the count as it will be read, so that rounding adds up.
        let target = Count(rate.ticks(event.ran).0.saturating_add(left.0));
        event.running = Some(Running {
            since: now,
            due: rate.span(target),
        });
        Ok(())
    }

    fn stop(&mut self, id: HostEventId) {
        let now = self.now;
        if let Some(event) = self.event(id)
            && let Some(running) = event.running.take()
        {
            event.ran += now.since(running.since);
        }
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        let event = self
            .events
            .get(id.0)
            .copied()
            .flatten()
            .ok_or(ReadError::Lost)?;
        Ok(self.rate.ticks(self.ran(&event)))
    }

    fn guest_ran(&mut self, span: Nanos) {
        self.now += span;
    }

    fn wants_guest_time(&self) -> bool {
        self.events.iter().flatten().any(|e| e.running.is_some())
    }

    fn next_overflow(&self) -> Option<Nanos> {
        let left = |e: &Event| e.running.map(|r| r.due.since(self.ran(e)));
        self.events.iter().flatten().filter_map(left).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Privilege;

    const ID: HostEventId = HostEventId(0);

    fn pmu(rate: u32) -> SoftwarePmu {
        let mut pmu = SoftwarePmu::new(Khz(rate));
        let privilege = Privilege {
            user: true,
            kernel: true,
        };
        pmu.open(
            ID,
            &EventAttr {
                event: ArchEvent::Cycles,
                privilege,
            },
        )
        .unwrap();
        pmu
    }

    #[test]
    fn counts_guest_time_at_the_clock_rate_while_started() {
        let mut pmu = pmu(2_500_000);
        pmu.guest_ran(Nanos(1_000));
        assert_eq!(pmu.read(ID), Ok(Count(0)), "not before start");
        pmu.start(ID, Count(1 << 40)).unwrap();
        pmu.guest_ran(Nanos(1_000));
        assert_eq!(pmu.read(ID), Ok(Count(2_500)));
        pmu.stop(ID);
        pmu.guest_ran(Nanos(1_000));
        assert_eq!(pmu.read(ID), Ok(Count(2_500)), "stopped (G-103)");
        assert!(!pmu.wants_guest_time());
    }

    #[test]
    fn the_count_has_reached_the_distance_when_the_overflow_is_due() {
        for rate in [1, 333_333, 999_999, 1_000_000, 2_999_999] {
            let mut pmu = pmu(rate);
            pmu.guest_ran(Nanos(7));
            pmu.start(ID, Count(1_000)).unwrap();
            pmu.guest_ran(Nanos(3));
            let due = pmu.next_overflow().unwrap();
            pmu.guest_ran(Nanos(due.0 - 1));
            assert!(pmu.read(ID).unwrap() < Count(1_000), "{rate} kHz");
            pmu.guest_ran(Nanos(1));
            assert!(pmu.read(ID).unwrap() >= Count(1_000), "{rate} kHz");
            assert_eq!(pmu.next_overflow(), Some(Nanos(0)));
            pmu.start(ID, Count(500)).unwrap();
            pmu.guest_ran(pmu.next_overflow().unwrap());
            assert!(pmu.read(ID).unwrap() >= Count(1_500), "{rate} kHz");
        }
    }

    #[test]
    fn what_a_clock_cannot_see_is_refused() {
        let mut pmu = pmu(1_000_000);
        let privilege = Privilege {
            user: true,
            kernel: true,
        };
        for event in ArchEvent::ALL {
            let backed = pmu
                .open(HostEventId(1), &EventAttr { event, privilege })
                .is_ok();
            assert_eq!(
                backed,
                matches!(event, ArchEvent::Cycles | ArchEvent::RefTsc)
            );
        }
    }

    #[test]
    fn the_longest_period_does_not_overflow() {
        let mut pmu = pmu(1);
        pmu.start(ID, Count(u64::MAX)).unwrap();
        assert_eq!(pmu.next_overflow(), Some(Nanos(u64::MAX)));
    }
}
