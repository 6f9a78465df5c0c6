//! A host PMU whose stopped events keep their counters for a while.
//!
//! A guest stops all its counters and starts them again around each switch of tasks and
//! in each handler of a PMI. On Linux, an event that is disabled and enabled has the host
//! schedule all events of the thread anew: some thousand instructions each, more with each
//! event. So an event that is stopped here goes on, and the events that it counts
//! meanwhile are dropped:
//!
//! ```text
//!             start                        stop: count read
//!  Stopped ───────────▶ Running ─────────────────────────────▶ Held
//!     ▲                    ▲   start: count read, difference dropped │
//!     │                    └─────────────────────────────────────────┤
//!     └──── give_back, or another event is started: really stopped ──┘
//! ```
//!
//! A held event has a counter that somebody else may have use for. So its owner gives it
//! back soon ([`HostPmu::give_back`]), the start of an event that is not held gives back
//! all, and nothing is held for a while after an event has lost its counter.

use crate::units::{Count, Nanos};
use crate::x86::event::ArchEventSet;

use super::level::LevelMemory;
use super::pmu::{
    HostEvent, HostEventId, HostOpenError, HostPmu, Level, NoCounter, Quality, ReadError,
};

/// For how many calls of [`HostPmu::give_back`] nothing is held after a loss.
const WARY: u32 = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum HeldStage {
    /// It is stopped on the host as well.
    #[default]
    Stopped,
    Running,
    /// It runs on the host, and what it counts is dropped.
    Held,
}

/// An event. All its counts but those that are told are the host's own.
#[derive(Clone, Copy, Debug, Default)]
struct HeldEvent {
    stage: HeldStage,
    /// Its count when it was stopped, if it has counted since.
    stopped_at: Option<Count>,
    /// The part of its count that came while it was stopped.
    dropped: Count,
    /// Its count, and the run of the guest after which it was read.
    read: Option<(u64, Count)>,
}

impl HeldEvent {
    /// The count that is told.
    const fn told(&self, count: Count) -> Count {
        count.since(self.dropped)
    }

    /// It is at `count` and counts from now on.
    fn drop_until(&mut self, count: Count) {
        if let Some(stopped_at) = self.stopped_at.take() {
            let excess = count.since(stopped_at);
            self.dropped = Count(self.dropped.0.wrapping_add(excess.0));
        }
    }
}

/// A PMU `P` whose stopped events keep their counters until they are given back.
///
/// # Examples
/// ```
/// use vpmu::host::held::Held;
/// use vpmu::host::sim::SimPmu;
/// use vpmu::host::{HostEvent, HostEventId, HostPmu, Privilege};
/// use vpmu::units::Count;
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// let mut host = Held::new(SimPmu::new(1, ArchEventSet::ALL));
/// let id = HostEventId(0);
/// let privilege = Privilege { user: true, kernel: true };
/// host.open(id, &HostEvent { code: ArchEvent::Cycles.into(), privilege }).unwrap();
/// host.start(id, Count(1 << 40)).unwrap();
/// host.inner_mut().occur(ArchEvent::Cycles, 10);
/// host.stop(id);
/// host.inner_mut().occur(ArchEvent::Cycles, 5);
/// assert_eq!(host.read(id), Ok(Count(10)));
/// host.start(id, Count(1 << 40)).unwrap();
/// host.inner_mut().occur(ArchEvent::Cycles, 1);
/// # use vpmu::units::Nanos;
/// # host.guest_ran(Nanos(1));
/// assert_eq!(host.read(id), Ok(Count(11)));
/// ```
#[derive(Debug)]
pub struct Held<P> {
    inner: P,
    events: [HeldEvent; HostEventId::COUNT],
    /// Events that are held.
    held: usize,
    /// Runs of the guest.
    runs: u64,
    /// Nothing is held before so many calls of [`HostPmu::give_back`].
    wary: u32,
}

impl<P: HostPmu> Held<P> {
    /// `inner`, which has no event yet.
    #[must_use]
    pub const fn new(inner: P) -> Self {
        const NONE: HeldEvent = HeldEvent {
            stage: HeldStage::Stopped,
            stopped_at: None,
            dropped: Count(0),
            read: None,
        };
        Self {
            inner,
            events: [NONE; HostEventId::COUNT],
            held: 0,
            runs: 0,
            wary: 0,
        }
    }

