//! One event. Linux: `struct perf_event`.

use alloc::vec::Vec;

use super::attr::{AttrFlags, EventAttr, ReadFormat};
use super::ids::{CgroupId, ContextId, EventId, PmuId};
use super::state::{EventCaps, EventState, GroupSet};
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// Sums that exited children fed back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildTotals {
    pub(crate) count: Count,
    pub(crate) enabled: Nanos,
    pub(crate) running: Nanos,
}

/// The part of an event that belongs to sampling. Linux: `struct hw_perf_event`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Period in events that the PMU is to use.
    pub(crate) period: u64,
    /// Period of the last interrupt.
    pub(crate) last_period: u64,
    /// Events left of the current period.
    pub(crate) period_left: i64,
    /// Interrupts in the current tick.
    pub(crate) interrupts: u32,
    /// Stopped by the throttle.
    pub(crate) throttled: bool,
    /// The tick that `interrupts` belongs to.
    pub(crate) tick: u64,
    /// Clock at the last overflow, for frequency mode.
    pub(crate) freq_stamp: Nanos,
    /// Count at the last tick, for frequency mode.
    pub(crate) freq_count: Count,
    /// Overflows left before the event is disabled; 0: no budget.
    pub(crate) event_limit: i32,
}

/// Which tree of ready groups a leader is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Needs counters: refused after the first failure of a pass.
    Hardware,
    /// Pure software: always tried.
    Software,
}

/// An event; a leader knows its siblings in the order of attach.
#[derive(Debug)]
pub(crate) struct PerfEvent {
    /// Number shown to readers; never reused.
    pub(crate) id: u64,
    pub(crate) attr: EventAttr,
    pub(crate) vcpu: Option<VcpuId>,
    pub(crate) cgroup: Option<CgroupId>,
    pub(crate) of_task: bool,
    /// Counted in its PMU's exclusive use.
    pub(crate) holds_exclusive: bool,
    pub(crate) ctx: ContextId,
    /// The PMU that counts it.
    pub(crate) pmu: PmuId,
    /// The PMU whose slice of the context it is scheduled with.
    pub(crate) slice: PmuId,

    pub(crate) state: EventState,
    pub(crate) oncpu: Option<VcpuId>,
    pub(crate) pending_disable: bool,
    /// Enabled when it was taken out for a migration.
    pub(crate) was_enabled: bool,

    pub(crate) leader: EventId,
    pub(crate) siblings: Vec<EventId>,
    pub(crate) caps: EventCaps,
    /// The AND of the members' capabilities.
    pub(crate) group_caps: EventCaps,
    pub(crate) group_generation: u64,
    /// Linux: `PERF_ATTACH_GROUP`.
    pub(crate) in_group: bool,
    /// Position in the context's list of events, if it is in it. Linux: `PERF_ATTACH_CONTEXT`.
    pub(crate) list_seq: Option<u64>,
    /// Position in its set of groups, if it is in one.
    pub(crate) group_index: Option<u64>,
    pub(crate) ready: Option<Ready>,
    /// Neighbours in the active list of its slice.
    pub(crate) in_active_list: bool,
    pub(crate) active_prev: Option<EventId>,
    pub(crate) active_next: Option<EventId>,

    pub(crate) stamp: Nanos,
    pub(crate) enabled: Nanos,
    pub(crate) running: Nanos,
    pub(crate) count: Count,
    pub(crate) totals: ChildTotals,

    pub(crate) parent: Option<EventId>,
    /// Linux: `PERF_ATTACH_CHILD`.
    pub(crate) child_attached: bool,
    pub(crate) children: Vec<EventId>,

    pub(crate) sampling: Sampling,
    /// Where its PMU was told to start and not yet to stop.
    pub(crate) counting_on: Option<VcpuId>,
    /// Taken in or out since the last time its PMU was enabled.
    pub(crate) touched: bool,
}

impl PerfEvent {
    pub(crate) const fn set(&self) -> GroupSet {
        if self.attr.has(AttrFlags::PINNED) {
            GroupSet::Pinned
        } else {
            GroupSet::Flexible
        }
    }

    pub(crate) const fn is_software(&self) -> bool {
        self.caps.contains(EventCaps::SOFTWARE)
    }

    /// Linux: `perf_event__state_init`.
    pub(crate) const fn initial_state(attr: &EventAttr) -> EventState {
        if attr.has(AttrFlags::DISABLED) {
            EventState::Off
        } else {
            EventState::Inactive
        }
    }
}

/// Bytes that a read of a group of `members` returns. Linux: `__perf_event_read_size`.
#[must_use]
pub(crate) fn read_size(format: ReadFormat, members: usize) -> usize {
    let word = |f| if format.contains(f) { 8 } else { 0 };
    let entry = 8 + word(ReadFormat::ID) + word(ReadFormat::LOST);
    let n = if format.contains(ReadFormat::GROUP) {
        members
    } else {
        1
    };
    word(ReadFormat::TOTAL_TIME_ENABLED)
        + word(ReadFormat::TOTAL_TIME_RUNNING)
        + word(ReadFormat::GROUP)
        + n * entry
}
