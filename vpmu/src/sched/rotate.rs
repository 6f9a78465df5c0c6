//! Multiplexing timers and rotation (2.L).

use super::Scheduler;
use super::commit::Batch;
use super::context::Owner;
use super::driver::PmuDriver;
use super::error::RegisterError;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{Activity, GroupSet};
use crate::ids::VcpuId;
use crate::units::Nanos;

/// A rotation timer that is armed.
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
/// s.open(Nanos(0), &request).unwrap();
/// assert_eq!(s.next_timer(), None);
/// s.open(Nanos(0), &request).unwrap();
/// let timer = s.next_timer().unwrap();
/// assert_eq!((timer.at, timer.pmu), (Nanos(4_000_000), pmu));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerExpiry {
    /// When to call [`Scheduler::fire_timer`].
    pub at: Nanos,
    /// On which CPU.
    pub vcpu: VcpuId,
    /// For which PMU.
    pub pmu: PmuId,
}

impl<D: PmuDriver> Scheduler<D> {
    /// Makes sure that the timer runs (R-160, R-162). Linux: `perf_mux_hrtimer_restart`.
    pub(super) fn arm_timer(&mut self, vcpu: VcpuId, pmu: PmuId) {
        let now = self.now;
        let timer = &mut self.cpu_mut(vcpu).pmu_mut(pmu).timer;
        if timer.armed {
            return;
        }
        timer.armed = true;
        timer.forward(now);
        let expiry = timer.expiry;
        self.timers.insert((expiry, vcpu, pmu));
    }

    /// The timer that expires first; ties go to the lower CPU, then PMU.
    #[must_use]
    pub fn next_timer(&self) -> Option<TimerExpiry> {
        self.timers
            .first()
            .map(|&(at, vcpu, pmu)| TimerExpiry { at, vcpu, pmu })
    }

    /// Lets an armed timer expire at `at`: the rest of a turn that began in
    /// another scheduler. Not later than it would by itself.
    pub fn bring_timer_forward(&mut self, at: Nanos, vcpu: VcpuId, pmu: PmuId) {
        let pmus = self.cpus.get_mut(usize::from(vcpu.0)).map(|c| &mut c.pmus);
        let Some(part) = pmus.and_then(|s| s.get_mut(pmu.index())) else {
            return;
        };
        let old = part.timer.expiry;
        if part.timer.armed && at < old {
            part.timer.expiry = at;
            self.timers.remove(&(old, vcpu, pmu));
            self.timers.insert((at, vcpu, pmu));
        }
    }

    /// All armed timers, by expiry.
    pub fn armed_timers(&self) -> impl Iterator<Item = TimerExpiry> {
        self.timers
            .iter()
            .map(|&(at, vcpu, pmu)| TimerExpiry { at, vcpu, pmu })
    }

    /// The timer of a PMU on a CPU has expired: rotates if something stayed
    /// out, else the timer stops (R-163). Does nothing if it is not armed.
    ///
    /// Linux: `perf_mux_hrtimer_handler`.
    pub fn fire_timer(&mut self, now: Nanos, vcpu: VcpuId, pmu: PmuId) {
        self.at(now);
        let Some(part) = self
            .cpus
            .get(usize::from(vcpu.0))
            .and_then(|c| c.pmus.get(pmu.index()))
        else {
            return;
        };
        let old = part.timer;
        if !old.armed {
            return;
        }
        let rotated = self.is_up(vcpu) && self.batch(|s, batch| s.rotate(batch, vcpu, pmu));
        let now = self.now;
        let timer = &mut self.cpu_mut(vcpu).pmu_mut(pmu).timer;
        timer.armed = rotated;
        if rotated {
            timer.forward(now);
        }
        let expiry = timer.expiry;
        self.timers.remove(&(old.expiry, vcpu, pmu));
        if rotated {
            self.timers.insert((expiry, vcpu, pmu));
        }
        self.check_invariants();
    }

