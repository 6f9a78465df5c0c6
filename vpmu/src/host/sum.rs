//! Several host PMUs as one: a hybrid host has a core PMU for each kind of its
//! CPUs, and a thread that roams is counted by the one of the CPU that it is on.

use alloc::vec::Vec;

use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet};

use super::level::LevelMemory;
use super::pmu::{
    EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, Level, NoCounter, Quality, ReadError,
};

/// Every event is on every part, and what the parts count is added up.
///
/// Each part gets the whole distance to the next overflow, as nobody knows
/// where the thread will be. A thread that changes between parts overflows when
/// the first part has counted the distance alone, which is late by less than
/// one distance for two parts; the count itself is exact, and whoever reads it
/// earlier finds the overflow there.
///
/// # Examples
/// ```
/// use vpmu::host::HostPmu;
/// use vpmu::host::sim::SimPmu;
/// use vpmu::host::sum::SumPmu;
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// let cores = SimPmu::new(8, ArchEventSet::ALL);
/// let atoms = SimPmu::new(6, ArchEventSet::EMPTY.with(ArchEvent::Cycles));
/// let both = SumPmu::new(vec![cores, atoms]);
/// assert_eq!(both.supported(), ArchEventSet::EMPTY.with(ArchEvent::Cycles));
/// ```
#[derive(Debug)]
pub struct SumPmu<P> {
    parts: Vec<P>,
}

impl<P: HostPmu> SumPmu<P> {
    /// The sum of these.
    #[must_use]
    pub const fn new(parts: Vec<P>) -> Self {
        Self { parts }
    }
}

impl<P: HostPmu> HostPmu for SumPmu<P> {
    /// What all parts count: an event that one of them lacks would be too low.
    fn supported(&self) -> ArchEventSet {
        let parts = &self.parts;
        let in_all = |event: &ArchEvent| {
            !parts.is_empty() && parts.iter().all(|part| part.supported().contains(*event))
        };
        ArchEvent::ALL.into_iter().filter(in_all).collect()
    }

    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        // What a code means differs between parts.
        let is_code = matches!(attr.code, EventCode::Raw(_));
        if self.parts.is_empty() || is_code && self.parts.len() > 1 {
            return Err(HostOpenError::Unsupported);
        }
        let opened = self
            .parts
            .iter_mut()
            .try_for_each(|part| part.open(id, attr));
        if opened.is_err() {
            self.close(id);
        }
        opened
    }

    fn close(&mut self, id: HostEventId) {
        for part in &mut self.parts {
            part.close(id);
        }
    }

    /// Starts on every part. One that does not count where the thread is has a
    /// counter to give: it takes one when the thread comes, and an event that
    /// gets none there is lost (see [`HostPmu::read`]).
    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        self.parts
            .iter_mut()
            .try_for_each(|part| part.start(id, left))
            .inspect_err(|_none| self.stop(id))
    }

    fn stop(&mut self, id: HostEventId) {
        for part in &mut self.parts {
            part.stop(id);
        }
    }

    /// The sum; [`ReadError`] of the first part that has no count to give.
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.parts.iter_mut().try_fold(Count(0), |sum, part| {
            Ok(Count(sum.0.wrapping_add(part.read(id)?.0)))
        })
    }

    fn give_back(&mut self) {
        for part in &mut self.parts {
            part.give_back();
        }
    }

    fn can_lose(&self) -> bool {
        self.parts.iter().any(P::can_lose)
    }

    fn guest_ran(&mut self, span: Nanos) {
        for part in &mut self.parts {
            part.guest_ran(span);
        }
    }

    fn wants_level(&self) -> bool {
        self.parts.iter().any(P::wants_level)
    }

    fn guest_was_at(&mut self, level: Level) {
        for part in &mut self.parts {
            part.guest_was_at(level);
        }
    }

    /// All parts are told the same, so that one remembers for all.
    fn level_memory(&self) -> Option<LevelMemory> {
        self.parts.iter().find_map(P::level_memory)
    }

    fn set_level_memory(&mut self, memory: LevelMemory) {
        for part in &mut self.parts {
            part.set_level_memory(memory);
        }
    }

    fn next_exit(&self) -> Option<Nanos> {
        self.parts.iter().filter_map(P::next_exit).min()
    }

    /// That of the worst part.
    fn quality(&self, attr: &HostEvent) -> Quality {
        let parts = self.parts.iter().map(|part| part.quality(attr));
        parts.fold(Quality::Counted, worse)
    }
}

