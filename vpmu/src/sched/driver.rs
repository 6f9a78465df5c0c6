//! What the scheduler asks of a PMU. Linux: the callbacks of `struct pmu`.

use super::attr::EventAttr;
use super::error::Errno;
use super::ids::{EventId, PmuType};
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// Another member of the group that an event is opened into.
#[derive(Clone, Copy, Debug)]
pub struct GroupMember {
    /// The member; the PMU knows it if it is one of its own.
    pub event: EventId,
    /// Whether it belongs to the PMU that is asked.
    pub ours: bool,
    /// Its state now.
    pub state: EventState,
}

/// An event that a PMU may accept.
#[derive(Debug)]
pub struct InitRequest<'a> {
    /// Its name from now on.
    pub event: EventId,
    /// What to count; `config` of an extended event is cut to its lower half.
    pub attr: &'a EventAttr,
    /// The type that the PMU owns.
    pub own_type: PmuType,
    /// The CPU it is bound to, if any.
    pub vcpu: Option<VcpuId>,
    /// Whether it follows a task.
    pub of_task: bool,
    /// The group it joins: leader, then siblings in order; empty for a leader.
    pub group: &'a [GroupMember],
}

/// Why a PMU does not take an event.
///
/// # Examples
/// ```
/// use vpmu::sched::Errno;
/// use vpmu::sched::driver::InitError;
///
/// // The PMU knows the event, and cannot count it.
/// let error = InitError::Refused(Errno::EOPNOTSUPP);
/// assert_eq!(error.to_string(), "the PMU refuses the event: EOPNOTSUPP");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// Not an event of this PMU; the lookup may go on. ENOENT.
    #[error("the event does not belong to this PMU")]
    NotMine,
    /// Another PMU's type should be asked instead (R-096). ENOENT.
    #[error("the event belongs to the PMU of type {}", .0.0)]
    Forward(PmuType),
    /// It is this PMU's, but cannot be counted.
    #[error("the PMU refuses the event: {0}")]
    Refused(Errno),
}

/// There is no counter for the event now. EAGAIN.
///
/// # Examples
/// ```
/// use vpmu::sched::driver::AddError;
///
/// assert_eq!(AddError.to_string(), "no counter is free for the event");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no counter is free for the event")]
pub struct AddError;

/// What a transaction brackets. Linux: `PERF_PMU_TXN_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnKind {
    /// Adds, decided at commit.
    Add,
    /// Reads.
    Read,
}

/// A PMU: counters that events are placed on.
///
/// `add`, `del` and the transaction only *reserve* counters; the scheduler
/// may give an event back and reserve it again many times at one instant.
/// Counting begins with `start` and ends with `stop`, which are called once
/// for each event whose assignment really changed, after the new assignment is known and
/// with all stops before the first start; `enable` closes the batch. So a
/// driver must keep apart which counter an event *counts on* and which one it
/// has *reserved*.
///
/// What has no method here gets the kernel's defaults (R-102); disable and
/// enable do not nest, as there is one `enable` a batch (R-103, R-200, R-208).
///
/// All calls name the CPU they are for. `at` is the clock of the event's
/// context in nanoseconds, the one that its running time is measured by.
///
/// # Examples
/// ```
/// use vpmu::ids::VcpuId;
/// use vpmu::sched::driver::{AddError, InitError, InitRequest, PmuDriver};
/// use vpmu::sched::EventId;
/// use vpmu::units::{Count, Nanos};
///
/// /// A clock: every event gets a counter, which counts nanoseconds.
/// #[derive(Debug, Default)]
/// struct Clock(std::collections::BTreeMap<EventId, Nanos>);
///
/// impl PmuDriver for Clock {
///     fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
///         match request.attr.config {
///             0 => Ok(()),
///             _ => Err(InitError::NotMine),
///         }
///     }
///     fn event_destroy(&mut self, _: EventId) {}
///     fn add(&mut self, _: VcpuId, _: EventId) -> Result<(), AddError> {
///         Ok(())
///     }
///     fn del(&mut self, _: VcpuId, _: EventId) {}
///     fn start(&mut self, _: VcpuId, event: EventId, at: Nanos) {
///         self.0.insert(event, at);
///     }
///     fn stop(&mut self, cpu: VcpuId, event: EventId, at: Nanos) -> Count {
///         let counted = self.read(cpu, event, at);
///         self.0.remove(&event);
///         counted
///     }
///     fn read(&mut self, _: VcpuId, event: EventId, at: Nanos) -> Count {
///         let since = self.0.insert(event, at);
///         Count(since.map_or(0, |since| at.since(since).0))
///     }
/// }
/// ```
pub trait PmuDriver {
    /// Takes or refuses a new event, with the group it joins (R-100).
    ///
    /// # Errors
    /// [`InitError::NotMine`] lets the lookup try another PMU.
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError>;

    /// The event is gone. It is not reserved anywhere.
    fn event_destroy(&mut self, event: EventId);

    /// Reserves a counter; in an ADD transaction this may wait for commit.
    ///
    /// # Errors
    /// [`AddError`] if there is none; nothing has changed then.
    fn add(&mut self, vcpu: VcpuId, event: EventId) -> Result<(), AddError>;

    /// Gives the reservation back; in an ADD transaction undoes `add`.
    fn del(&mut self, vcpu: VcpuId, event: EventId);

    /// Begins counting on the reserved counter.
    fn start(&mut self, vcpu: VcpuId, event: EventId, at: Nanos);

    /// Ends counting; returns what has not been returned by `read` or `stop` before.
    fn stop(&mut self, vcpu: VcpuId, event: EventId, at: Nanos) -> Count;

    /// Returns what was counted since the last `start`, `read` or `stop`.
    fn read(&mut self, vcpu: VcpuId, event: EventId, at: Nanos) -> Count;

    /// Begins a transaction.
    fn start_txn(&mut self, _vcpu: VcpuId, _kind: TxnKind) {}

    /// Ends a transaction; a failed ADD stays open until `cancel_txn`.
    ///
    /// # Errors
    /// [`AddError`] if the pending adds do not all fit.
    fn commit_txn(&mut self, _vcpu: VcpuId, _kind: TxnKind) -> Result<(), AddError> {
        Ok(())
    }

    /// Ends a transaction that failed.
    fn cancel_txn(&mut self, _vcpu: VcpuId) {}

    /// A batch of changes on the CPU is complete: events whose counter moved
    /// are reprogrammed now. Linux: `pmu->pmu_enable`.
    fn enable(&mut self, _vcpu: VcpuId) {}

    /// Whether the PMU exists on the CPU (R-104). Linux: `pmu->filter`, inverted.
    fn supports(&self, _vcpu: VcpuId) -> bool {
        true
    }

    /// Whether the event is only valid as a member of a group (R-019).
    /// Linux: `PERF_EV_CAP_SIBLING`.
    fn needs_group(&self, _event: EventId) -> bool {
        false
    }

    /// Whether the outcome of adds depends only on what is reserved and on the
    /// order of the adds, not on earlier assignments. The scheduler then adds
    /// a new last group without taking its class off first.
    fn forgets(&self) -> bool {
        false
    }

    /// Whether `add` never fails, so that groups of this PMU alone are only
    /// ever refused for exclusive ones.
    fn always_fits(&self) -> bool {
        false
    }

    /// Whether a sample period in events is acceptable. Linux: `pmu->check_period`.
    fn accepts_period(&self, _event: EventId, _period: u64) -> bool {
        true
    }

    /// The sample period has changed; counting is stopped.
    fn set_period(&mut self, _event: EventId, _period: u64) {}
}
