//! The driver contract.

use alloc::boxed::Box;
use core::fmt;

use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet};

/// A host event of one vCPU. The caller numbers them: small, dense, reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostEventId(pub usize);

/// The guest privilege levels in which an event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Levels 1 to 3.
    pub user: bool,
    /// Level 0.
    pub kernel: bool,
}

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventAttr {
    /// The event.
    pub event: ArchEvent,
    /// Where it counts. A clock cannot see the level and counts in both.
    pub privilege: Privilege,
}

/// Why [`HostPmu::add`] gave no counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// All counters are taken; may succeed later.
    #[error("no host counter is free")]
    Busy,
    /// This PMU cannot count the event, now or ever.
    #[error("the host PMU does not count this event")]
    Unsupported,
    /// The host refused, with this errno.
    #[error("perf_event_open failed with errno {0}")]
    Host(i32),
}

/// Why [`HostPmu::read`] gave no count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The host took the counter away: its event is in the error state.
    #[error("the host took the counter away")]
    Lost,
    /// The host refused, with this errno.
    #[error("reading the host event failed with errno {0}")]
    Host(i32),
}

/// A host PMU, as one vCPU thread uses it.
///
/// `add` and `del` reserve and release a counter. `start` and `stop` let it
/// count and hold it still, and keep it reserved: an event that the guest
/// stops and starts at each of its context switches costs the host no more
/// than that. Counts are of guest execution alone.
///
/// Linux: `struct pmu`, whose `start`/`stop` were split from `add`/`del` in 2010.
pub trait HostPmu: fmt::Debug {
    /// The events that this PMU counts.
    fn supported(&self) -> ArchEventSet;

    /// Reserves a counter for `attr`, stopped, with a count of 0. `id` must be
    /// free.
    ///
    /// # Errors
    /// [`AddError`]; nothing is reserved then.
    fn add(&mut self, id: HostEventId, attr: &EventAttr) -> Result<(), AddError>;

    /// Stops and releases; `id` is free afterwards. No-op on a free one.
    fn del(&mut self, id: HostEventId);

    /// Lets the event count, and has the vCPU leave the guest soon after `left`
    /// more events. On a running event: sets the distance anew.
    ///
    /// Linux: `start` with `PERF_EF_RELOAD`.
    fn start(&mut self, id: HostEventId, left: Count);

    /// Holds the event still: the count does not move until the next `start`.
    fn stop(&mut self, id: HostEventId);

    /// The count since `add`.
    ///
    /// # Errors
    /// [`ReadError`] if the host has no count to give: never a made-up one.
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError>;

    /// Tells a PMU that counts time how much of it the guest ran. PMUs that
    /// count by themselves ignore it.
    fn guest_ran(&mut self, span: Nanos) {
        let _ = span;
    }

    /// Whether a running event needs [`HostPmu::guest_ran`].
    fn wants_guest_time(&self) -> bool {
        false
    }

    /// Guest time from now to the next overflow, for PMUs that have no
    /// interrupt of their own; `None` if nothing is due.
    fn next_overflow(&self) -> Option<Nanos> {
        None
    }
}

impl<P: HostPmu + ?Sized> HostPmu for Box<P> {
    fn supported(&self) -> ArchEventSet {
        (**self).supported()
    }
    fn add(&mut self, id: HostEventId, attr: &EventAttr) -> Result<(), AddError> {
        (**self).add(id, attr)
    }
    fn del(&mut self, id: HostEventId) {
        (**self).del(id);
    }
    fn start(&mut self, id: HostEventId, left: Count) {
        (**self).start(id, left);
    }
    fn stop(&mut self, id: HostEventId) {
        (**self).stop(id);
    }
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        (**self).read(id)
    }
    fn guest_ran(&mut self, span: Nanos) {
        (**self).guest_ran(span);
    }
    fn wants_guest_time(&self) -> bool {
        (**self).wants_guest_time()
    }
    fn next_overflow(&self) -> Option<Nanos> {
        (**self).next_overflow()
    }
}
