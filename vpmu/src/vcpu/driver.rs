//! The host PMU as the scheduler's driver.
//!
//! The scheduler moves *reservations*; the host knows only events that count or
//! do not. How many counters there are is not asked but found: each set of events
//! that runs for the first time is looked at, and one that has no counter is
//! handed out by [`CounterDriver::take_lost`]. The believed limit then shrinks to what
//! runs; each so many rotations it is tried again with one more.

use crate::host::{EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, Privilege};
use crate::ids::VcpuId;
use crate::sched::driver::{InitError, InitRequest, NoCounter};
use crate::sched::{AttrFlags, Errno, EventAttr, EventId, PmuDriver, PmuType};
use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, RawEvent};

/// The most rotations between two tries with one counter more.
const LONGEST_BACKOFF: u32 = 32;

#[derive(Clone, Copy, Debug)]
struct Slot {
    event: Option<EventId>,
    /// The host count that was handed on.
    seen: Count,
    /// Distance to the next overflow.
    left: Count,
    /// While it is on: when `seen` was all that it had counted.
    known: Nanos,
    /// How long it was on before without `seen` having what it counted then.
    unread: Nanos,
}

impl Slot {
    const FREE: Self = Self {
        event: None,
        seen: Count(0),
        left: Count(u64::MAX),
        known: Nanos(0),
        unread: Nanos(0),
    };
}

/// A set of slots, as bits: [`HostEventId::COUNT`] at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SlotSet(u32);

impl SlotSet {
    const EMPTY: Self = Self(0);

    const fn has(self, slot: usize) -> bool {
        self.0 >> slot & 1 == 1
    }

    const fn set(&mut self, slot: usize, is_in: bool) {
        self.0 = self.0 & !(1 << slot) | (is_in as u32) << slot;
    }

    const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    const fn is_subset(self, of: Self) -> bool {
        self.0 & !of.0 == 0
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let slot = left.trailing_zeros();
            left &= left.checked_sub(1)?;
            usize::try_from(slot).ok()
        })
    }
}

/// The counters of one host PMU, as one vCPU uses them.
#[derive(Debug)]
pub(super) struct CounterDriver<H> {
    host: H,
    /// By [`HostEventId`].
    slots: [Slot; HostEventId::COUNT],
    reserved: SlotSet,
    /// What the scheduler has on: it counts, unless the PMU is paused.
    on: SlotSet,
    /// What the host has counters for.
    counting: SlotSet,
    /// What was found without its counter, and not handed out yet.
    lost: SlotSet,
    /// Counts that were read since the guest ran.
    fresh: SlotSet,
    /// What was seen to count together: that and less of it has counters, until
    /// one is lost.
    proven: SlotSet,
    /// The counters that are believed to be there.
    limit: usize,
    backoff: u32,
    countdown: u32,
    paused: bool,
    revocations: u64,
    /// Why the last [`PmuDriver::event_init`] failed.
    refusal: Option<HostOpenError>,
}

/// What the scheduler is given for an event: `config1` names the slot.
pub(super) fn encode(id: HostEventId, attr: &HostEvent) -> EventAttr {
    let mut flags = AttrFlags::EXCLUDE_HOST | AttrFlags::DISABLED;
    flags.set(AttrFlags::EXCLUDE_USER, !attr.privilege.user);
    flags.set(AttrFlags::EXCLUDE_KERNEL, !attr.privilege.kernel);
    let mut encoded = match attr.code {
        EventCode::Architectural(event) => EventAttr::new(PmuType::HARDWARE, event as u64),
        EventCode::Raw(event) => EventAttr::new(PmuType::RAW, event.config()),
    };
    encoded.config1 = id.0 as u64;
    encoded.with(flags)
}

