//! One event. Linux: `struct perf_event`.
//!
//! An event is made of parts. Each part has private fields and stands in the
//! file that keeps it consistent; the others read through methods. A part is made
//! with its event ([`Birth`]) and never copied, so that no other file replaces it.
//!
//! | part | file | holds |
//! |---|---|---|
//! | [`PerfEvent`] itself | `event` | what to count, for whom, on which PMU, in which context |
//! | [`StateTimes`] | `clock` | state, time enabled, time running |
//! | [`GroupLinks`] | `lists` | leader, siblings, places in the lists of the context |
//! | [`ActiveLinks`] | `context` | neighbours in the active list of the slice |
//! | [`Counting`] | `commit` | reservation, where it counts, the count |
//! | [`Sampling`] | `overflow` | period, throttling, budget |
//! | [`Family`] | `inherit` | parent, children, what exited children counted |

use super::attr::{AttrFlags, EventAttr, ReadFormat};
use super::clock::StateTimes;
use super::commit::Counting;
use super::context::ActiveLinks;
use super::find_pmu::Draft;
use super::ids::{CgroupId, ContextId, EventId, PmuId};
use super::inherit::Family;
use super::lists::GroupLinks;
use super::overflow::Sampling;
use super::state::{EventCaps, EventState, GroupSet};
use crate::ids::VcpuId;

/// Which tree of ready groups a leader is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Needs counters: refused after the first failure of a pass.
    Hardware,
    /// Pure software: always tried.
    Software,
}

/// An event is being made. Only this file can say so, and the parts of an event
/// are made from it: no other file can put a new part into an event.
#[derive(Debug)]
pub(super) struct Birth(());

/// An event; a leader knows its siblings in the order of attach.
#[derive(Debug)]
pub(crate) struct PerfEvent {
    /// Number shown to readers; never reused.
    id: u64,
    attr: EventAttr,
    vcpu: Option<VcpuId>,
    cgroup: Option<CgroupId>,
    of_task: bool,
    /// Counted in its PMU's exclusive use.
    holds_exclusive: bool,
    ctx: ContextId,
    /// The PMU that counts it.
    pmu: PmuId,
    /// The PMU whose slice of the context it is scheduled with.
    slice: PmuId,
    caps: EventCaps,
    pub(super) times: StateTimes,
    pub(super) links: GroupLinks,
    pub(super) active: ActiveLinks,
    pub(super) counting: Counting,
    pub(super) sampling: Sampling,
    pub(super) family: Family,
}

impl PerfEvent {
    /// An event with nothing decided but its attributes and its leader.
    pub(crate) fn new(id: u64, attr: EventAttr, leader: Option<EventId>) -> Self {
        let birth = Birth(());
        Self {
            id,
            attr,
            vcpu: None,
            cgroup: None,
            of_task: false,
            holds_exclusive: false,
            ctx: ContextId {
                index: u32::MAX,
                generation: u32::MAX,
            },
            pmu: PmuId(0),
            slice: PmuId(0),
            caps: EventCaps::empty(),
            times: StateTimes::new(&birth, Self::initial_state(&attr)),
            links: GroupLinks::new(&birth, leader),
            active: ActiveLinks::new(&birth),
            counting: Counting::new(&birth),
            sampling: Sampling::new(&birth, &attr),
            family: Family::new(&birth),
        }
    }

    /// The number that readers see.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// What to count.
    pub(crate) const fn attr(&self) -> &EventAttr {
        &self.attr
    }

    /// The only CPU that it may be on, if not any.
    pub(crate) const fn vcpu(&self) -> Option<VcpuId> {
        self.vcpu
    }

    /// The cgroup that it follows.
    pub(crate) const fn cgroup(&self) -> Option<CgroupId> {
        self.cgroup
    }

    /// Whether it follows a task.
    pub(crate) const fn of_task(&self) -> bool {
        self.of_task
    }

    /// Whether it is counted in its PMU's exclusive use.
    pub(crate) const fn holds_exclusive(&self) -> bool {
        self.holds_exclusive
    }

    /// Its context, installed there or not.
    pub(crate) const fn ctx(&self) -> ContextId {
        self.ctx
    }

    /// The PMU that counts it.
    pub(crate) const fn pmu(&self) -> PmuId {
        self.pmu
    }

    /// The PMU whose slice of the context it is scheduled with.
    pub(crate) const fn slice(&self) -> PmuId {
        self.slice
    }

    /// Its own capabilities.
    pub(crate) const fn caps(&self) -> EventCaps {
        self.caps
    }

    /// A PMU has taken the event, as the draft became on the way.
    pub(crate) fn taken_by(&mut self, pmu: PmuId, draft: &Draft<'_>) {
        (self.attr, self.vcpu, self.caps) = (draft.attr, draft.vcpu, draft.caps);
        (self.pmu, self.slice, self.of_task) = (pmu, pmu, draft.of_task);
    }

    /// Names its context; the caller counts the reference.
    pub(crate) const fn join_context(&mut self, ctx: ContextId) {
        self.ctx = ctx;
    }

    /// Names the slice that it will be installed with. Not while it is in a list.
    pub(crate) fn schedule_with(&mut self, slice: PmuId) {
        debug_assert!(
            self.list_seq().is_none(),
            "an installed event keeps its slice"
        );
        self.slice = slice;
    }

    /// Binds it to another CPU's context and to a slice there. Not while it is in a list.
    pub(crate) fn move_to(&mut self, vcpu: VcpuId, ctx: ContextId, slice: PmuId) {
        (self.vcpu, self.ctx) = (Some(vcpu), ctx);
        self.schedule_with(slice);
    }

    /// Follows a cgroup.
    pub(crate) const fn follow_cgroup(&mut self, cgroup: CgroupId) {
        self.cgroup = Some(cgroup);
    }

    /// The PMU has counted it in its exclusive use.
    pub(crate) const fn mark_exclusive(&mut self) {
        self.holds_exclusive = true;
    }

    /// Changes the sample period or frequency.
    pub(crate) const fn set_sample(&mut self, value: u64) {
        self.attr.sample = value;
    }

    /// The set of groups that it belongs to as a leader.
    pub(crate) const fn set(&self) -> GroupSet {
        if self.attr.has(AttrFlags::PINNED) {
            GroupSet::Pinned
        } else {
            GroupSet::Flexible
        }
    }

    /// Whether it is an event of a software PMU.
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
