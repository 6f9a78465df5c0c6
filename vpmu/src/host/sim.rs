//! A scripted host PMU for tests of logic: as many counters as wanted, events
//! that occur when the test says so, counters that the host takes away.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::units::Count;
use crate::x86::event::{ArchEvent, ArchEventSet};

use super::pmu::{AddError, EventAttr, HostEventId, HostPmu, ReadError};

#[derive(Debug)]
struct Event {
    attr: EventAttr,
    count: Count,
    /// Distance to the overflow while it runs.
    left: Option<Count>,
    lost: bool,
}

/// A driver call, as [`SimPmu::take_calls`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`HostPmu::add`] that succeeded.
    Add(HostEventId, EventAttr),
    /// [`HostPmu::del`] of an event that was there.
    Del(HostEventId),
    /// [`HostPmu::start`].
    Start(HostEventId, Count),
    /// [`HostPmu::stop`].
    Stop(HostEventId),
    /// [`HostPmu::read`].
    Read(HostEventId),
}

/// The scripted PMU.
#[derive(Debug)]
pub struct SimPmu {
    counters: usize,
    supported: ArchEventSet,
    events: BTreeMap<HostEventId, Event>,
    overflowed: BTreeSet<HostEventId>,
    calls: Vec<Call>,
}

impl SimPmu {
    /// A PMU with `counters` counters, each of which counts any of `supported`.
    #[must_use]
    pub const fn new(counters: usize, supported: ArchEventSet) -> Self {
        Self {
            counters,
            supported,
            events: BTreeMap::new(),
            overflowed: BTreeSet::new(),
            calls: Vec::new(),
        }
    }

    /// The guest ran and `n` events of this kind occurred.
    pub fn occur(&mut self, kind: ArchEvent, n: u64) {
        for (id, event) in &mut self.events {
            let Some(left) = event.left.as_mut().filter(|_| event.attr.event == kind) else {
                continue;
            };
            event.count.0 = event.count.0.wrapping_add(n);
            if left.0 != 0 && left.0 <= n {
                self.overflowed.insert(*id);
            }
            left.0 = left.0.saturating_sub(n);
        }
    }

    /// Whether an overflow interrupt came since the last call.
    pub fn take_interrupt(&mut self) -> bool {
        !core::mem::take(&mut self.overflowed).is_empty()
    }

    /// The host takes the counter of `id` away.
    pub fn lose(&mut self, id: HostEventId) {
        if let Some(event) = self.events.get_mut(&id) {
            event.lost = true;
        }
    }

    /// The driver calls since the last time, oldest first.
    pub fn take_calls(&mut self) -> Vec<Call> {
        core::mem::take(&mut self.calls)
    }

    /// Events that hold a counter now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.events.len()
    }
}

impl HostPmu for SimPmu {
    fn supported(&self) -> ArchEventSet {
        self.supported
    }

    fn add(&mut self, id: HostEventId, attr: &EventAttr) -> Result<(), AddError> {
        if !self.supported.contains(attr.event) {
            return Err(AddError::Unsupported);
        }
        if self.events.len() >= self.counters || self.events.contains_key(&id) {
            return Err(AddError::Busy);
        }
        let event = Event {
            attr: *attr,
            count: Count(0),
            left: None,
            lost: false,
        };
        self.events.insert(id, event);
        self.calls.push(Call::Add(id, *attr));
        Ok(())
    }

    fn del(&mut self, id: HostEventId) {
        if self.events.remove(&id).is_some() {
            self.calls.push(Call::Del(id));
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) {
        self.calls.push(Call::Start(id, left));
        if let Some(event) = self.events.get_mut(&id) {
            event.left = Some(left);
        }
    }

    fn stop(&mut self, id: HostEventId) {
        self.calls.push(Call::Stop(id));
        if let Some(event) = self.events.get_mut(&id) {
            event.left = None;
        }
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.calls.push(Call::Read(id));
        let event = self.events.get(&id).ok_or(ReadError::Lost)?;
        if event.lost {
            Err(ReadError::Lost)
        } else {
            Ok(event.count)
        }
    }
}
