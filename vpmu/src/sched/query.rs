//! Looking at events without changing anything.

use alloc::string::String;

use super::Scheduler;
use super::attr::EventAttr;
use super::context::Owner;
use super::driver::PmuDriver;
use super::error::EventError;
use super::ids::{EventId, PmuId, TaskId};
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// What an event looks like from outside, as stored: nothing is brought up to date.
///
/// # Examples
/// ```
/// # use vpmu::ids::VcpuId;
/// # use vpmu::sched::constraints::{X86Model, X86Pmu};
/// # use vpmu::sched::solver::Constraint;
/// # use vpmu::sched::{Config, EventAttr, OpenRequest, PmuClass, PmuDesc, Scheduler, ScopeTopology, Target};
/// # use vpmu::units::Nanos;
/// # let decode = |_: &_| Some((Constraint::of(0b1), 1));
/// # let one = X86Pmu::new(X86Model { gp: 1, fixed: 0, decode });
/// # let mut s = Scheduler::new(Config::new(ScopeTopology::flat(1)));
/// # let pmu = s.register_pmu(PmuDesc::new("cpu", PmuClass::Hardware), one).unwrap();
/// # let attr = EventAttr::new(s.pmu(pmu).unwrap().1, 0);
/// # let request = OpenRequest::new(attr, Target::Cpu, Some(VcpuId(0)));
/// // `s` is a scheduler whose PMU has one counter.
/// let event = s.open(Nanos(0), &request).unwrap();
/// let view = s.view(event).unwrap();
/// assert_eq!((view.leader, view.siblings), (event, 0));
/// assert_eq!(view.oncpu, Some(VcpuId(0)), "it has the counter");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventView {
    /// Its number; never reused.
    pub id: u64,
    /// Its own state.
    pub state: EventState,
    /// The state as its leader lets it be (R-014).
    pub effective: EventState,
    /// The CPU it is bound to.
    pub vcpu: Option<VcpuId>,
    /// The CPU whose PMU it is on (R-016).
    pub oncpu: Option<VcpuId>,
    /// Its leader; itself if it leads.
    pub leader: EventId,
    /// How many siblings it leads.
    pub siblings: usize,
    /// The PMU that counts it.
    pub pmu: PmuId,
    /// The PMU that it is scheduled with.
    pub slice: PmuId,
    /// Count of its own, as of the last update.
    pub count: Count,
    /// Time enabled, as of the last update.
    pub enabled: Nanos,
    /// Time running, as of the last update.
    pub running: Nanos,
    /// Its attributes, with what the lookup changed.
    pub attr: EventAttr,
    /// The task it follows now; a clone switch may change it.
    pub task: Option<TaskId>,
    /// Whether it is an inherited copy.
    pub inherited: bool,
}

/// What an event's clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimes {
    /// Its state.
    pub state: EventState,
    /// The clock of its context, which drivers get as `at`.
    pub clock: Nanos,
    /// Time enabled.
    pub enabled: Nanos,
    /// Time running.
    pub running: Nanos,
}

impl<D: PmuDriver> Scheduler<D> {
    /// An event as it is stored.
    ///
    /// # Errors
    /// There is no such event.
    pub fn view(&self, id: EventId) -> Result<EventView, EventError> {
        let e = self.events.get(id).ok_or(EventError::NoEvent)?;
        let task = match self.contexts.get(e.ctx()).map(|c| c.owner) {
            Some(Owner::Task(t)) => Some(t),
            _ => None,
        };
        Ok(EventView {
            id: e.id(),
            state: e.state(),
            effective: self.effective_state(e),
            vcpu: e.vcpu(),
            oncpu: e.oncpu(),
            leader: e.leader(),
            siblings: e.siblings().len(),
            pmu: e.pmu(),
            slice: e.slice(),
            count: e.count(),
            enabled: e.enabled(),
            running: e.running(),
            attr: *e.attr(),
            task,
            inherited: e.parent().is_some(),
        })
    }

    /// Time enabled and time running of an event itself, as they are at `now`.
    ///
    /// # Errors
    /// There is no such event.
    ///
    /// Linux: `calc_timer_values`.
    pub fn times(&self, now: Nanos, id: EventId) -> Result<(Nanos, Nanos), EventError> {
        let times = self.event_times(now, id).ok_or(EventError::NoEvent)?;
        Ok((times.enabled, times.running))
    }

    /// State, times and clock of an event itself, as they are at `now`: whatever an
    /// owner needs that has the count from its driver. `None` if there is no such
    /// event.
    #[must_use]
    pub fn event_times(&self, now: Nanos, id: EventId) -> Option<EventTimes> {
        let e = self.events.get(id)?;
        let clock = match e.cgroup() {
            Some(_) => self.event_time(e),
            None => self.contexts[e.ctx()].time_at(now.max(self.now)),
        };
        let (enabled, running) = e.times_at(clock, self.effective_state(e));
        Some(EventTimes {
            state: e.state(),
            clock,
            enabled,
            running,
        })
    }

    /// The state of an event.
    #[must_use]
    pub fn state(&self, id: EventId) -> Option<EventState> {
        self.events.get(id).map(|e| e.state())
    }

    /// The place of a group among those that it takes turns with: lower ones
    /// come first. `None` for siblings, and for events that are gone.
    #[must_use]
    pub fn turn_of(&self, id: EventId) -> Option<u64> {
        self.events.get(id).and_then(|e| e.group_index())
    }

    /// All events, inherited copies too, in no particular order.
    pub fn event_ids(&self) -> impl Iterator<Item = EventId> + '_ {
        self.events.iter().map(|(id, _)| id)
    }

    /// The name of a PMU.
    #[must_use]
    pub fn pmu_name(&self, id: PmuId) -> Option<String> {
        self.pmus.get(id.index()).map(|p| p.name.clone())
    }

    /// Whether poll reports hang-up (R-063). Linux: `is_event_hup`.
    #[must_use]
    pub fn is_hung_up(&self, id: EventId) -> bool {
        self.events
            .get(id)
            .is_none_or(|e| e.state() <= EventState::Exit && e.children().is_empty())
    }

    /// Whether a user-mapped page may show a counter now (R-064).
    #[must_use]
    pub fn has_user_index(&self, id: EventId) -> bool {
        self.events
            .get(id)
            .is_some_and(|e| e.state() == EventState::Active && e.counting_on().is_some())
    }

    /// The clock that operations are at.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.now
    }
}
