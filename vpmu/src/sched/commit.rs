//! Batches of changes, and applying them: after an operation has moved
//! reservations, the PMUs are told which events really start and stop.
//!
//! Only [`Scheduler::batch`] makes a [`Batch`], and it commits when the change
//! is done. Everything that moves a reservation asks for one, so no operation
//! can forget the commit.

use core::marker::PhantomData;

use super::Scheduler;
use super::driver::{AddError, PmuDriver};
use super::event::{Birth, PerfEvent};
use super::ids::{EventId, PmuId};
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::Count;

/// A batch of changes that is open: permission to move reservations.
///
/// It has no size, so passing it costs nothing. The lifetime is known to
/// [`Scheduler::batch`] alone, so that a batch cannot be kept after its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'b>(PhantomData<fn(&'b ()) -> &'b ()>);

/// Where an event is on a PMU, where it counts, and what it has counted.
///
/// `reserved_on` moves at once, within a batch; `counting_on` follows at the
/// commit. Linux has one for both: `event->oncpu`.
#[derive(Debug)]
pub(crate) struct Counting {
    reserved_on: Option<VcpuId>,
    counting_on: Option<VcpuId>,
    /// Taken in or out by the batch that is open.
    touched: bool,
    count: Count,
}

impl Counting {
    /// Nowhere, with no count.
    pub(super) const fn new(_: &Birth) -> Self {
        Self {
            reserved_on: None,
            counting_on: None,
            touched: false,
            count: Count(0),
        }
    }
}

impl PerfEvent {
    /// The CPU whose PMU has a reservation for the event. Linux: `event->oncpu`.
    pub(crate) const fn oncpu(&self) -> Option<VcpuId> {
        self.counting.reserved_on
    }

    /// The CPU whose PMU was told to start the event and not yet to stop it.
    pub(crate) const fn counting_on(&self) -> Option<VcpuId> {
        self.counting.counting_on
    }

    /// Events counted up to the last read or stop.
    pub(crate) const fn count(&self) -> Count {
        self.counting.count
    }

    /// Starts the count anew.
    pub(crate) const fn zero_count(&mut self) {
        self.counting.count = Count(0);
    }

    /// Exchanges the counts of two events.
    pub(crate) const fn swap_counts(&mut self, other: &mut Self) {
        core::mem::swap(&mut self.counting.count, &mut other.counting.count);
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// Makes changes and commits them.
    pub(super) fn batch<R>(&mut self, change: impl for<'b> FnOnce(&mut Self, Batch<'b>) -> R) -> R {
        let result = change(self, Batch(PhantomData));
        self.commit();
        result
    }

    /// Asks the event's PMU for a counter on a CPU.
    ///
    /// # Errors
    /// [`AddError`] if there is none; the event has no reservation then.
    pub(super) fn reserve(
        &mut self,
        _: Batch<'_>,
        vcpu: VcpuId,
        id: EventId,
    ) -> Result<(), AddError> {
        let pmu = self.move_reservation(vcpu, id, Some(vcpu));
        let added = self.pmus[pmu.index()].driver.add(vcpu, id);
        if added.is_err() {
            self.events[id].counting.reserved_on = None;
        }
        added
    }

    /// Gives the event's counter back to its PMU.
    pub(super) fn release(&mut self, _: Batch<'_>, vcpu: VcpuId, id: EventId) {
        let pmu = self.move_reservation(vcpu, id, None);
        self.pmus[pmu.index()].driver.del(vcpu, id);
    }

    /// Notes for the commit that the event was taken in or out on a CPU, and
    /// returns the event's PMU.
    fn move_reservation(&mut self, vcpu: VcpuId, id: EventId, to: Option<VcpuId>) -> PmuId {
        let event = &mut self.events[id];
        event.counting.reserved_on = to;
        let pmu = event.pmu();
        if !event.counting.touched {
            event.counting.touched = true;
            self.touched.push(id);
        }
        let part = self.cpu_mut(vcpu).pmu_mut(pmu);
        if !part.touched {
            part.touched = true;
            self.touched_pmus.push((vcpu, pmu));
        }
        pmu
    }

    fn stop_counting(&mut self, id: EventId) {
        let Some(vcpu) = self.events[id].counting.counting_on.take() else {
            return;
        };
        let (pmu, clock) = (self.events[id].pmu(), self.count_clock(id));
        let delta = self.pmus[pmu.index()].driver.stop(vcpu, id, clock);
        self.add_count(id, delta);
    }

    fn start_counting(&mut self, vcpu: VcpuId, id: EventId) {
        let (pmu, clock) = (self.events[id].pmu(), self.count_clock(id));
        self.events[id].counting.counting_on = Some(vcpu);
        self.pmus[pmu.index()].driver.start(vcpu, id, clock);
    }

    pub(super) fn add_count(&mut self, id: EventId, delta: Count) {
        let count = &mut self.events[id].counting.count;
        *count = Count(count.0.wrapping_add(delta.0));
    }

    /// Ends a batch: stops each event that is not on any more, then starts each
    /// one that is newly on. An event that was taken off and put back counts through.
    fn commit(&mut self) {
        if self.touched.is_empty() && self.touched_pmus.is_empty() {
            return;
        }
        for i in 0..self.touched.len() {
            let id = self.touched[i];
            let Some(event) = self.events.get(id) else {
                continue;
            };
            let on = if event.state() == EventState::Active {
                event.oncpu()
            } else {
                None
            };
            if event.counting_on().is_some() && event.counting_on() != on {
                self.stop_counting(id);
            }
        }
        for i in 0..self.touched.len() {
            let id = self.touched[i];
            let Some(event) = self.events.get_mut(id) else {
                continue;
            };
            event.counting.touched = false;
            if event.state() == EventState::Active
                && event.counting_on().is_none()
                && let Some(vcpu) = event.oncpu()
            {
                self.start_counting(vcpu, id);
            }
        }
        self.touched.clear();
        for i in 0..self.touched_pmus.len() {
            let (vcpu, pmu) = self.touched_pmus[i];
            self.cpu_mut(vcpu).pmu_mut(pmu).touched = false;
            self.pmus[pmu.index()].driver.enable(vcpu);
        }
        self.touched_pmus.clear();
    }

    /// Tells the PMU to stop an event that keeps its counter.
    pub(super) fn stop_in_place(&mut self, id: EventId) {
        self.stop_counting(id);
    }

    /// The counterpart of [`Self::stop_in_place`].
    pub(super) fn start_in_place(&mut self, id: EventId) {
        let event = &self.events[id];
        if let (Some(vcpu), None) = (event.oncpu(), event.counting_on()) {
            self.start_counting(vcpu, id);
        }
    }
}
