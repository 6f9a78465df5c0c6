//! A host PMU derived from a clock, for hosts without a PMU.
//!
//! Cycles and reference cycles are guest time at the TSC's frequency; no other
//! event is supported. An event that counts at one privilege level has the
//! part of guest time that samples give to that level, which needs an exit a
//! millisecond of guest time while one runs, and fewer while the guest stays at one
//! level.

use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet};

use super::level::{LevelClocks, LevelMemory};
use super::pmu::{
    EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, Level, NoCounter, Privilege,
    Quality, ReadError,
};

/// A clock rate in kHz.
///
/// # Examples
/// ```
/// use vpmu::host::software::{Khz, SoftwarePmu};
///
/// // What a guest's `cycles` are on a TSC of 2.1 GHz.
/// let host = SoftwarePmu::new(Khz(2_100_000));
/// # drop(host);
/// ```
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

/// Whose time an event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// All guest time: exact.
    Guest,
    /// The time at one level: sampled.
    Level(Level),
}

impl Whose {
    const fn of(privilege: Privilege) -> Self {
        match (privilege.user, privilege.kernel) {
            (true, false) => Self::Level(Level::User),
            (false, true) => Self::Level(Level::Kernel),
            _ => Self::Guest,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct ClockEvent {
    whose: Whose,
    /// Time that this event has counted in earlier runs.
    ran: Nanos,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    since: Nanos,
    /// The time, in `ran`'s terms, at which the next overflow is due.
    due: Nanos,
}

/// The clock-derived PMU of one vCPU.
///
/// # Examples
/// ```
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::host::{HostEvent, HostEventId, HostPmu, Privilege};
/// use vpmu::ids::Pmc;
/// use vpmu::units::{Count, Nanos};
/// use vpmu::x86::event::ArchEvent;
///
/// let mut host = SoftwarePmu::new(Khz(2_000_000));
/// let gp0 = HostEventId::from(Pmc::gp(0).unwrap());
/// let everywhere = Privilege { user: true, kernel: true };
/// let cycles = HostEvent { code: ArchEvent::Cycles.into(), privilege: everywhere };
/// host.open(gp0, &cycles).unwrap();
/// host.start(gp0, Count(1_000_000)).unwrap();
/// host.guest_ran(Nanos(500));
/// assert_eq!(host.read(gp0), Ok(Count(1_000)));
/// ```
#[derive(Debug)]
pub struct SoftwarePmu {
    rate: Khz,
    /// Guest time so far, as told by [`HostPmu::guest_ran`].
    now: Nanos,
    levels: LevelClocks,
    /// Running events that count at one level.
    sampled: usize,
    events: [Option<ClockEvent>; HostEventId::COUNT],
    /// Those that run, as bits: each entry into the guest asks for the nearest overflow.
    running: u32,
}

const _: () = assert!(HostEventId::COUNT <= u32::BITS as usize);

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
            levels: LevelClocks::new(),
            sampled: 0,
            events: [None; HostEventId::COUNT],
            running: 0,
        }
    }

    /// The events that run.
    fn running(&self) -> impl Iterator<Item = (&ClockEvent, Running)> {
        let mut left = self.running;
        core::iter::from_fn(move || {
            let n = usize::try_from(left.trailing_zeros()).ok()?;
            left &= left.checked_sub(1)?;
            let event = self.events.get(n)?.as_ref()?;
            Some((event, event.running?))
        })
    }

    fn event(&self, id: HostEventId) -> Option<ClockEvent> {
        self.events.get(id.0).copied().flatten()
    }

    const fn time_of(&self, whose: Whose) -> Nanos {
        match whose {
            Whose::Guest => self.now,
            Whose::Level(level) => self.levels.time(level),
        }
    }

    fn ran(&self, event: &ClockEvent) -> Nanos {
        let since = |r: Running| self.time_of(event.whose).since(r.since);
        event.ran + event.running.map_or(Nanos(0), since)
    }

    /// Stops the event's run and returns what it has counted in all.
    fn end_run(&mut self, event: &mut ClockEvent) -> Nanos {
        if event.running.is_some() && event.whose != Whose::Guest {
            self.levels.settle();
            self.sampled -= 1;
        }
        event.ran = self.ran(event);
        event.running = None;
        event.ran
    }
}

