//! The events behind the guest's counters and an operator's monitors, in one
//! scheduler.
//!
//! Each counter is an event of the one task that stands for the guest, and each
//! monitor one of the one CPU that stands for the vCPU: the classes of R-120 say
//! who has a host counter. The clock is the time that the guest ran with its PMU
//! enabled or a monitor attached, so that times stand still while nothing can
//! count.
//!
//! A guest that disables its PMU holds its events still where they are.
//! Monitors go on meanwhile: then the guest's task leaves the CPU, and
//! with it the task's clock stands.

mod monitors;
mod restore;
mod short;

use crate::host::{HostEvent, HostEventId, HostOpenError, HostPmu};
use crate::ids::{Pmc, PmcSet, VcpuId};
use crate::sched::{
    AttrFlags, Config, EventAttr, EventId, EventState, Extent, OpenRequest, PmuId, PmuType,
    Scheduler, ScopeTopology, Target, TaskId,
};
use crate::units::{Count, Nanos};

use super::counter::{Bound, Counter, Counters, Unbacked};
use super::driver::{CounterDriver, Missed};
use super::rates::Rates;
use super::turns::Turns;
use super::{CounterState, Policy, Times};

use monitors::Monitors;
pub(super) use monitors::Watched;
pub(super) use short::Starved;

/// The only CPU of a vCPU's scheduler.
pub(super) const CPU: VcpuId = VcpuId(0);
/// How often a running event is looked at, in case the host took its counter
/// away: there is no signal for that.
const LOOK_INTERVAL: Nanos = Nanos(100_000_000);

/// The scheduler of one vCPU, with the counters and monitors that have events in it.
#[derive(Debug)]
pub(super) struct EventSchedule<H> {
    pub(super) sched: Scheduler<CounterDriver<H>>,
    pub(super) pmu: PmuId,
    task: TaskId,
    pub(super) policy: Policy,
    pub(super) now: Nanos,
    next_look: Nanos,
    pub(super) counters: Counters,
    /// Of the events that were closed.
    rates: Rates,
    turns: Turns,
    /// Events that were opened for counters.
    opened: u64,
    monitors: Monitors,
    /// The guest's task is off the CPU.
    away: bool,
    pub(super) pinned_errors: u64,
    pub(super) rotations: u64,
}

impl<H: HostPmu> EventSchedule<H> {
    pub(super) fn new(host: H, policy: Policy) -> Self {
        let config = Config::new(ScopeTopology::flat(1));
        let (mut sched, pmu) = Scheduler::with_core_pmu(config, CounterDriver::new(host));
        let task = sched.create_task();
        // Cannot fail: the scheduler is new, and has this CPU and this task.
        let _ = sched.switch_to(Nanos(0), CPU, Some(task));
        Self {
            sched,
            pmu,
            task,
            policy,
            now: Nanos(0),
            next_look: LOOK_INTERVAL,
            counters: Counters::new(),
            rates: Rates::NONE,
            turns: Turns::new(),
            opened: 0,
            monitors: Monitors::default(),
            away: false,
            pinned_errors: 0,
            rotations: 0,
        }
    }

    pub(super) fn driver(&self) -> &CounterDriver<H> {
        &self.sched[self.pmu]
    }

    pub(super) fn driver_mut(&mut self) -> &mut CounterDriver<H> {
        &mut self.sched[self.pmu]
    }

    pub(super) const fn pinned_errors(&self) -> u64 {
        self.pinned_errors
    }

    pub(super) const fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Opens an event for `counts` in place of the one that the counter had. Where
    /// the host refuses, the counter has none.
    pub(super) fn open(&mut self, pmc: Pmc, counts: HostEvent) -> Result<(), HostOpenError> {
        self.close(pmc);
        let target = Target::Task(self.task);
        let event = self.open_event(pmc.into(), &counts, self.policy, target)?;
        let bound = Bound::new(pmc, event, counts, self.known_of(&counts));
        self.counters.put(pmc, Counter::Bound(bound));
        self.opened += 1;
        Ok(())
    }

