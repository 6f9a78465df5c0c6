//! The host PMU as the scheduler's driver.
//!
//! The scheduler moves *reservations*; the host knows only events that count or
//! do not. How many counters there are is not asked but found: each set of events
//! that runs for the first time is looked at, and one that has no counter is
//! handed out by [`Placement::take_lost`]. The believed limit then shrinks to what
//! runs; each so many rotations it is tried again with one more.

use crate::host::{EventAttr as HostAttr, HostEvent, HostEventId, HostPmu, OpenError, Privilege};
use crate::ids::{Pmc, VcpuId};
use crate::sched::driver::{InitError, InitRequest, NoCounter};
use crate::sched::{AttrFlags, Errno, EventAttr, EventId, PmuDriver, PmuType};
use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, RawEvent};

/// The most rotations between two tries with one counter more.
const LONGEST_BACKOFF: u32 = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    event: Option<EventId>,
    reserved: bool,
    /// The scheduler has it on: it counts, unless the PMU is paused.
    on: bool,
    /// The host has a counter for it.
    counting: bool,
    lost: bool,
    /// The host count that was handed on.
    seen: Count,
    /// Distance to the next overflow.
    left: Count,
    /// The guest has not run since `seen` was read.
    fresh: bool,
}

/// The counters of one host PMU, as one vCPU uses them.
#[derive(Debug)]
pub(super) struct Placement<H> {
    host: H,
    /// By [`Pmc::slot`], which is also the [`HostEventId`].
    slots: [Slot; Pmc::SLOTS],
    reserved: usize,
    /// The counters that are believed to be there.
    limit: usize,
    backoff: u32,
    countdown: u32,
    paused: bool,
    any_lost: bool,
    /// Slots that were seen to count together, as bits: they and fewer of them
    /// have counters, until one is lost.
    proven: u32,
    revocations: u64,
    /// Why the last [`PmuDriver::event_init`] failed.
    refusal: Option<OpenError>,
}

/// What the scheduler is given for a counter's event: `config1` names the slot.
pub(super) fn encode(slot: usize, attr: &HostAttr) -> EventAttr {
    let mut flags = AttrFlags::EXCLUDE_HOST | AttrFlags::DISABLED;
    flags.set(AttrFlags::EXCLUDE_USER, !attr.privilege.user);
    flags.set(AttrFlags::EXCLUDE_KERNEL, !attr.privilege.kernel);
    let mut encoded = match attr.event {
        HostEvent::Architectural(event) => EventAttr::new(PmuType::HARDWARE, event as u64),
        HostEvent::Raw(event) => EventAttr::new(PmuType::RAW, event.config()),
    };
    encoded.config1 = slot as u64;
    encoded.with(flags)
}

fn decode(attr: &EventAttr) -> Option<(usize, HostAttr)> {
    let slot = usize::try_from(attr.config1).ok()?;
    let event = match attr.pmu_type {
        PmuType::RAW => HostEvent::Raw(RawEvent::of_event_sel(attr.config)),
        _ => HostEvent::Architectural(*ArchEvent::ALL.get(usize::try_from(attr.config).ok()?)?),
    };
    let privilege = Privilege {
        user: !attr.has(AttrFlags::EXCLUDE_USER),
        kernel: !attr.has(AttrFlags::EXCLUDE_KERNEL),
    };
    let attr = HostAttr { event, privilege };
    (slot < Pmc::SLOTS).then_some((slot, attr))
}

impl<H: HostPmu> Placement<H> {
    pub(super) const fn new(host: H) -> Self {
        const NO_SLOT: Slot = Slot {
            event: None,
            reserved: false,
            on: false,
            counting: false,
            lost: false,
            seen: Count(0),
            left: Count(u64::MAX),
            fresh: false,
        };
        Self {
            host,
            slots: [NO_SLOT; Pmc::SLOTS],
            reserved: 0,
            limit: usize::MAX,
            backoff: 1,
            countdown: 1,
            paused: false,
            any_lost: false,
            proven: 0,
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
    pub(super) const fn take_refusal(&mut self) -> Option<OpenError> {
        self.refusal.take()
    }

    /// Whether any event counts.
    pub(super) fn is_counting(&self) -> bool {
        !self.paused && self.slots.iter().any(|s| s.counting)
    }

    /// The guest is about to run or has run: counts may have moved.
    pub(super) fn guest_ran(&mut self, span: Nanos) {
        for slot in &mut self.slots {
            slot.fresh = false;
        }
        self.host.guest_ran(span);
    }

    /// Looks at the events that run together for the first time: the host may
    /// have a counter too few, and says so of any of them when it is read.
    pub(super) fn verify(&mut self) {
        let running = self.running();
        if running & !self.proven == 0 || !self.host.can_lose() {
            return;
        }
        for (i, slot) in self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(_, s)| s.counting)
        {
            if self.host.read(HostEventId(i)).is_err() {
                slot.counting = false;
                slot.lost = true;
                self.any_lost = true;
            }
        }
        self.proven = if self.any_lost { 0 } else { running };
    }

    /// The slots that count, as bits.
    fn running(&self) -> u32 {
        let bits = self.slots.iter().enumerate().filter(|(_, s)| s.counting);
        bits.fold(0, |set, (i, _)| set | 1 << i)
    }

    /// An event that was found without its counter, which the scheduler has to
    /// be told of; each is returned once.
    pub(super) fn take_lost(&mut self) -> Option<EventId> {
        if !self.any_lost {
            return None;
        }
        self.any_lost = self.slots.iter().filter(|s| s.lost).count() > 1;
        let slot = self.slots.iter_mut().find(|s| s.lost)?;
        slot.lost = false;
        let event = slot.event;
        self.limit = self.slots.iter().filter(|s| s.counting).count();
        event
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
        if core::mem::replace(&mut self.paused, true) {
            return;
        }
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if core::mem::take(&mut slot.counting) {
                self.host.stop(HostEventId(i));
            }
        }
    }

