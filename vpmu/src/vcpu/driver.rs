//! The host PMU as the scheduler's driver.
//!
//! The scheduler moves *reservations*; the host knows only events that count or
//! do not. The driver owns the host events and what is known of each: whether it
//! counts, its count, and the distance to its next overflow. Counts go from here
//! to the guest's counters; the scheduler gets them too, and nobody asks it.
//!
//! ```text
//!  guest's counter ── open(id, HostEvent) ──▶ host event, stopped
//!  Scheduler::open ── event_init ───────────▶ bound to the scheduler's EventId
//!  add, del ──▶ reserved        start, stop ──▶ on        pause, resume ──▶ on, but still
//! ```

use crate::host::{HostEvent, HostEventId, HostOpenError, HostPmu};
use crate::ids::VcpuId;
use crate::sched::driver::{AddError, InitError, InitRequest};
use crate::sched::{EventId, PmuDriver};
use crate::units::{Count, Nanos};

use super::event_set::HostEventSet;
use super::host_counters::HostCounters;

/// What the driver knows of one host event.
#[derive(Clone, Copy, Debug)]
struct Driven {
    /// Its name in the schedule.
    event: Option<EventId>,
    /// Its count as of the last read that the host answered.
    seen: Count,
    /// The part of `seen` that the scheduler got.
    told: Count,
    /// Distance to the next overflow.
    left: Count,
    /// While it is on: when `seen` was all that it had counted.
    known: Nanos,
    /// For how long it was on before, without `seen` having the count of that time.
    unread: Nanos,
    /// All such time of which the count came in the end.
    missed: Missed,
}

/// Time for which an event was on and the host had taken its counter away, nobody knows
/// when: nothing follows from what it counted in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) count: Count,
    pub(super) time: Nanos,
}

impl Driven {
    const NONE: Self = Self {
        event: None,
        seen: Count(0),
        told: Count(0),
        left: Count(u64::MAX),
        known: Nanos(0),
        unread: Nanos(0),
        missed: Missed {
            count: Count(0),
            time: Nanos(0),
        },
    };

    /// The host has this count of it. One that it lost was stopped and started since.
    fn read(&mut self, count: Count) {
        if self.unread > Nanos(0) {
            self.missed.count.0 += count.since(self.seen).0;
            self.missed.time += core::mem::take(&mut self.unread);
        }
        self.seen = count;
    }
}

/// The host events of one vCPU, as its scheduler uses them.
#[derive(Debug)]
pub(super) struct CounterDriver<H> {
    host: H,
    /// By [`HostEventId`].
    events: [Driven; HostEventId::COUNT],
    /// The host event of each event of the schedule, by [`EventId::slot`].
    ids: [Option<HostEventId>; HostEventId::COUNT],
    /// Open on the host and not in the schedule yet.
    opened: Option<HostEventId>,
    reserved: HostEventSet,
    /// Started by the scheduler: they count, unless the PMU is paused.
    on: HostEventSet,
    /// Running on the host.
    counting: HostEventSet,
    /// Whose `seen` is the count until the guest runs again.
    fresh: HostEventSet,
    /// How many counters the host has.
    pub(super) counters: HostCounters,
    paused: bool,
    revocations: u64,
}

impl<H: HostPmu> CounterDriver<H> {
    pub(super) const fn new(host: H) -> Self {
        Self {
            host,
            events: [Driven::NONE; HostEventId::COUNT],
            ids: [None; HostEventId::COUNT],
            opened: None,
            reserved: HostEventSet::EMPTY,
            on: HostEventSet::EMPTY,
            counting: HostEventSet::EMPTY,
            fresh: HostEventSet::EMPTY,
            counters: HostCounters::new(),
            paused: false,
            revocations: 0,
        }
    }

    pub(super) const fn host(&self) -> &H {
        &self.host
    }