fn decode(attr: &EventAttr) -> Option<(usize, HostEvent)> {
    let slot = usize::try_from(attr.config1).ok()?;
    let event = match attr.pmu_type {
        PmuType::RAW => EventCode::Raw(RawEvent::of_event_sel(attr.config)),
        _ => EventCode::Architectural(*ArchEvent::ALL.get(usize::try_from(attr.config).ok()?)?),
    };
    let privilege = Privilege {
        user: !attr.has(AttrFlags::EXCLUDE_USER),
        kernel: !attr.has(AttrFlags::EXCLUDE_KERNEL),
    };
    let attr = HostEvent {
        code: event,
        privilege,
    };
    (slot < HostEventId::COUNT).then_some((slot, attr))
}

impl<H: HostPmu> CounterDriver<H> {
    pub(super) const fn new(host: H) -> Self {
        Self {
            host,
            slots: [Slot::FREE; HostEventId::COUNT],
            reserved: SlotSet::EMPTY,
            on: SlotSet::EMPTY,
            counting: SlotSet::EMPTY,
            lost: SlotSet::EMPTY,
            fresh: SlotSet::EMPTY,
            proven: SlotSet::EMPTY,
            limit: usize::MAX,
            backoff: 1,
            countdown: 1,
            paused: false,
            revocations: 0,
            refusal: None,
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

    /// Goes on from what another one has seen.
    pub(super) const fn set_revocations(&mut self, revocations: u64) {
        self.revocations = revocations;
    }

    /// Why the last open failed, if the host said so.
    pub(super) const fn take_refusal(&mut self) -> Option<HostOpenError> {
        self.refusal.take()
    }

    /// Whether any event counts.
    pub(super) fn is_counting(&self) -> bool {
        self.counting != SlotSet::EMPTY
    }

    /// The guest is about to run or has run: counts may have moved.
    pub(super) fn guest_ran(&mut self, span: Nanos) {
        self.fresh = SlotSet::EMPTY;
        self.host.guest_ran(span);
    }

    /// Looks at the events that run together for the first time: the host may
    /// have a counter too few, and says so of any of them when it is read.
    pub(super) fn verify(&mut self) {
        if self.counting.is_subset(self.proven) || !self.host.can_lose() {
            return;
        }
        for i in self.counting.iter() {
            if self.host.read(HostEventId(i)).is_err() {
                self.is_lost(i);
            }
        }
        if self.lost == SlotSet::EMPTY {
            self.proven = self.counting;
        }
    }

    /// The event has no counter; what it counted comes with the next good read.
    fn is_lost(&mut self, i: usize) {
        self.counting.set(i, false);
        self.lost.set(i, true);
        self.proven = SlotSet::EMPTY;
    }

    /// An event that was found without its counter, which the scheduler has to
    /// be told of; each is returned once.
    pub(super) fn take_lost(&mut self) -> Option<EventId> {
        let slot = self.lost.iter().next()?;
        self.lost.set(slot, false);
        self.limit = self.counting.len();
        self.slots[slot].event
    }

    /// Before a rotation: now and then one counter more is believed in. How many
    /// there are then, if so.
    pub(super) fn hope(&mut self) -> Option<usize> {
        if self.limit == usize::MAX {
            return None;
        }
        self.countdown -= 1;
        if self.countdown > 0 {
            return None;
        }
        self.limit += 1;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
        self.countdown = self.backoff;
        Some(self.limit)
    }

    /// After a rotation with the hope for `counters`: whether it came true. Then
    /// the next one comes soon.
    pub(super) fn came_true(&mut self, counters: usize) -> bool {
        let kept = self.limit >= counters;
        if kept {
            self.backoff = 1;
            self.countdown = 1;
        }
        kept
    }

    /// Forgets what it believes of the number of counters.
    pub(super) const fn forget_limit(&mut self) {
        self.limit = usize::MAX;
        self.backoff = 1;
        self.countdown = 1;
    }

    /// Holds all events still without giving up what is scheduled.
    /// Linux: `perf_pmu_disable`.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        for i in core::mem::take(&mut self.counting).iter() {
            self.host.stop(HostEventId(i));
        }
    }

    /// Lets the events that are scheduled count again. Linux: `perf_pmu_enable`.
    pub(super) fn resume(&mut self) {
        if core::mem::replace(&mut self.paused, false) {
            for i in self.on.iter() {
                self.start_host(i);
            }
        }
    }