    /// The host PMU, for a test that scripts it.
    #[cfg(any(test, feature = "test-doubles"))]
    pub const fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }

    /// The host's count of an event that runs.
    fn read_running(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        let read = self.inner.read(id);
        match read {
            Ok(count) => {
                let event = &mut self.events[id.0];
                event.drop_until(count);
                event.read = Some((self.runs, count));
            }
            Err(_) => self.wary = WARY,
        }
        read
    }

    /// Starts an event that is not held. Its count of before is only known where it can
    /// be read: an event that has lost its counter cannot before it has one again.
    fn start_stopped(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        self.stop_held();
        let has_excess = self.events[id.0].stopped_at.is_some();
        let before = if has_excess {
            self.inner.read(id).ok()
        } else {
            None
        };
        self.inner.start(id, left)?;
        if has_excess && let Some(count) = before.or_else(|| self.inner.read(id).ok()) {
            self.events[id.0].drop_until(count);
        }
        self.set_stage(id, HeldStage::Running);
        Ok(())
    }

    fn start_held(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        if self.read_running(id).is_err() {
            self.inner.stop(id);
            self.set_stage(id, HeldStage::Stopped);
            return Err(NoCounter);
        }
        self.set_stage(id, HeldStage::Running);
        self.inner.start(id, left)
    }

    fn set_stage(&mut self, id: HostEventId, stage: HeldStage) {
        let event = &mut self.events[id.0];
        let before = core::mem::replace(&mut event.stage, stage);
        self.held += usize::from(stage == HeldStage::Held);
        self.held -= usize::from(before == HeldStage::Held);
        event.read = event.read.filter(|_| stage == HeldStage::Running);
    }

    /// Really stops what is held.
    fn stop_held(&mut self) {
        for n in 0..HostEventId::COUNT {
            if self.held == 0 {
                break;
            }
            if self.events[n].stage == HeldStage::Held {
                self.inner.stop(HostEventId(n));
                self.set_stage(HostEventId(n), HeldStage::Stopped);
            }
        }
    }
}