const fn worse(a: Quality, b: Quality) -> Quality {
    match (a, b) {
        (Quality::SampledClock, _) | (_, Quality::SampledClock) => Quality::SampledClock,
        (Quality::Clock, _) | (_, Quality::Clock) => Quality::Clock,
        (Quality::Counted, Quality::Counted) => Quality::Counted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Privilege;
    use crate::host::sim::SimPmu;

    const ID: HostEventId = HostEventId(0);
    const ATTR: HostEvent = HostEvent {
        code: EventCode::Architectural(ArchEvent::Instructions),
        privilege: Privilege {
            user: true,
            kernel: true,
        },
    };

    fn sum(counters: [usize; 2]) -> SumPmu<SimPmu> {
        let part = |n| SimPmu::new(n, ArchEventSet::ALL);
        SumPmu::new(counters.map(part).into())
    }

    #[test]
    fn the_count_is_exact_wherever_the_thread_is() {
        let mut pmu = sum([1, 1]);
        pmu.open(ID, &ATTR).unwrap();
        pmu.start(ID, Count(1 << 40)).unwrap();
        for (part, n) in [(0, 100), (1, 30), (0, 7)] {
            pmu.parts[part].occur(ATTR.code, n);
        }
        assert_eq!(pmu.read(ID), Ok(Count(137)));
        pmu.stop(ID);
        pmu.parts[1].occur(ATTR.code, 5);
        assert_eq!(pmu.read(ID), Ok(Count(137)), "held still");
    }

    #[test]
    fn an_event_that_one_part_cannot_count_now_runs_on_none() {
        let mut pmu = sum([1, 1]);
        pmu.open(ID, &ATTR).unwrap();
        pmu.parts[1].close(ID);
        assert_eq!(pmu.start(ID, Count(10)), Err(NoCounter));
        assert_eq!(pmu.parts[0].in_use(), 0, "its counter is free");
    }

    #[test]
    fn what_one_part_lacks_is_not_supported() {
        let few = ArchEventSet::EMPTY.with(ArchEvent::Cycles);
        let parts = [ArchEventSet::ALL, few].map(|events| SimPmu::new(1, events));
        let mut pmu = SumPmu::new(parts.into());
        assert_eq!(pmu.supported(), few);
        assert_eq!(pmu.open(ID, &ATTR), Err(HostOpenError::Unsupported));
        assert_eq!(pmu.parts[0].open(ID, &ATTR), Ok(()), "the number is free");
    }

    #[test]
    fn a_code_has_no_sum() {
        let mut pmu = sum([1, 1]);
        let attr = HostEvent {
            code: EventCode::Raw(crate::x86::event::RawEvent::of_event_sel(0x1d1)),
            ..ATTR
        };
        assert_eq!(pmu.open(ID, &attr), Err(HostOpenError::Unsupported));
        assert_eq!(pmu.open(ID, &ATTR), Ok(()), "the number is free");
    }

    #[test]
    fn a_part_that_lost_its_counter_has_no_sum() {
        let mut pmu = sum([1, 1]);
        pmu.open(ID, &ATTR).unwrap();
        pmu.start(ID, Count(10)).unwrap();
        pmu.parts[1].lose(ID);
        assert_eq!(pmu.read(ID), Err(ReadError::Lost));
    }
}