    pub(super) const fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Times that the host took a counter away.
    pub(super) const fn revocations(&self) -> u64 {
        self.revocations
    }

    /// Goes on from the number that another driver has counted.
    pub(super) const fn set_revocations(&mut self, revocations: u64) {
        self.revocations = revocations;
    }

    /// Opens the host event `id`, which is free. The next event that the schedule
    /// opens is the one that it counts for.
    pub(super) fn open(&mut self, id: HostEventId, event: &HostEvent) -> Result<(), HostOpenError> {
        self.host.open(id, event)?;
        self.opened = Some(id);
        Ok(())
    }

    /// Closes a host event that the schedule did not take.
    pub(super) fn close_untaken(&mut self) {
        if let Some(id) = self.opened.take() {
            self.host.close(id);
        }
    }

    /// Whether any event counts.
    pub(super) const fn is_counting(&self) -> bool {
        !self.counting.is_empty()
    }

    /// The guest is about to run or has run: counts may have moved.
    pub(super) fn guest_ran(&mut self, span: Nanos) {
        self.fresh = HostEventSet::EMPTY;
        self.host.guest_ran(span);
    }

    /// The count of an event, read from the host if the guest ran since it was
    /// read; `at` is the clock of the event's context.
    pub(super) fn count(&mut self, id: HostEventId, at: Nanos) -> Count {
        if self.may_have_moved(id) {
            self.read_host(id, at);
        }
        self.events[id.0].seen
    }

    /// Whether [`CounterDriver::count`] can be another number than `count`.
    pub(super) fn differs(&self, id: HostEventId, count: Count) -> bool {
        self.may_have_moved(id) || self.events[id.0].seen != count
    }

    const fn may_have_moved(&self, id: HostEventId) -> bool {
        self.counting.has(id) && !self.fresh.has(id)
    }

    fn read_host(&mut self, id: HostEventId, at: Nanos) {
        match self.host.read(id) {
            Ok(count) => {
                self.fresh.insert(id);
                let event = &mut self.events[id.0];
                event.read(count);
                event.known = at;
            }
            Err(_) => {
                self.is_lost(id);
                self.revocations += 1;
            }
        }
    }

    /// Reads the events that run together for the first time: the host may have a
    /// counter too few, and says so of any of them when it is read.
    pub(super) fn verify(&mut self) {
        if self.counters.are_proven_for(self.counting) || !self.host.can_lose() {
            return;
        }
        for id in self.counting.iter() {
            match self.host.read(id) {
                // Before it counts more: the guest has not run since it was started.
                Ok(count) if self.events[id.0].unread > Nanos(0) => self.events[id.0].read(count),
                Ok(_) => {}
                Err(_) => self.is_lost(id),
            }
        }
        self.counters.prove(self.counting);
    }

    /// The event has no counter; its count of before comes with the next good read.
    const fn is_lost(&mut self, id: HostEventId) {
        self.counting.remove(id);
        self.fresh.remove(id);
        self.counters.lose(id);
    }

    /// An event that was found without its counter, which the scheduler has to
    /// be told of; each is returned once.
    pub(super) fn take_lost(&mut self) -> Option<EventId> {
        let id = self.counters.take_lost(self.counting.len())?;
        self.events[id.0].event
    }

    /// Holds all events still without giving up what is scheduled.
    /// Linux: `perf_pmu_disable` (R-103).
    pub(super) fn pause(&mut self) {
        self.paused = true;
        for id in core::mem::take(&mut self.counting).iter() {
            self.host.stop(id);
        }
    }

    /// Lets the events that are scheduled count again. Linux: `perf_pmu_enable`.
    pub(super) fn resume(&mut self) {
        if core::mem::replace(&mut self.paused, false) {
            for id in self.on.iter() {
                self.start_host(id);
            }
        }
    }

    /// The next overflow of the event is `left` events away.
    pub(super) fn aim(&mut self, id: HostEventId, left: Count) {
        self.events[id.0].left = left;
        if self.counting.has(id) {
            self.start_host(id);
        }
    }

