//! A scripted host of an uncore PMU for tests of logic: events occur when the
//! test says so, and the host refuses or loses events when it is told to.

use alloc::collections::BTreeMap;
use alloc::string::String;

use super::pmu::{HostOpenError, ReadError};
use super::uncore::{ScopeInstance, UncoreCount, UncoreEvent, UncoreEventId, UncoreHost};
use crate::units::{Count, Energy};

#[derive(Clone, Copy, Debug)]
struct SimUncoreEvent {
    what: UncoreEvent,
    instance: ScopeInstance,
    count: u64,
    lost: bool,
}

/// The scripted host.
///
/// # Examples
/// ```
/// use vpmu::host::sim_uncore::SimUncore;
/// use vpmu::host::{RawSelect, ScopeInstance, UncoreCount, UncoreEvent, UncoreEventId, UncoreHost};
/// use vpmu::units::Count;
///
/// let mut host = SimUncore::default();
/// let (id, die) = (UncoreEventId(0), ScopeInstance(0));
/// host.open(id, &UncoreEvent::L3(RawSelect(0x0104)), die).unwrap();
/// host.occur(die, 3);
/// assert_eq!(host.read(id), Ok(UncoreCount::Events(Count(3))));
/// ```
#[derive(Debug, Default)]
pub struct SimUncore {
    events: BTreeMap<UncoreEventId, SimUncoreEvent>,
    refuses: bool,
    creep: u64,
    opens: u64,
    counted: u64,
    misused: bool,
}

impl SimUncore {
    /// Every open event of `instance` occurs `n` times (energy: `n` units).
    pub fn occur(&mut self, instance: ScopeInstance, n: u64) {
        let events = self.events.values_mut();
        for event in events.filter(|e| e.instance == instance && !e.lost) {
            event.count = event.count.wrapping_add(n);
            self.counted = self.counted.wrapping_add(n);
        }
    }

    /// Every event occurs `n` times right before each of its reads from now on,
    /// as it would while something else is being done.
    pub const fn creep(&mut self, n: u64) {
        self.creep = n;
    }

    /// Whether opens fail from now on.
    pub const fn refuse(&mut self, refuses: bool) {
        self.refuses = refuses;
    }

    /// The host takes the counters of `instance` away: reads fail.
    pub fn lose(&mut self, instance: ScopeInstance) {
        for event in self.events.values_mut() {
            event.lost |= event.instance == instance;
        }
    }

    /// The events that are open on `instance`.
    pub fn open_on(&self, instance: ScopeInstance) -> impl Iterator<Item = UncoreEvent> + '_ {
        let events = self.events.values();
        events
            .filter(move |e| e.instance == instance)
            .map(|e| e.what)
    }

    /// How many opens have succeeded.
    #[must_use]
    pub const fn opens(&self) -> u64 {
        self.opens
    }

    /// What all events have counted, those that are closed too.
    #[must_use]
    pub const fn counted(&self) -> u64 {
        self.counted
    }

    /// Whether an id was opened twice, or one that is not open was read.
    #[must_use]
    pub const fn was_misused(&self) -> bool {
        self.misused
    }
}

impl UncoreHost for SimUncore {
    fn open(
        &mut self,
        id: UncoreEventId,
        event: &UncoreEvent,
        instance: ScopeInstance,
    ) -> Result<(), HostOpenError> {
        if self.refuses {
            return Err(HostOpenError::Unsupported);
        }
        let event = SimUncoreEvent {
            what: *event,
            instance,
            count: 0,
            lost: false,
        };
        self.misused |= self.events.insert(id, event).is_some();
        self.opens += 1;
        Ok(())
    }

    fn close(&mut self, id: UncoreEventId) {
        self.events.remove(&id);
    }

    fn read(&mut self, id: UncoreEventId) -> Result<UncoreCount, ReadError> {
        match self.events.get_mut(&id) {
            None => {
                self.misused = true;
                Err(ReadError::Lost)
            }
            Some(event) if event.lost => Err(ReadError::Lost),
            Some(event) => {
                event.count = event.count.wrapping_add(self.creep);
                self.counted = self.counted.wrapping_add(self.creep);
                Ok(match event.what {
                    UncoreEvent::Energy(_) => UncoreCount::Energy(Energy(event.count)),
                    _ => UncoreCount::Events(Count(event.count)),
                })
            }
        }
    }

    fn describe(&self, id: UncoreEventId) -> Option<String> {
        let event = self.events.get(&id)?;
        Some(alloc::format!("{} of sim {}", event.what, event.instance))
    }
}