    /// Lets the events that are scheduled count again. Linux: `perf_pmu_enable`.
    pub(super) fn resume(&mut self) {
        if !core::mem::replace(&mut self.paused, false) {
            return;
        }
        for i in 0..Pmc::SLOTS {
            if self.slots[i].on {
                self.start_host(i);
            }
        }
    }

    /// The next overflow of the event in `slot` is `left` events away.
    pub(super) fn aim(&mut self, slot: usize, left: Count) {
        self.slots[slot].left = left;
        if self.slots[slot].counting {
            self.start_host(slot);
        }
    }

    fn start_host(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        slot.fresh = false;
        slot.counting = self.host.start(HostEventId(i), slot.left).is_ok();
        slot.lost = !slot.counting;
        self.any_lost |= slot.lost;
    }

    fn slot_of(&self, event: EventId) -> Option<usize> {
        self.slots.iter().position(|s| s.event == Some(event))
    }

    /// What the host counted since the last time.
    fn fold(&mut self, i: usize) -> Count {
        let slot = &mut self.slots[i];
        if slot.fresh || !slot.counting {
            return Count(0);
        }
        match self.host.read(HostEventId(i)) {
            Ok(count) => {
                let delta = count.since(slot.seen);
                slot.seen = count;
                slot.fresh = true;
                delta
            }
            Err(_lost) => {
                // What it counted until then comes with the next good read.
                slot.counting = false;
                slot.lost = true;
                self.any_lost = true;
                self.proven = 0;
                self.revocations += 1;
                Count(0)
            }
        }
    }
}

impl<H: HostPmu> PmuDriver for Placement<H> {
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
        let Some((slot, attr)) = decode(request.attr) else {
            return Err(InitError::NotMine);
        };
        match self.host.open(HostEventId(slot), &attr) {
            Ok(()) => {
                self.slots[slot] = Slot {
                    event: Some(request.event),
                    left: self.slots[slot].left,
                    ..Slot::default()
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
            self.slots[i] = Slot::default();
            self.proven &= !(1 << i);
        }
    }

    fn add(&mut self, _vcpu: VcpuId, event: EventId) -> Result<(), NoCounter> {
        let slot = self.slot_of(event).ok_or(NoCounter)?;
        if self.reserved >= self.limit {
            return Err(NoCounter);
        }
        self.slots[slot].reserved = true;
        self.reserved += 1;
        Ok(())
    }

    fn del(&mut self, _vcpu: VcpuId, event: EventId) {
        if let Some(i) = self.slot_of(event)
            && core::mem::take(&mut self.slots[i].reserved)
        {
            self.reserved -= 1;
        }
    }

    fn start(&mut self, _vcpu: VcpuId, event: EventId, _at: Nanos) {
        if let Some(i) = self.slot_of(event) {
            self.slots[i].on = true;
            if !self.paused {
                self.start_host(i);
            }
        }
    }

    fn stop(&mut self, _vcpu: VcpuId, event: EventId, _at: Nanos) -> Count {
        let Some(i) = self.slot_of(event) else {
            return Count(0);
        };
        let delta = self.fold(i);
        let slot = &mut self.slots[i];
        slot.on = false;
        slot.lost = false;
        if !self.paused {
            slot.counting = false;
            self.host.stop(HostEventId(i));
        }
        delta
    }

    fn read(&mut self, _vcpu: VcpuId, event: EventId, _at: Nanos) -> Count {
        self.slot_of(event).map_or(Count(0), |i| self.fold(i))
    }

    fn forgets(&self) -> bool {
        true
    }

    /// As long as the host has honoured every reservation.
    fn always_fits(&self) -> bool {
        self.limit == usize::MAX
    }
}
