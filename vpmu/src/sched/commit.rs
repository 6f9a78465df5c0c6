//! Applying the difference: after an operation has moved reservations, the
//! PMUs are told which events really start and stop.

use super::Scheduler;
use super::driver::PmuDriver;
use super::ids::EventId;
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::Count;

impl<D: PmuDriver> Scheduler<D> {
    /// Notes that the event was taken in or out on a CPU.
    pub(super) fn touch(&mut self, vcpu: VcpuId, id: EventId) {
        let event = &mut self.events[id];
        let pmu = event.pmu;
        if !event.touched {
            event.touched = true;
            self.touched.push(id);
        }
        let slot = self.cpu_mut(vcpu).slot_mut(pmu);
        if !slot.touched {
            slot.touched = true;
            self.touched_slots.push((vcpu, pmu));
        }
    }

    fn stop_counting(&mut self, id: EventId) {
        let Some(vcpu) = self.events[id].counting_on.take() else {
            return;
        };
        let (pmu, clock) = (self.events[id].pmu, self.count_clock(id));
        let delta = self.pmus[pmu.index()].driver.stop(vcpu, id, clock);
        self.add_count(id, delta);
    }

    fn start_counting(&mut self, vcpu: VcpuId, id: EventId) {
        let (pmu, clock) = (self.events[id].pmu, self.count_clock(id));
        self.events[id].counting_on = Some(vcpu);
        self.pmus[pmu.index()].driver.start(vcpu, id, clock);
    }

    pub(super) fn add_count(&mut self, id: EventId, delta: Count) {
        let count = &mut self.events[id].count;
        *count = Count(count.0.wrapping_add(delta.0));
    }

    /// Ends an operation: stops what is not on any more, then starts what is
    /// newly on. An event that was taken off and put back counts through.
    pub(super) fn commit(&mut self) {
        if self.touched.is_empty() && self.touched_slots.is_empty() {
            return;
        }
        for i in 0..self.touched.len() {
            let id = self.touched[i];
            let Some(event) = self.events.get(id) else {
                continue;
            };
            let on = if event.state == EventState::Active {
                event.oncpu
            } else {
                None
            };
            if event.counting_on.is_some() && event.counting_on != on {
                self.stop_counting(id);
            }
        }
        for i in 0..self.touched.len() {
            let id = self.touched[i];
            let Some(event) = self.events.get_mut(id) else {
                continue;
            };
            event.touched = false;
            if event.state == EventState::Active
                && event.counting_on.is_none()
                && let Some(vcpu) = event.oncpu
            {
                self.start_counting(vcpu, id);
            }
        }
        self.touched.clear();
        for i in 0..self.touched_slots.len() {
            let (vcpu, pmu) = self.touched_slots[i];
            self.cpu_mut(vcpu).slot_mut(pmu).touched = false;
            self.pmus[pmu.index()].driver.enable(vcpu);
        }
        self.touched_slots.clear();
    }

    /// Tells the PMU to stop or go on without giving the counter up.
    pub(super) fn stop_in_place(&mut self, id: EventId) {
        self.stop_counting(id);
    }

    /// The counterpart of [`Self::stop_in_place`].
    pub(super) fn start_in_place(&mut self, id: EventId) {
        let event = &self.events[id];
        if let (Some(vcpu), None) = (event.oncpu, event.counting_on) {
            self.start_counting(vcpu, id);
        }
    }
}