    /// The next overflow of the event in `slot` is `left` events away.
    pub(super) fn aim(&mut self, slot: usize, left: Count) {
        self.slots[slot].left = left;
        if self.counting.has(slot) {
            self.start_host(slot);
        }
    }

    fn start_host(&mut self, i: usize) {
        self.fresh.set(i, false);
        match self.host.start(HostEventId(i), self.slots[i].left) {
            Ok(()) => self.counting.set(i, true),
            Err(_none) => self.is_lost(i),
        }
    }

    fn slot_of(&self, event: EventId) -> Option<usize> {
        self.slots.iter().position(|s| s.event == Some(event))
    }

    /// For how long the event in `slot` was on without its count having been
    /// read: the host took its counter away, and keeps what it has of that time
    /// until the event runs again.
    pub(super) const fn unread(&self, slot: usize) -> Nanos {
        self.slots[slot].unread
    }

    /// What the host counted since the last time, and that is all up to `at`.
    fn fold(&mut self, i: usize, at: Nanos) -> Count {
        if self.fresh.has(i) || !self.counting.has(i) {
            return Count(0);
        }
        let Ok(count) = self.host.read(HostEventId(i)) else {
            self.is_lost(i);
            self.revocations += 1;
            return Count(0);
        };
        self.fresh.set(i, true);
        let slot = &mut self.slots[i];
        (slot.known, slot.unread) = (at, Nanos(0));
        count.since(core::mem::replace(&mut slot.seen, count))
    }

    /// The slot has nothing on the host any more, or something new.
    fn forget(&mut self, i: usize) {
        for set in [
            &mut self.reserved,
            &mut self.on,
            &mut self.counting,
            &mut self.lost,
            &mut self.fresh,
            &mut self.proven,
        ] {
            set.set(i, false);
        }
    }
}

impl<H: HostPmu> PmuDriver for CounterDriver<H> {
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
        let Some((slot, attr)) = decode(request.attr) else {
            return Err(InitError::NotMine);
        };
        match self.host.open(HostEventId(slot), &attr) {
            Ok(()) => {
                self.forget(slot);
                self.slots[slot] = Slot {
                    event: Some(request.event),
                    left: self.slots[slot].left,
                    ..Slot::FREE
                };
                Ok(())
            }
            Err(error) => {
                self.refusal = Some(error);
                Err(InitError::Refused(Errno::EOPNOTSUPP))
            }
        }
    }

    fn event_destroy(&mut self, event: EventId) {
        if let Some(i) = self.slot_of(event) {
            self.host.close(HostEventId(i));
            self.forget(i);
            self.slots[i] = Slot::FREE;
        }
    }

    fn add(&mut self, _vcpu: VcpuId, event: EventId) -> Result<(), NoCounter> {
        let slot = self.slot_of(event).ok_or(NoCounter)?;
        if self.reserved.len() >= self.limit {
            return Err(NoCounter);
        }
        self.reserved.set(slot, true);
        Ok(())
    }

    fn del(&mut self, _vcpu: VcpuId, event: EventId) {
        if let Some(i) = self.slot_of(event) {
            self.reserved.set(i, false);
        }
    }

    fn start(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) {
        if let Some(i) = self.slot_of(event) {
            self.on.set(i, true);
            self.slots[i].known = at;
            if !self.paused {
                self.start_host(i);
            }
        }
    }

    fn stop(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        let Some(i) = self.slot_of(event) else {
            return Count(0);
        };
        let delta = self.fold(i, at);
        if self.on.has(i) && !self.paused {
            let slot = &mut self.slots[i];
            slot.unread += at.since(slot.known);
        }
        self.on.set(i, false);
        self.lost.set(i, false);
        if !self.paused {
            self.counting.set(i, false);
            self.host.stop(HostEventId(i));
        }
        delta
    }

    fn read(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.slot_of(event).map_or(Count(0), |i| self.fold(i, at))
    }

    fn forgets(&self) -> bool {
        true
    }

    /// As long as the host has honoured every reservation.
    fn always_fits(&self) -> bool {
        self.limit == usize::MAX
    }
}
