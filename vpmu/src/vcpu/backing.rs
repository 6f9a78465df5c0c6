//! The events behind the guest's counters: one task of a scheduler.
//!
//! Each counter is an event of the one task that stands for the guest, on the
//! one CPU that stands for the vCPU. Its clock is the time that the guest ran
//! with its PMU enabled, so that times stand still while nothing can count.

mod carried;

use crate::host::{EventAttr as HostAttr, HostPmu, OpenError};
use crate::ids::{Pmc, VcpuId};
use crate::sched::{
    AttrFlags, Config, EventId, EventState, Extent, OpenError as SchedError, OpenRequest, PmuClass,
    PmuDesc, PmuId, PmuType, Scheduler, Target, TaskId, Topology,
};
use crate::units::{Count, Nanos};

use super::Policy;
use super::placement::{self, Placement};

pub(crate) use carried::Carried;

/// The only CPU and the only PMU of a vCPU's scheduler.
const CPU: VcpuId = VcpuId(0);
/// How often a running event is looked at, in case the host took its counter
/// away: there is no signal for that.
const LOOK_INTERVAL: Nanos = Nanos(100_000_000);

/// How long an event was wanted, and how long it had a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Guest time for which the guest wanted it.
    pub enabled: Nanos,
    /// Guest time for which it had a counter.
    pub running: Nanos,
}

impl Times {
    /// These, and then those.
    fn and_then(self, enabled: Nanos, running: Nanos) -> Self {
        Self {
            enabled: self.enabled + enabled,
            running: self.running + running,
        }
    }

    /// Whether the count is an estimate for the whole from a part.
    #[must_use]
    pub fn is_scaled(&self) -> bool {
        self.enabled != self.running
    }

    /// The estimate for the whole time from a count of the running time. Of an
    /// event that never ran nothing is known: 0.
    fn whole(&self, count: u64) -> u64 {
        if !self.is_scaled() {
            return count;
        }
        if self.running == Nanos(0) {
            return 0;
        }
        let whole = u128::from(count) * u128::from(self.enabled.0) / u128::from(self.running.0);
        u64::try_from(whole).unwrap_or(u64::MAX)
    }

    /// The count of the running time at which the estimate reaches `whole`.
    fn part(&self, whole: u64) -> u64 {
        if !self.is_scaled() || self.running == Nanos(0) {
            return whole;
        }
        let part = (u128::from(whole) * u128::from(self.running.0))
            .div_ceil(u128::from(self.enabled.0.max(1)));
        u64::try_from(part).unwrap_or(u64::MAX)
    }
}

/// The event of one counter.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    event: EventId,
    attr: HostAttr,
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
    sched: Scheduler<Placement<H>>,
    pmu: PmuId,
    task: TaskId,
    policy: Policy,
    now: Nanos,
    next_look: Nanos,
    /// By [`Pmc::slot`].
    events: [Option<Tracked>; Pmc::SLOTS],
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
            .register_pmu(desc, Placement::new(host))
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
            pinned_errors: 0,
            rotations: 0,
        }
    }

    pub(super) fn placement(&self) -> Option<&Placement<H>> {
        self.sched.driver(self.pmu)
    }

    pub(super) fn placement_mut(&mut self) -> Option<&mut Placement<H>> {
        self.sched.driver_mut(self.pmu)
    }

    pub(super) const fn pinned_errors(&self) -> u64 {
        self.pinned_errors
    }

    pub(super) const fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Whether the counter's event is one for `attr`.
    pub(super) fn has(&self, slot: usize, attr: &HostAttr) -> bool {
        self.events[slot].is_some_and(|e| e.attr == *attr)
    }

    /// Opens an event for `attr` in place of the one that the counter had.
    pub(super) fn open(&mut self, slot: usize, attr: HostAttr) -> Result<(), OpenError> {
        self.close(slot);
        let mut encoded = placement::encode(slot, &attr);
        encoded
            .flags
            .set(AttrFlags::PINNED, self.policy == Policy::Pinned);
        let mut request = OpenRequest::new(encoded, Target::Task(self.task), None);
        request.in_kernel = true;
        match self.sched.open(self.now, &request) {
            Ok(event) => {
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
            Err(error) => Err(self.refusal(&error)),
        }
    }

    fn refusal(&mut self, error: &SchedError) -> OpenError {
        let said = self.placement_mut().and_then(Placement::take_refusal);
        said.unwrap_or_else(|| OpenError::Host(error.errno() as i32))
    }

    /// The counter has no event any more.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(event) = self.events[slot].take() {
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
        if let Some(placement) = self.placement_mut() {
            placement.aim(slot, Count(left));
        }
    }

    /// The guest's PMU is disabled: events keep their counters and stand still.
    pub(super) fn pause(&mut self) {
        if let Some(placement) = self.placement_mut() {
            placement.pause();
        }
    }

    /// The guest's PMU is enabled.
    pub(super) fn resume(&mut self) {
        if let Some(placement) = self.placement_mut() {
            placement.resume();
        }
        self.settle();
    }

    /// Looks whether the events that run have counters, and tells the scheduler
    /// of those that do not.
    pub(super) fn settle(&mut self) {
        while let Some(event) = self.next_lost() {
            let _ = self.sched.lose(self.now, event);
            if self.policy == Policy::Pinned {
                self.pinned_errors += 1;
                if let Some(placement) = self.placement_mut() {
                    placement.forget_limit();
                }
            }
        }
    }

    fn next_lost(&mut self) -> Option<EventId> {
        let placement = self.placement_mut()?;
        placement.verify();
        placement.take_lost()
    }

    /// The guest ran for `span` with its PMU enabled.
    pub(super) fn ran(&mut self, span: Nanos) {
        self.now += span;
        if let Some(placement) = self.placement_mut() {
            placement.guest_ran(span);
        }
    }

    /// Guest time until something is to be done here.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let placement = self.placement()?;
        let rotation = self.sched.next_timer().map(|t| t.at.since(self.now));
        let look = (placement.host().can_lose() && placement.is_counting())
            .then(|| self.next_look.since(self.now));
        let overflow = placement.host().next_exit();
        [rotation, look, overflow].into_iter().flatten().min()
    }

    /// Whether a rotation is due.
    pub(super) fn rotation_is_due(&self) -> bool {
        self.sched.next_timer().is_some_and(|t| t.at <= self.now)
    }

    /// Running events were looked at.
    pub(super) fn looked(&mut self) {
        self.next_look = self.now + LOOK_INTERVAL;
        self.settle();
    }

    /// Rotates.
    pub(super) fn rotate(&mut self) {
        let hoped = self.placement_mut().and_then(Placement::hope);
        self.sched.fire_timer(self.now, CPU, self.pmu);
        self.settle();
        if self.sched.next_timer().is_some() {
            self.rotations += 1;
        }
        if let Some(counters) = hoped
            && !self.placement_mut().is_some_and(|p| p.came_true(counters))
        {
            // The host took the counter from the event that was opened last: the
            // one that was tried in vain gives it back.
            self.sched.resched_pmu(self.now, CPU, self.pmu);
            self.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_stands_for_the_whole_and_back() {
        let times = Times {
            enabled: Nanos(1_000),
            running: Nanos(250),
        };
        assert_eq!(times.whole(10), 40);
        assert_eq!(times.part(40), 10);
        assert_eq!(times.part(41), 11, "rounded up: an overflow is never early");
        let never = Times {
            enabled: Nanos(5),
            running: Nanos(0),
        };
        assert_eq!(never.whole(7), 0, "nothing is made up");
        let always = Times::default();
        assert_eq!((always.whole(7), always.part(7)), (7, 7));
    }
}
