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

mod carried;
mod losses;
mod monitors;

use crate::host::{HostEvent, HostEventId, HostOpenError, HostPmu};
use crate::ids::{Pmc, VcpuId};
use crate::sched::{
    AttrFlags, Config, EventId, EventState, Extent, OpenError as SchedError, OpenRequest, PmuClass,
    PmuDesc, PmuId, PmuType, Scheduler, Target, TaskId, Topology,
};
use crate::units::{Count, Nanos};

use super::driver::{self, CounterDriver};
use super::{Policy, Times};

use monitors::Monitors;
pub(super) use monitors::Watched;

/// The only CPU of a vCPU's scheduler.
const CPU: VcpuId = VcpuId(0);
/// How often a running event is looked at, in case the host took its counter
/// away: there is no signal for that.
const LOOK_INTERVAL: Nanos = Nanos(100_000_000);

/// The event of one counter.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    event: EventId,
    attr: HostEvent,
    /// What it had counted when it was last read.
    count: u64,
    times: Times,
    /// What of the whole was handed on; it never gets less.
    taken: u64,
    /// It was noted that it was stopped without ever having had a counter.
    starved: bool,
    /// What it had counted before it was restored, and when.
    before: (u64, Times),
}

/// The scheduler of one vCPU and what its counters have in it.
#[derive(Debug)]
pub(super) struct Backing<H> {
    sched: Scheduler<CounterDriver<H>>,
    pmu: PmuId,
    task: TaskId,
    policy: Policy,
    now: Nanos,
    next_look: Nanos,
    /// By [`Pmc::slot`].
    events: [Option<Tracked>; Pmc::SLOTS],
    /// Slots whose error was counted, as bits.
    in_error: u32,
    monitors: Monitors,
    /// The guest's task is off the CPU.
    away: bool,
    pinned_errors: u64,
    rotations: u64,
}

impl<H: HostPmu> Backing<H> {
    pub(super) fn new(host: H, policy: Policy) -> Self {
        let mut sched = Scheduler::new(Config::new(Topology::flat(1)));
        let mut desc = PmuDesc::new("host", PmuClass::Hardware);
        desc.pmu_type = Some(PmuType::RAW);
        // Neither can fail in a new scheduler of one CPU, and PMU 0 is its first.
        let pmu = sched
            .register_pmu(desc, CounterDriver::new(host))
            .unwrap_or(PmuId(0));
        let task = sched.create_task();
        let _ = sched.switch_to(Nanos(0), CPU, Some(task));
        Self {
            sched,
            pmu,
            task,
            policy,
            now: Nanos(0),
            next_look: LOOK_INTERVAL,
            events: [None; Pmc::SLOTS],
            in_error: 0,
            monitors: Monitors::default(),
            away: false,
            pinned_errors: 0,
            rotations: 0,
        }
    }

    pub(super) fn driver(&self) -> Option<&CounterDriver<H>> {
        self.sched.driver(self.pmu)
    }

    pub(super) fn driver_mut(&mut self) -> Option<&mut CounterDriver<H>> {
        self.sched.driver_mut(self.pmu)
    }

    pub(super) const fn pinned_errors(&self) -> u64 {
        self.pinned_errors
    }

    pub(super) const fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Whether the counter's event is one for `attr`.
    pub(super) fn has(&self, slot: usize, attr: &HostEvent) -> bool {
        self.events[slot].is_some_and(|e| e.attr == *attr)
    }

    /// Opens an event for `attr` in place of the one that the counter had.
    pub(super) fn open(&mut self, slot: usize, attr: HostEvent) -> Result<(), HostOpenError> {
        self.close(slot);
        let target = Target::Task(self.task);
        let event = self.open_event(HostEventId(slot), &attr, self.policy, target)?;
        self.events[slot] = Some(Tracked {
            event,
            attr,
            count: 0,
            times: Times::default(),
            taken: 0,
            starved: false,
            before: (0, Times::default()),
        });
        Ok(())
    }

    /// A disabled event.
    fn open_event(
        &mut self,
        id: HostEventId,
        attr: &HostEvent,
        policy: Policy,
        target: Target,
    ) -> Result<EventId, HostOpenError> {
        let mut encoded = driver::encode(id, attr);
        let pinned = policy == Policy::Pinned;
        encoded.flags.set(AttrFlags::PINNED, pinned);
        let vcpu = (target == Target::Cpu).then_some(CPU);
        let mut request = OpenRequest::new(encoded, target, vcpu);
        request.in_kernel = true;
        let opened = self.sched.open(self.now, &request);
        opened.map_err(|error| self.refusal(&error))
    }

    fn refusal(&mut self, error: &SchedError) -> HostOpenError {
        let said = self.driver_mut().and_then(CounterDriver::take_refusal);
        said.unwrap_or_else(|| HostOpenError::Host(error.errno() as i32))
    }

