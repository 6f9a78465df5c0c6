//! The driver of one vCPU thread.

use std::ffi::c_int;

use perf_event_open_sys::bindings;

use crate::host::{
    EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, NoCounter, Privilege, ReadError,
};
use crate::units::Count;
use crate::x86::event::{ArchEvent, ArchEventSet};
use crate::x86::standard::StandardEvent;

use super::event::{PerfFd, PerfOpenError, Spec};
use super::sysfs::{EventSource, GenericEvent, RawConfig};

/// The signal that an overflow sends to the vCPU thread. The thread's handler
/// has to make it leave the guest.
///
/// # Examples
/// ```
/// use vpmu::host::linux::OverflowSignal;
///
/// let signal = OverflowSignal(34); // SIGRTMIN of Linux's libc
/// assert!(signal.0 >= 32, "a real-time signal");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowSignal(pub c_int);

impl EventSource {
    pub(super) fn spec(self, attr: &HostEvent) -> Spec {
        Spec {
            address: match attr.code {
                EventCode::Architectural(event) => self.generic(generic(event)),
                EventCode::Standard(event) => self.generic(standard(event)),
                EventCode::Raw(event) => self.raw(RawConfig::of(event.config())),
            },
            privilege: attr.privilege,
            guest_only: true,
        }
    }

    /// Tries to open `event` for the calling thread, and closes it again.
    ///
    /// # Errors
    /// [`PerfOpenError`] as the host says.
    pub fn probe(self, event: impl Into<EventCode>) -> Result<(), PerfOpenError> {
        let privilege = Privilege {
            user: true,
            kernel: true,
        };
        PerfFd::open(&self.spec(&HostEvent {
            code: event.into(),
            privilege,
        }))
        .map(drop)
    }
}

const fn generic(event: ArchEvent) -> GenericEvent {
    GenericEvent::Hardware(match event {
        ArchEvent::Cycles => bindings::PERF_COUNT_HW_CPU_CYCLES,
        ArchEvent::Instructions => bindings::PERF_COUNT_HW_INSTRUCTIONS,
        ArchEvent::BusCycles => bindings::PERF_COUNT_HW_BUS_CYCLES,
        ArchEvent::LlcReferences => bindings::PERF_COUNT_HW_CACHE_REFERENCES,
        ArchEvent::LlcMisses => bindings::PERF_COUNT_HW_CACHE_MISSES,
        ArchEvent::Branches => bindings::PERF_COUNT_HW_BRANCH_INSTRUCTIONS,
        ArchEvent::BranchMisses => bindings::PERF_COUNT_HW_BRANCH_MISSES,
        ArchEvent::RefTsc => bindings::PERF_COUNT_HW_REF_CPU_CYCLES,
    })
}

/// What `perf list` calls a hardware event or a hardware cache event.
const fn standard(event: StandardEvent) -> GenericEvent {
    use bindings::{
        PERF_COUNT_HW_CACHE_DTLB as DTLB, PERF_COUNT_HW_CACHE_ITLB as ITLB,
        PERF_COUNT_HW_CACHE_L1D as L1D, PERF_COUNT_HW_CACHE_L1I as L1I,
        PERF_COUNT_HW_CACHE_OP_PREFETCH as PREFETCH, PERF_COUNT_HW_CACHE_OP_READ as READ,
        PERF_COUNT_HW_CACHE_RESULT_ACCESS as ACCESS, PERF_COUNT_HW_CACHE_RESULT_MISS as MISS,
    };
    let (cache, operation, result) = match event {
        StandardEvent::StalledFrontend => {
            return GenericEvent::Hardware(bindings::PERF_COUNT_HW_STALLED_CYCLES_FRONTEND);
        }
        StandardEvent::StalledBackend => {
            return GenericEvent::Hardware(bindings::PERF_COUNT_HW_STALLED_CYCLES_BACKEND);
        }
        StandardEvent::L1dLoads => (L1D, READ, ACCESS),
        StandardEvent::L1dLoadMisses => (L1D, READ, MISS),
        StandardEvent::L1dPrefetches => (L1D, PREFETCH, ACCESS),
        StandardEvent::L1iLoads => (L1I, READ, ACCESS),
        StandardEvent::L1iLoadMisses => (L1I, READ, MISS),
        StandardEvent::DtlbLoads => (DTLB, READ, ACCESS),
        StandardEvent::DtlbLoadMisses => (DTLB, READ, MISS),
        StandardEvent::ItlbLoads => (ITLB, READ, ACCESS),
        StandardEvent::ItlbLoadMisses => (ITLB, READ, MISS),
    };
    // perf_event_open(2), PERF_TYPE_HW_CACHE.
    GenericEvent::Cache(cache | operation << 8 | result << 16)
}

/// The host PMU of one vCPU thread. Everything is called on that thread.
///
/// # Examples
/// ```
/// use vpmu::host::linux::{EventSource, LinuxPmu, OverflowSignal};
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// // What the host counts for this thread; nothing on a machine without a PMU.
/// let source = EventSource::Hardware;
/// let counted = ArchEvent::ALL.into_iter().filter(|event| source.probe(*event).is_ok());
/// let supported: ArchEventSet = counted.collect();
/// let pmu = LinuxPmu::new(source, supported, OverflowSignal(35));
/// # drop(pmu);
/// ```
#[derive(Debug)]
pub struct LinuxPmu {
    source: EventSource,
    supported: ArchEventSet,
    signal: OverflowSignal,
    events: [Option<PerfFd>; HostEventId::COUNT],
}

impl LinuxPmu {
    /// A driver that counts `supported` by `source`, as [`EventSource::probe`]
    /// found them.
    #[must_use]
    pub const fn new(source: EventSource, supported: ArchEventSet, signal: OverflowSignal) -> Self {
        Self {
            source,
            supported,
            signal,
            events: [const { None }; HostEventId::COUNT],
        }
    }

    fn open_event(&self, attr: &HostEvent) -> Result<PerfFd, PerfOpenError> {
        let event = PerfFd::open(&self.source.spec(attr))?;
        event.signal_this_thread(self.signal.0)?;
        Ok(event)
    }
}

impl HostPmu for LinuxPmu {
    fn supported(&self) -> ArchEventSet {
        self.supported
    }

    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        let slot = self.events.get(id.0).ok_or(HostOpenError::Unsupported)?;
        debug_assert!(
            slot.is_none(),
            "an event is closed before its successor opens"
        );
        let event = self.open_event(attr).map_err(|e| {
            if e.is_unsupported() {
                HostOpenError::Unsupported
            } else {
                HostOpenError::Host(e.errno())
            }
        })?;
        self.events[id.0] = Some(event);
        Ok(())
    }

    fn close(&mut self, id: HostEventId) {
        if let Some(slot) = self.events.get_mut(id.0) {
            *slot = None;
        }
    }

    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        let event = self.events.get_mut(id.0).and_then(Option::as_mut);
        event.ok_or(NoCounter)?.start(left)
    }

    fn stop(&mut self, id: HostEventId) {
        if let Some(event) = self.events.get_mut(id.0).and_then(Option::as_mut) {
            event.stop();
        }
    }

    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.events
            .get(id.0)
            .and_then(Option::as_ref)
            .ok_or(ReadError::Lost)?
            .read()
    }

    fn give_back(&mut self) {
        self.events.iter_mut().flatten().for_each(PerfFd::give_back);
    }

    fn can_lose(&self) -> bool {
        true
    }
}