impl<P: HostPmu> HostPmu for Held<P> {
    fn supported(&self) -> ArchEventSet {
        self.inner.supported()
    }

    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        if id.0 >= HostEventId::COUNT {
            return Err(HostOpenError::Unsupported);
        }
        self.inner.open(id, attr)?;
        self.events[id.0] = HeldEvent::default();
        Ok(())
    }

    fn close(&mut self, id: HostEventId) {
        self.inner.close(id);
        if id.0 < HostEventId::COUNT {
            self.set_stage(id, HeldStage::Stopped);
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        match self.events.get(id.0).ok_or(NoCounter)?.stage {
            HeldStage::Stopped => self.start_stopped(id, left),
            HeldStage::Running => self.inner.start(id, left),
            HeldStage::Held => self.start_held(id, left),
        }
    }

    fn stop(&mut self, id: HostEventId) {
        let Some(event) = self.events.get(id.0).copied() else {
            return;
        };
        if event.stage == HeldStage::Held {
            return;
        }
        if event.stage == HeldStage::Running && self.wary == 0 {
            let known = event.read.filter(|(run, _)| *run == self.runs);
            let count = match known {
                Some((_, count)) => Ok(count),
                None => self.read_running(id),
            };
            if let Ok(count) = count {
                self.events[id.0].stopped_at = Some(count);
                return self.set_stage(id, HeldStage::Held);
            }
        }
        self.inner.stop(id);
        self.set_stage(id, HeldStage::Stopped);
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        let event = *self.events.get(id.0).ok_or(ReadError::Lost)?;
        match (event.stage, event.stopped_at) {
            (HeldStage::Running, _) => {
                let count = self.read_running(id)?;
                Ok(self.events[id.0].told(count))
            }
            (_, Some(stopped_at)) => Ok(event.told(stopped_at)),
            (_, None) => Ok(event.told(self.inner.read(id)?)),
        }
    }

    fn give_back(&mut self) {
        self.wary = self.wary.saturating_sub(1);
        self.stop_held();
        self.inner.give_back();
    }

    fn can_lose(&self) -> bool {
        self.inner.can_lose()
    }

    fn guest_ran(&mut self, span: Nanos) {
        self.runs = self.runs.wrapping_add(1);
        self.inner.guest_ran(span);
    }

    fn wants_level(&self) -> bool {
        self.inner.wants_level()
    }

    fn guest_was_at(&mut self, level: Level) {
        self.inner.guest_was_at(level);
    }

    fn level_memory(&self) -> Option<LevelMemory> {
        self.inner.level_memory()
    }

    fn set_level_memory(&mut self, memory: LevelMemory) {
        self.inner.set_level_memory(memory);
    }

    fn next_exit(&self) -> Option<Nanos> {
        self.inner.next_exit()
    }

    fn quality(&self, attr: &HostEvent) -> Quality {
        self.inner.quality(attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Privilege;
    use crate::host::sim::{Call, SimPmu};
    use crate::x86::event::ArchEvent;

    const FAR: Count = Count(1 << 40);
    const KINDS: [ArchEvent; 3] = [
        ArchEvent::Cycles,
        ArchEvent::Instructions,
        ArchEvent::Branches,
    ];

    fn id(n: usize) -> HostEventId {
        HostEventId(n)
    }

    fn event(n: usize) -> HostEvent {
        HostEvent {
            code: KINDS[n].into(),
            privilege: Privilege {
                user: true,
                kernel: true,
            },
        }
    }

    /// With three events on so many counters.
    fn held(counters: usize) -> Held<SimPmu> {
        let mut host = Held::new(SimPmu::new(counters, ArchEventSet::ALL));
        for n in 0..KINDS.len() {
            host.open(id(n), &event(n)).unwrap();
        }
        host.inner_mut().take_calls();
        host
    }

    fn runs(host: &mut Held<SimPmu>, n: u64) {
        for kind in KINDS {
            host.inner_mut().occur(kind, n);
        }
        host.guest_ran(Nanos(n));
    }

    #[test]
    fn a_stop_and_a_start_are_two_reads() {
        let mut host = held(3);
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 10);
        host.inner_mut().take_calls();
        host.stop(id(0));
        runs(&mut host, 100);
        assert_eq!(host.read(id(0)), Ok(Count(10)), "it stands");
        host.start(id(0), FAR).unwrap();
        let calls = host.inner_mut().take_calls();
        // The inner start sets the distance of an event that runs.
        let due = [
            Call::Read(id(0)),
            Call::Read(id(0)),
            Call::Start(id(0), FAR),
        ];
        assert_eq!(calls, due);
        runs(&mut host, 1);
        assert_eq!(host.read(id(0)), Ok(Count(11)));
    }

    #[test]
    fn a_count_that_was_just_read_is_not_read_again() {
        let mut host = held(3);
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 10);
        assert_eq!(host.read(id(0)), Ok(Count(10)));
        host.inner_mut().take_calls();
        host.stop(id(0));
        assert_eq!(host.inner_mut().take_calls(), []);
    }

    #[test]
    fn what_is_given_back_is_stopped_and_drops_what_came_before() {
        let mut host = held(3);
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 10);
        host.stop(id(0));
        runs(&mut host, 7);
        assert_eq!(host.inner_mut().in_use(), 1);
        host.give_back();
        assert_eq!(host.inner_mut().in_use(), 0);
        assert_eq!(host.read(id(0)), Ok(Count(10)));
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 5);
        assert_eq!(host.read(id(0)), Ok(Count(15)));
    }

    #[test]
    fn another_event_gets_the_counters_that_are_held() {
        let mut host = held(2);
        host.start(id(0), FAR).unwrap();
        host.start(id(1), FAR).unwrap();
        runs(&mut host, 10);
        host.stop(id(0));
        host.stop(id(1));
        runs(&mut host, 3);
        host.start(id(2), FAR).unwrap();
        runs(&mut host, 4);
        assert_eq!(host.read(id(2)), Ok(Count(4)));
        host.start(id(1), FAR).unwrap();
        runs(&mut host, 2);
        assert_eq!(host.read(id(0)), Ok(Count(10)));
        assert_eq!(host.read(id(1)), Ok(Count(12)));
        assert_eq!(host.read(id(2)), Ok(Count(6)));
    }

    #[test]
    fn a_counter_that_is_taken_while_it_is_held_is_lost_at_the_start() {
        let mut host = held(1);
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 10);
        host.stop(id(0));
        runs(&mut host, 3);
        host.inner_mut().leave(0);
        assert_eq!(host.start(id(0), FAR), Err(NoCounter));
        host.stop(id(0));
        host.inner_mut().leave(1);
        runs(&mut host, 5);
        host.start(id(0), FAR).unwrap();
        runs(&mut host, 4);
        assert_eq!(host.read(id(0)), Ok(Count(14)));
        // A host that takes counters away gets those of stopped events at once.
        host.stop(id(0));
        assert_eq!(host.inner_mut().in_use(), 0);
        for _ in 0..WARY {
            host.give_back();
        }
        host.start(id(0), FAR).unwrap();
        host.stop(id(0));
        assert_eq!(host.inner_mut().in_use(), 1);
    }

    /// Whatever is done to it, the counts are those of a host that stops its events.
    #[test]
    fn the_counts_are_those_of_a_host_that_stops() {
        let mut dice = 0x9e37_79b9_u32;
        let mut below = |n: u32| {
            // Xorshift (Marsaglia 2003).
            dice ^= dice << 13;
            dice ^= dice >> 17;
            dice ^= dice << 5;
            dice % n
        };
        let mut host = held(3);
        let mut plain = SimPmu::quiet(3, ArchEventSet::ALL);
        for n in 0..KINDS.len() {
            plain.open(id(n), &event(n)).unwrap();
        }
        for step in 0..100_000 {
            let n = below(3) as usize;
            match below(6) {
                0 | 1 => {
                    host.start(id(n), FAR).unwrap();
                    plain.start(id(n), FAR).unwrap();
                }
                2 | 3 => {
                    host.stop(id(n));
                    plain.stop(id(n));
                }
                4 => {
                    let span = u64::from(below(100));
                    runs(&mut host, span);
                    KINDS.iter().for_each(|kind| plain.occur(*kind, span));
                }
                _ if below(4) == 0 => host.give_back(),
                _ => assert_eq!(host.read(id(n)), plain.read(id(n)), "step {step}"),
            }
        }
    }
}
