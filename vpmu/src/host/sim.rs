//! A scripted host PMU for tests of logic: as many counters as wanted, events
//! that occur when the test says so, counters that the host takes away.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::units::Count;
use crate::x86::event::ArchEventSet;

use super::pmu::{EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, NoCounter, ReadError};

#[derive(Debug)]
struct SimEvent {
    attr: HostEvent,
    /// Its place among the events in the order of opening.
    opened: u64,
    count: Count,
    /// Distance to the overflow while it runs.
    left: Option<Count>,
    /// It should run and has no counter.
    lost: bool,
}

/// A driver call, as [`SimPmu::take_calls`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`HostPmu::open`] that succeeded.
    Open(HostEventId, HostEvent),
    /// [`HostPmu::close`] of an event that was there.
    Close(HostEventId),
    /// [`HostPmu::start`].
    Start(HostEventId, Count),
    /// [`HostPmu::stop`].
    Stop(HostEventId),
    /// [`HostPmu::read`].
    Read(HostEventId),
}

/// The scripted PMU.
///
/// # Examples
/// ```
/// use vpmu::host::sim::SimPmu;
/// use vpmu::host::{HostEvent, HostEventId, HostPmu, Privilege};
/// use vpmu::ids::Pmc;
/// use vpmu::units::Count;
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// let mut host = SimPmu::new(1, ArchEventSet::ALL);
/// let gp0 = HostEventId::from(Pmc::gp(0).unwrap());
/// let everywhere = Privilege { user: true, kernel: true };
/// let cycles = HostEvent { code: ArchEvent::Cycles.into(), privilege: everywhere };
/// host.open(gp0, &cycles).unwrap();
/// host.start(gp0, Count(100)).unwrap();
/// host.occur(ArchEvent::Cycles, 40);
/// assert_eq!(host.read(gp0), Ok(Count(40)));
/// host.lose(gp0);
/// assert!(host.read(gp0).is_err());
/// ```
#[derive(Debug)]
pub struct SimPmu {
    counters: usize,
    supported: ArchEventSet,
    events: BTreeMap<HostEventId, SimEvent>,
    overflowed: BTreeSet<HostEventId>,
    opens: u64,
    /// None if nobody will look.
    calls: Option<Vec<Call>>,
}

impl SimPmu {
    /// A PMU with `counters` counters, each of which counts any of `supported`.
    #[must_use]
    pub const fn new(counters: usize, supported: ArchEventSet) -> Self {
        Self::with(counters, supported, Some(Vec::new()))
    }

    /// The same without a list of calls.
    #[must_use]
    pub const fn quiet(counters: usize, supported: ArchEventSet) -> Self {
        Self::with(counters, supported, None)
    }

    const fn with(counters: usize, supported: ArchEventSet, calls: Option<Vec<Call>>) -> Self {
        Self {
            counters,
            supported,
            events: BTreeMap::new(),
            overflowed: BTreeSet::new(),
            opens: 0,
            calls,
        }
    }

    fn note(&mut self, call: Call) {
        if let Some(calls) = &mut self.calls {
            calls.push(call);
        }
    }

    /// The guest ran and `n` events of this kind occurred.
    pub fn occur(&mut self, kind: impl Into<EventCode>, n: u64) {
        let kind = kind.into();
        for (id, event) in &mut self.events {
            let Some(left) = event.left.as_mut().filter(|_| event.attr.code == kind) else {
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
            event.lost = event.left.take().is_some();
        }
    }

    /// Other users of the host leave so many counters from now on; the events
    /// that were opened last lose theirs first.
    pub fn leave(&mut self, counters: usize) {
        self.counters = counters;
        self.evict();
    }

    /// Linux: a reschedule puts pinned events on in the order of opening (R-018).
    fn evict(&mut self) {
        while self.in_use() > self.counters {
            let running = self.events.iter().filter(|(_, e)| e.left.is_some());
            let Some(last) = running.max_by_key(|(_, e)| e.opened).map(|(id, _)| *id) else {
                break;
            };
            self.lose(last);
        }
    }

    /// The driver calls since the last time, oldest first.
    pub fn take_calls(&mut self) -> Vec<Call> {
        self.calls.as_mut().map(core::mem::take).unwrap_or_default()
    }

    /// Events that are open.
    #[must_use]
    pub fn open_events(&self) -> usize {
        self.events.len()
    }

    /// Events that hold a counter now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.events.values().filter(|e| e.left.is_some()).count()
    }
}

impl HostPmu for SimPmu {
    fn supported(&self) -> ArchEventSet {
        self.supported
    }

    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        match attr.code {
            EventCode::Architectural(event) if !self.supported.contains(event) => {
                return Err(HostOpenError::Unsupported);
            }
            _ => {}
        }
        self.opens += 1;
        let event = SimEvent {
            attr: *attr,
            opened: self.opens,
            count: Count(0),
            left: None,
            lost: false,
        };
        let before = self.events.insert(id, event);
        assert!(before.is_none(), "{id:?} is opened twice");
        self.note(Call::Open(id, *attr));
        Ok(())
    }

    fn close(&mut self, id: HostEventId) {
        if self.events.remove(&id).is_some() {
            self.note(Call::Close(id));
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        self.note(Call::Start(id, left));
        let event = self.events.get_mut(&id).ok_or(NoCounter)?;
        if !event.lost {
            event.left = Some(left);
        }
        self.evict();
        Ok(())
    }

    fn stop(&mut self, id: HostEventId) {
        self.note(Call::Stop(id));
        if let Some(event) = self.events.get_mut(&id) {
            event.left = None;
            event.lost = false;
        }
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.note(Call::Read(id));
        let event = self.events.get(&id).ok_or(ReadError::Lost)?;
        if event.lost {
            Err(ReadError::Lost)
        } else {
            Ok(event.count)
        }
    }

    fn can_lose(&self) -> bool {
        true
    }
}