    /// One rotation step; `false` if there was no need (R-163…R-165). Only flexible
    /// groups move, each has its turn (R-168, R-170), and one that never fits
    /// blocks those behind it (R-172). The order goes with the task (R-169).
    ///
    /// Linux: `perf_rotate_context`.
    fn rotate(&mut self, batch: Batch<'_>, vcpu: VcpuId, pmu: PmuId) -> bool {
        let cpu_ctx = self.cpu(vcpu).ctx;
        let task_ctx = self.cpu(vcpu).pmu(pmu).task_ctx;
        let needs = |s: &Self, ctx: ContextId| {
            s.contexts[ctx]
                .slices
                .get(&pmu)
                .is_some_and(|s| s.rotate_necessary)
        };
        let cpu_needs = needs(self, cpu_ctx);
        let task_needs = task_ctx.is_some_and(|c| needs(self, c));
        if !cpu_needs && !task_needs {
            return false;
        }
        let task_pick = task_ctx
            .filter(|_| task_needs)
            .and_then(|c| self.pick(vcpu, c, pmu));
        let cpu_pick = if cpu_needs {
            self.pick(vcpu, cpu_ctx, pmu)
        } else {
            None
        };
        let redo = task_ctx.filter(|_| task_pick.is_some() || cpu_pick.is_some());
        if let Some(ctx) = redo {
            self.refresh(ctx);
            self.slice_sched_out(batch, vcpu, ctx, pmu, Activity::FLEXIBLE);
        }
        if let Some(pick) = cpu_pick {
            self.refresh(cpu_ctx);
            self.slice_sched_out(batch, vcpu, cpu_ctx, pmu, Activity::FLEXIBLE);
            self.move_last(pick);
            self.pass(batch, vcpu, cpu_ctx, pmu, GroupSet::Flexible);
        }
        if let Some(pick) = task_pick {
            self.move_last(pick);
        }
        if let Some(ctx) = redo {
            self.pass(batch, vcpu, ctx, pmu, GroupSet::Flexible);
        }
        true
    }

    /// The group to move, and the end of the slice's need (R-166).
    ///
    /// Linux: `ctx_event_to_rotate`.
    fn pick(&mut self, vcpu: VcpuId, ctx: ContextId, pmu: PmuId) -> Option<EventId> {
        let c = &mut self.contexts[ctx];
        let slice = c.slice_mut(pmu);
        slice.rotate_necessary = false;
        let active = slice.active[GroupSet::Flexible.index()].first();
        if active.is_some() {
            return active;
        }
        let groups = c.groups(GroupSet::Flexible);
        match c.owner {
            Owner::Cpu(_) => groups.first_of_cpu(Some(vcpu), pmu),
            _ => groups
                .first_of_cpu(None, pmu)
                .or_else(|| groups.first_of_cpu(Some(vcpu), pmu)),
        }
    }

    /// Gives a group a new, last index (R-167). Linux: `rotate_ctx`.
    fn move_last(&mut self, leader: EventId) {
        if self.contexts[self.events[leader].ctx()].rotate_disable {
            return;
        }
        self.del_from_groups(leader);
        self.add_to_groups(leader);
    }

    /// The multiplexing interval of a PMU on a CPU.
    #[must_use]
    pub fn mux_interval(&self, vcpu: VcpuId, pmu: PmuId) -> Option<Nanos> {
        Some(
            self.cpus
                .get(usize::from(vcpu.0))?
                .pmus
                .get(pmu.index())?
                .timer
                .interval,
        )
    }

    /// Sets the multiplexing interval of a PMU on all online CPUs and starts
    /// their timers for one harmless expiry (R-161).
    ///
    /// # Errors
    /// Below 1 ms, or no such PMU.
    ///
    /// Linux: `perf_event_mux_interval_ms_store`.
    pub fn set_mux_interval(
        &mut self,
        now: Nanos,
        pmu: PmuId,
        interval: Nanos,
    ) -> Result<(), RegisterError> {
        self.at(now);
        if interval.0 < 1_000_000 {
            return Err(RegisterError::MuxInterval);
        }
        let entry = self.pmus.get_mut(pmu.index()).ok_or(RegisterError::NoPmu)?;
        if entry.mux_interval == interval {
            return Ok(());
        }
        entry.mux_interval = interval;
        for vcpu in self.config.topology.vcpus() {
            if self.is_up(vcpu) {
                self.cpu_mut(vcpu).pmu_mut(pmu).timer.interval = interval;
                self.arm_timer(vcpu, pmu);
            }
        }
        Ok(())
    }

    /// Sets the interval of one CPU's timer alone, without starting it.
    pub fn set_mux_interval_of(&mut self, vcpu: VcpuId, pmu: PmuId, interval: Nanos) {
        if let Some(part) = self
            .cpus
            .get_mut(usize::from(vcpu.0))
            .and_then(|c| c.pmus.get_mut(pmu.index()))
        {
            part.timer.interval = interval;
        }
    }
}
