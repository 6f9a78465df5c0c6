//! A host PMU as the scheduler's driver of one uncore PMU.
//!
//! Every counter of the guest has a host event of its own while it is enabled,
//! so that `add` never fails. The host event counts from open to close; what
//! `start` and `stop` bracket is only what is handed on, and that is a
//! difference between two reads. A move between vCPUs therefore loses nothing:
//! what is counted while an event is between two vCPUs comes with the next read.

use alloc::collections::BTreeMap;

use super::model::{UncoreModel, UncorePmu};
use crate::host::{HostOpenError, ReadError, UncoreEvent, UncoreEventId, UncoreHost};
use crate::ids::VcpuId;
use crate::sched::driver::{AddError, InitError, InitRequest};
use crate::sched::{Errno, EventId, PmuDriver, ScopeTopology};
use crate::units::{Count, Nanos};

#[derive(Clone, Copy, Debug)]
struct OpenEvent {
    id: UncoreEventId,
    event: UncoreEvent,
    /// The host count that was handed on.
    seen: Count,
    lost: Option<ReadError>,
}

/// One uncore PMU of the guest, all its instances.
#[derive(Debug)]
pub(super) struct UncoreDriver<H> {
    pmu: UncorePmu,
    model: UncoreModel,
    topology: ScopeTopology,
    host: H,
    events: BTreeMap<EventId, OpenEvent>,
    /// What the event is that the schedule opens next: its attributes have no room
    /// for it.
    expected: Option<(UncoreEventId, UncoreEvent)>,
    refusal: Option<HostOpenError>,
}

impl<H: UncoreHost> UncoreDriver<H> {
    pub(super) const fn new(
        pmu: UncorePmu,
        model: UncoreModel,
        topology: ScopeTopology,
        host: H,
    ) -> Self {
        Self {
            pmu,
            model,
            topology,
            host,
            events: BTreeMap::new(),
            expected: None,
            refusal: None,
        }
    }

    pub(super) const fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Why the last `event_init` failed, once.
    pub(super) const fn take_refusal(&mut self) -> Option<HostOpenError> {
        self.refusal.take()
    }

    /// Why the host has no count for this event, if so.
    pub(super) fn loss(&self, event: EventId) -> Option<ReadError> {
        self.events.get(&event).and_then(|open| open.lost)
    }

    pub(super) fn describe(&self, event: EventId) -> Option<alloc::string::String> {
        let open = self.events.get(&event)?;
        self.host.describe(open.id)
    }

    /// The event that the schedule opens next, and the number of its host event.
    pub(super) const fn expect(&mut self, id: UncoreEventId, event: UncoreEvent) {
        self.expected = Some((id, event));
    }
}

impl<H: UncoreHost> PmuDriver for UncoreDriver<H> {
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
        if request.attr.pmu_type != request.own_type {
            return Err(InitError::NotMine);
        }
        let (Some((id, event)), Some(vcpu)) = (self.expected.take(), request.vcpu) else {
            return Err(InitError::Refused(Errno::EINVAL));
        };
        let instance = self.model.instance(self.pmu, &self.topology, vcpu);
        if let Err(error) = self.host.open(id, &event, instance) {
            self.refusal = Some(error);
            return Err(InitError::Refused(Errno::ENODEV));
        }
        let open = OpenEvent {
            id,
            event,
            seen: Count(0),
            lost: None,
        };
        self.events.insert(request.event, open);
        Ok(())
    }

    fn event_destroy(&mut self, event: EventId) {
        if let Some(open) = self.events.remove(&event) {
            self.host.close(open.id);
        }
    }

    fn add(&mut self, _: VcpuId, _: EventId) -> Result<(), AddError> {
        Ok(())
    }

    fn del(&mut self, _: VcpuId, _: EventId) {}

    fn start(&mut self, _: VcpuId, _: EventId, _: Nanos) {}

    fn stop(&mut self, vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.read(vcpu, event, at)
    }

    fn read(&mut self, _: VcpuId, event: EventId, _: Nanos) -> Count {
        let Some(open) = self.events.get_mut(&event).filter(|o| o.lost.is_none()) else {
            return Count(0);
        };
        let read = self.host.read(open.id);
        let count = read.and_then(|count| count.of(&open.event).ok_or(ReadError::Lost));
        match count {
            Ok(count) => {
                let progress = count.since(open.seen);
                open.seen = count;
                progress
            }
            Err(error) => {
                open.lost = Some(error);
                Count(0)
            }
        }
    }

    fn forgets(&self) -> bool {
        true
    }

    fn always_fits(&self) -> bool {
        true
    }
}