impl HostPmu for SoftwarePmu {
    fn supported(&self) -> ArchEventSet {
        Self::SUPPORTED
    }

    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        match attr.code {
            EventCode::Architectural(event) if Self::SUPPORTED.contains(event) => {}
            _ => return Err(HostOpenError::Unsupported),
        }
        let slot = self
            .events
            .get_mut(id.0)
            .ok_or(HostOpenError::Unsupported)?;
        *slot = Some(ClockEvent {
            whose: Whose::of(attr.privilege),
            ran: Nanos(0),
            running: None,
        });
        Ok(())
    }

    fn close(&mut self, id: HostEventId) {
        self.stop(id);
        if let Some(slot) = self.events.get_mut(id.0) {
            *slot = None;
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        let mut event = self.event(id).ok_or(NoCounter)?;
        let ran = self.end_run(&mut event);
        if event.whose != Whose::Guest {
            // Only what comes from now on is this run's.
            self.levels.settle();
            self.sampled += 1;
        }
        // From the count as it will be read, so that rounding adds up.
        let target = Count(self.rate.ticks(ran).0.saturating_add(left.0));
        event.running = Some(Running {
            since: self.time_of(event.whose),
            due: self.rate.span(target),
        });
        self.events[id.0] = Some(event);
        self.running |= 1 << id.0;
        Ok(())
    }

    fn stop(&mut self, id: HostEventId) {
        if let Some(mut event) = self.event(id) {
            self.end_run(&mut event);
            self.running &= !(1 << id.0);
            self.events[id.0] = Some(event);
        }
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        let event = self.event(id).ok_or(ReadError::Lost)?;
        if event.running.is_some() && event.whose != Whose::Guest {
            self.levels.settle();
        }
        Ok(self.rate.ticks(self.ran(&event)))
    }

    fn guest_ran(&mut self, span: Nanos) {
        self.now += span;
        if self.sampled > 0 {
            self.levels.ran(span);
        }
    }

    fn wants_level(&self) -> bool {
        self.sampled > 0
    }

    fn guest_was_at(&mut self, level: Level) {
        if self.sampled > 0 {
            self.levels.sample(level);
        }
    }

    fn level_memory(&self) -> Option<LevelMemory> {
        Some(self.levels.memory())
    }

    fn set_level_memory(&mut self, memory: LevelMemory) {
        self.levels.remember(memory);
    }

    fn next_exit(&self) -> Option<Nanos> {
        // A level's clock is never faster than the guest's: an exit may be early.
        let left = |(event, running): (&ClockEvent, Running)| running.due.since(self.ran(event));
        let overflow = self.running().map(left).min();
        let sample = (self.sampled > 0).then(|| self.levels.next());
        overflow.into_iter().chain(sample).min()
    }

    fn quality(&self, attr: &HostEvent) -> Quality {
        match Whose::of(attr.privilege) {
            Whose::Guest => Quality::Clock,
            Whose::Level(_) => Quality::SampledClock,
        }
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
            &HostEvent {
                code: ArchEvent::Cycles.into(),
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
        assert_eq!(pmu.next_exit(), None);
    }

    #[test]
    fn the_count_has_reached_the_distance_when_the_overflow_is_due() {
        for rate in [1, 333_333, 999_999, 1_000_000, 2_999_999] {
            let mut pmu = pmu(rate);
            pmu.guest_ran(Nanos(7));
            pmu.start(ID, Count(1_000)).unwrap();
            pmu.guest_ran(Nanos(3));
            let due = pmu.next_exit().unwrap();
            pmu.guest_ran(Nanos(due.0 - 1));
            assert!(pmu.read(ID).unwrap() < Count(1_000), "{rate} kHz");
            pmu.guest_ran(Nanos(1));
            assert!(pmu.read(ID).unwrap() >= Count(1_000), "{rate} kHz");
            assert_eq!(pmu.next_exit(), Some(Nanos(0)));
            pmu.start(ID, Count(500)).unwrap();
            pmu.guest_ran(pmu.next_exit().unwrap());
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
                .open(
                    HostEventId(1),
                    &HostEvent {
                        code: event.into(),
                        privilege,
                    },
                )
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
        assert_eq!(pmu.next_exit(), Some(Nanos(u64::MAX)));
    }

    #[test]
    fn an_event_of_one_level_has_the_time_that_samples_give_it() {
        let mut pmu = pmu(1_000_000);
        let (user, kernel) = (HostEventId(1), HostEventId(2));
        for (id, is_user) in [(user, true), (kernel, false)] {
            let privilege = Privilege {
                user: is_user,
                kernel: !is_user,
            };
            let event = ArchEvent::Cycles.into();
            pmu.open(
                id,
                &HostEvent {
                    code: event,
                    privilege,
                },
            )
            .unwrap();
            assert!(!pmu.wants_level(), "no exits for an event that is stopped");
        }
        for id in [ID, user, kernel] {
            pmu.start(id, Count(1 << 40)).unwrap();
        }
        for level in [Level::User, Level::User, Level::Kernel, Level::User] {
            assert!(pmu.next_exit().unwrap() <= Nanos(1_600_000));
            pmu.guest_ran(Nanos(1_000));
            pmu.guest_was_at(level);
        }
        let read = |pmu: &mut SoftwarePmu, id| pmu.read(id).unwrap();
        assert_eq!(read(&mut pmu, ID), Count(4_000));
        assert_eq!(read(&mut pmu, user), Count(3_000));
        assert_eq!(read(&mut pmu, kernel), Count(1_000));
        pmu.guest_ran(Nanos(1_000));
        let (u, k) = (read(&mut pmu, user), read(&mut pmu, kernel));
        assert_eq!(u.0 + k.0, 5_000, "no time is lost between samples");
        for id in [user, kernel] {
            pmu.stop(id);
        }
        pmu.guest_ran(Nanos(1_000));
        assert_eq!((read(&mut pmu, user), read(&mut pmu, kernel)), (u, k));
        assert!(!pmu.wants_level());
    }
}