    /// The counter has no event any more.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(event) = self.events[slot].take() {
            self.in_error &= !(1 << slot);
            let _ = self.sched.close(self.now, event.event);
            self.settle();
        }
    }

    /// Lets the counter's event compete for a counter, or not.
    pub(super) fn set_enabled(&mut self, slot: usize, enabled: bool) {
        let Some(event) = &self.events[slot] else {
            return;
        };
        let id = event.event;
        self.in_error &= !(1 << slot);
        let _ = if enabled {
            self.sched.enable(self.now, id, Extent::Event)
        } else {
            self.sched.disable(self.now, id, Extent::Event)
        };
        self.settle();
    }

    /// The state of the counter's event.
    pub(super) fn state(&self, slot: usize) -> Option<EventState> {
        self.sched.state(self.events[slot]?.event)
    }

    /// The times of the counter's event, as they were at its last read.
    pub(super) fn times(&self, slot: usize) -> Times {
        self.events[slot].map_or(Times::default(), |e| e.times)
    }

    /// The times of the counter's event now.
    pub(super) fn times_now(&self, slot: usize) -> Times {
        let Some(event) = self.events[slot] else {
            return Times::default();
        };
        let times = self.sched.times(self.now, event.event);
        times.map_or(event.times, |(enabled, running)| {
            event.before.1.and_then(enabled, running)
        })
    }

    /// Whether the counter's event, which the guest stops, has been wanted and
    /// never had a counter: the guest has no count and no estimate. Said once for
    /// each event.
    pub(super) fn is_newly_starved(&mut self, slot: usize) -> bool {
        let times = self.times_now(slot);
        let starved = times.running == Nanos(0) && times.enabled > Nanos(0);
        let event = self.events[slot].as_mut().filter(|e| starved && !e.starved);
        event.map(|e| e.starved = true).is_some()
    }

    /// The events since the last time: counted, or estimated where the event did
    /// not have a counter all the time. Never negative: an estimate that was too
    /// high is made up for by the next ones.
    pub(super) fn progress(&mut self, slot: usize) -> Count {
        let Some(event) = self.events[slot].as_mut() else {
            return Count(0);
        };
        let read = self
            .sched
            .read_local(self.now, event.event, CPU, Some(self.task));
        // A pinned event in ERROR cannot be read: it stays where it was.
        if let Ok((count, enabled, running)) = read {
            event.count = event.before.0.wrapping_add(count.0);
            event.times = event.before.1.and_then(enabled, running);
        }
        let whole = event.times.whole(event.count);
        let progress = whole.saturating_sub(event.taken);
        event.taken += progress;
        Count(progress)
    }

    /// The guest's overflow is `distance` events away.
    pub(super) fn aim(&mut self, slot: usize, distance: Count) {
        let Some(event) = &self.events[slot] else {
            return;
        };
        let target = event.taken.saturating_add(distance.0);
        let left = event.times.part(target).saturating_sub(event.count).max(1);
        if let Some(driver) = self.driver_mut() {
            driver.aim(slot, Count(left));
        }
    }

    /// The guest's PMU is disabled: its events stand still. They keep their
    /// counters, but where there are monitors that may have use for them.
    pub(super) fn pause(&mut self) {
        if self.has_monitors() {
            self.leave();
        } else if !self.away
            && let Some(driver) = self.driver_mut()
        {
            driver.pause();
        }
    }

    /// The guest's PMU is enabled.
    pub(super) fn resume(&mut self) {
        self.come_back();
        if let Some(driver) = self.driver_mut() {
            driver.resume();
        }
        self.settle();
    }

    /// The guest ran for `span`, with its PMU enabled or a monitor attached.
    pub(super) fn ran(&mut self, span: Nanos) {
        self.now += span;
        if let Some(driver) = self.driver_mut() {
            driver.guest_ran(span);
        }
    }

    /// Guest time until something is to be done here.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let driver = self.driver()?;
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

    /// Rotates.
    pub(super) fn rotate(&mut self) {
        let hoped = self.driver_mut().and_then(CounterDriver::hope);
        self.sched.fire_timer(self.now, CPU, self.pmu);
        self.settle();
        if self.sched.next_timer().is_some() {
            self.rotations += 1;
        } else if self.policy == Policy::Pinned {
            self.forget_limit_unless_tried();
        }
        if let Some(counters) = hoped
            && !self.driver_mut().is_some_and(|p| p.came_true(counters))
        {
            // The host took the counter from the event that was opened last: the
            // one that was tried in vain gives it back.
            self.sched.resched_pmu(self.now, CPU, self.pmu);
            self.settle();
        }
    }
}