    fn start_host(&mut self, id: HostEventId) {
        match self.host.start(id, self.events[id.0].left) {
            Ok(()) => self.counting.insert(id),
            Err(_none) => {
                self.is_lost(id);
                self.revocations += 1;
            }
        }
    }

    fn id_of(&self, event: EventId) -> Option<HostEventId> {
        self.ids.get(event.slot()).copied().flatten()
    }

    /// For how long the event was on without its count having been
    /// read: the host took its counter away, and keeps what it has of that time
    /// until the event runs again; `at` is the clock of the event's context.
    pub(super) fn unread(&self, id: HostEventId, at: Nanos) -> Nanos {
        let event = &self.events[id.0];
        if self.counters.is_lost(id) {
            event.unread + at.since(event.known)
        } else {
            event.unread
        }
    }

    /// All time for which the event was on and the host had taken its counter away.
    pub(super) fn missed(&self, id: HostEventId, at: Nanos) -> Missed {
        let Missed { count, time } = self.events[id.0].missed;
        Missed {
            count,
            time: time + self.unread(id, at),
        }
    }

    /// What the scheduler has not got of the event's count.
    fn tell(&mut self, id: HostEventId) -> Count {
        let event = &mut self.events[id.0];
        event
            .seen
            .since(core::mem::replace(&mut event.told, event.seen))
    }

    /// The host event is closed, or a new one.
    fn forget(&mut self, id: HostEventId) {
        self.reserved.remove(id);
        self.on.remove(id);
        self.counting.remove(id);
        self.fresh.remove(id);
        self.counters.forget_event(id);
        self.events[id.0] = Driven::NONE;
    }
}

impl<H: HostPmu> PmuDriver for CounterDriver<H> {
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
        // At most `HostEventId::COUNT` events are open, and numbers are reused.
        let place = self.ids.get_mut(request.event.slot());
        let (Some(place), Some(id)) = (place, self.opened) else {
            return Err(InitError::NotMine);
        };
        *place = Some(id);
        self.opened = None;
        self.forget(id);
        self.events[id.0].event = Some(request.event);
        Ok(())
    }

    fn event_destroy(&mut self, event: EventId) {
        if let Some(id) = self.ids.get_mut(event.slot()).and_then(Option::take) {
            self.host.close(id);
            self.forget(id);
        }
    }

    fn add(&mut self, _vcpu: VcpuId, event: EventId) -> Result<(), AddError> {
        let id = self.id_of(event).ok_or(AddError)?;
        if !self.counters.have_room(self.reserved.len()) {
            return Err(AddError);
        }
        self.reserved.insert(id);
        Ok(())
    }

    fn del(&mut self, _vcpu: VcpuId, event: EventId) {
        if let Some(id) = self.id_of(event) {
            self.reserved.remove(id);
        }
    }

    fn start(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) {
        if let Some(id) = self.id_of(event) {
            self.on.insert(id);
            self.events[id.0].known = at;
            if !self.paused {
                self.start_host(id);
            }
        }
    }

    fn stop(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        let Some(id) = self.id_of(event) else {
            return Count(0);
        };
        self.count(id, at);
        if self.on.has(id) && !self.paused {
            let event = &mut self.events[id.0];
            event.unread += at.since(event.known);
        }
        self.on.remove(id);
        self.counters.forget_loss(id);
        if !self.paused {
            self.counting.remove(id);
            self.host.stop(id);
        }
        self.tell(id)
    }

    fn read(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        let Some(id) = self.id_of(event) else {
            return Count(0);
        };
        self.count(id, at);
        self.tell(id)
    }

    fn forgets(&self) -> bool {
        true
    }

    /// As long as the host has honoured every reservation.
    fn always_fits(&self) -> bool {
        self.counters.are_enough()
    }
}