    /// A disabled event.
    fn open_event(
        &mut self,
        id: HostEventId,
        counts: &HostEvent,
        policy: Policy,
        target: Target,
    ) -> Result<EventId, HostOpenError> {
        self.driver_mut().open(id, counts)?;
        // What it counts is the driver's to know.
        let mut attr =
            EventAttr::new(PmuType::RAW, 0).with(AttrFlags::EXCLUDE_HOST | AttrFlags::DISABLED);
        attr.flags.set(AttrFlags::PINNED, policy == Policy::Pinned);
        let vcpu = (target == Target::Cpu).then_some(CPU);
        let mut request = OpenRequest::new(attr, target, vcpu);
        request.in_kernel = true;
        self.sched.open(self.now, &request).map_err(|error| {
            self.sched[self.pmu].close_untaken();
            HostOpenError::Host(error.errno() as i32)
        })
    }

    /// The counter has no event any more.
    pub(super) fn close(&mut self, pmc: Pmc) {
        if let Some(bound) = self.counters.bound(pmc) {
            let event = bound.event;
            self.remember(pmc);
            self.counters.put(pmc, Counter::Off);
            let _ = self.sched.close(self.now, event);
            self.settle();
        }
    }

    /// The guest wants an event of the counter that it does not get: the counter's
    /// event is closed. Says whether the reason is a new one.
    pub(super) fn forsake(&mut self, pmc: Pmc, why: Unbacked) -> bool {
        self.close(pmc);
        let before = self.counters.put(pmc, Counter::Unbacked(why));
        !matches!(before, Counter::Unbacked(known) if known == why)
    }

    /// Lets the counter's event compete for a counter, or not.
    pub(super) fn set_enabled(&mut self, pmc: Pmc, enabled: bool) {
        let Some(bound) = self.counters.bound_mut(pmc) else {
            return;
        };
        bound.error_noted = false;
        let id = bound.event;
        self.counters.set_enabled(pmc, enabled);
        let _ = if enabled {
            self.sched.enable(self.now, id, Extent::Event)
        } else {
            self.sched.disable(self.now, id, Extent::Event)
        };
        self.settle();
    }

    /// The state of the counter's event in the schedule.
    pub(super) fn event_state(&self, pmc: Pmc) -> Option<EventState> {
        self.sched.state(self.counters.bound(pmc)?.event)
    }

    /// What became of the counter's last demand.
    pub(super) fn state(&self, pmc: Pmc) -> CounterState {
        match self.counters.get(pmc) {
            Counter::Unbacked(why) => (*why).into(),
            Counter::Bound(bound) if self.counters.wanted().contains(pmc) => {
                self.sched.state(bound.event).into()
            }
            Counter::Bound(_) | Counter::Off => CounterState::Off,
        }
    }

    /// The times of the counter's event, as they were at its last read.
    pub(super) fn times(&self, pmc: Pmc) -> Times {
        self.counters
            .bound(pmc)
            .map_or(Times::default(), |bound| bound.times)
    }

    /// The times of the counter's event now.
    pub(super) fn times_now(&self, pmc: Pmc) -> Times {
        let bound = self.counters.bound(pmc);
        bound.map_or(Times::default(), |bound| self.times_of(bound))
    }

    fn times_of(&self, bound: &Bound) -> Times {
        let times = self.sched.event_times(self.now, bound.event);
        times.map_or(bound.times, |times| {
            let missed = self.missed(bound.pmc, times.clock).time;
            let running = times.running.since(missed);
            bound.before.1.and_then(times.enabled, running)
        })
    }

    /// What does not count of the counter's event: of pinned ones, of which nothing is
    /// estimated, all does. `at` is the clock of the event's context.
    fn missed(&self, pmc: Pmc, at: Nanos) -> Missed {
        match self.policy {
            Policy::Flexible => self.driver().missed(pmc.into(), at),
            Policy::Pinned => Missed::default(),
        }
    }

