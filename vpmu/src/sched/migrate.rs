//! Moving the events of one PMU to another CPU (R-252…R-257).

use alloc::vec::Vec;

use super::Scheduler;
use super::driver::PmuDriver;
use super::ids::{EventId, PmuId};
use super::install::Detach;
use super::scope::ScopePolicy;
use super::state::EventState;
use crate::ids::VcpuId;

impl<D: PmuDriver> Scheduler<D> {
    /// Moves every event of the PMU's slice from one CPU to another, in the
    /// order in which they were installed: siblings first, then leaders.
    ///
    /// Linux: `perf_pmu_migrate_context`.
    pub(super) fn migrate(&mut self, pmu: PmuId, from: VcpuId, to: VcpuId) {
        let source = self.cpu(from).ctx;
        let mut moved: Vec<(EventId, bool)> = {
            let events = self.contexts[source].events.values().rev();
            events
                .copied()
                .filter(|e| self.events[*e].slice() == pmu)
                .map(|e| (e, false))
                .collect()
        };
        for (id, was_enabled) in &mut moved {
            *was_enabled = self.events[*id].state().is_enabled();
            self.remove_from_ctx(*id, Detach::MOVE);
        }
        for leaders in [false, true] {
            for (id, was_enabled) in moved.iter().rev() {
                if (self.events[*id].leader() == *id) == leaders {
                    self.install_moved(*id, pmu, to, *was_enabled);
                }
            }
        }
    }

    /// Linux: `__perf_pmu_install_event`.
    fn install_moved(&mut self, id: EventId, pmu: PmuId, to: VcpuId, was_enabled: bool) {
        let target = self.cpu(to).ctx;
        let old = self.events[id].ctx();
        self.contexts[target].refs += 1;
        self.contexts[old].refs -= 1;
        let enable = self.config.scope_policy == ScopePolicy::Linux612;
        let event = &mut self.events[id];
        event.move_to(to, target, pmu);
        // whoever had turned the event off.
        let on = enable || was_enabled;
        if event.state() >= EventState::Off && on {
            event.start_in(EventState::Inactive);
        }
        self.install(id);
    }

    /// Moves a PMU's events by hand, as a driver with its own idea of a scope
    /// does. `false` if there is no such PMU or CPU.
    pub fn migrate_pmu(
        &mut self,
        now: crate::units::Nanos,
        pmu: PmuId,
        from: VcpuId,
        to: VcpuId,
    ) -> bool {
        self.at(now);
        if self.pmus.get(pmu.index()).is_none()
            || !self.is_up(from)
            || !self.is_up(to)
            || from == to
        {
            return false;
        }
        self.migrate(pmu, from, to);
        self.check_invariants();
        true
    }
}