    /// Takes what the counter has counted, if that is as much as `distance`: its overflow.
    /// An estimate that the guest does not see is left to get better.
    pub(super) fn progress_up_to(&mut self, pmc: Pmc, distance: Count) -> Count {
        match self.note_count(pmc) {
            Some(bound) if !bound.times.is_scaled() || bound.progress() >= distance => bound.take(),
            _ => Count(0),
        }
    }

    /// The events since the last time: counted, or estimated where the event did
    /// not have a counter all the time.
    pub(super) fn progress(&mut self, pmc: Pmc) -> Count {
        self.note_count(pmc).map_or(Count(0), Bound::take)
    }

    /// The counter with its count and times as of now; `None` if it has no event.
    fn note_count(&mut self, pmc: Pmc) -> Option<&mut Bound> {
        let bound = self.counters.bound(pmc)?;
        let (id, driver) = (pmc.into(), self.driver());
        if bound
            .read_at(self.now)
            .is_some_and(|count| !driver.differs(id, count))
        {
            return self.counters.bound_mut(pmc);
        }
        let times = self.sched.event_times(self.now, bound.event)?;
        // A pinned event without a counter cannot be read: it stays where it was.
        if self.policy == Policy::Flexible || times.state == EventState::Active {
            let count = self.sched[self.pmu].count(id, times.clock);
            let missed = self.missed(pmc, times.clock);
            let bound = self.counters.bound_mut(pmc)?;
            bound.note(self.now, count, (times.enabled, times.running), missed);
        }
        self.counters.bound_mut(pmc)
    }

    /// No counter has an event any more.
    pub(super) fn close_all(&mut self) {
        for pmc in self.counters.with_event().iter() {
            self.close(pmc);
        }
    }

    /// The counters as after RESET: off, and without events.
    pub(super) fn reset(&mut self) {
        self.close_all();
        self.counters = Counters::new();
    }

    /// The guest's overflow is `distance` events away.
    pub(super) fn aim(&mut self, pmc: Pmc, distance: Count) {
        if let Some(bound) = self.counters.bound(pmc) {
            let left = bound.left(distance);
            self.driver_mut().aim(pmc.into(), left);
        }
    }

    /// The guest's PMU is disabled: its events stand still. They keep their
    /// counters, but where there are monitors that may have use for them.
    pub(super) fn pause(&mut self) {
        self.counters.set_paused(true);
        if self.has_monitors() {
            self.leave();
        } else if !self.away {
            self.driver_mut().pause();
        }
    }

    /// The guest's PMU is enabled.
    pub(super) fn resume(&mut self) {
        self.counters.set_paused(false);
        self.come_back();
        self.driver_mut().resume();
        self.settle();
    }

    /// The counters that the guest wants to count and that have an event.
    pub(super) const fn wanted(&self) -> PmcSet {
        self.counters.wanted()
    }

    /// The counters whose events compete for a host counter; beyond the wanted
    /// ones, those that a paused PMU holds still.
    pub(super) const fn enabled(&self) -> PmcSet {
        self.counters.enabled()
    }

    /// The guest ran for `span`, with its PMU enabled or a monitor attached.
    pub(super) fn ran(&mut self, span: Nanos) {
        self.now += span;
        self.driver_mut().guest_ran(span);
    }

    /// Guest time until something is to be done here.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let driver = self.driver();
        let rotation = self.sched.next_timer().map(|t| t.at.since(self.now));
        let look = (driver.host().can_lose() && driver.is_counting())
            .then(|| self.next_look.since(self.now));
        let overflow = driver.host().next_exit();
        [rotation, look, overflow].into_iter().flatten().min()
    }

    /// Whether a rotation is due.
    pub(super) fn rotation_is_due(&self) -> bool {
        self.sched.next_timer().is_some_and(|t| t.at <= self.now)
    }

    /// Running events were looked at.
    pub(super) fn looked(&mut self) {
        self.next_look = self.now + LOOK_INTERVAL;
        self.read_monitors();
        self.settle();
    }
}
