//! CPUs that come and go (2.Q).

use super::Scheduler;
use super::driver::PmuDriver;
use super::error::TaskError;
use super::ids::PmuId;
use super::install::Detach;
use super::scope::{Scope, target_of};
use super::state::Activity;
use crate::ids::VcpuId;
use crate::units::Nanos;

impl<D: PmuDriver> Scheduler<D> {
    /// A CPU goes away: events of PMUs with a scope migrate, all others end OFF (R-243,
    /// Task events are not touched.
    ///
    /// # Errors
    /// The CPU is not online, or a task still runs on it.
    pub fn offline(&mut self, now: Nanos, vcpu: VcpuId) -> Result<(), TaskError> {
        if !self.is_up(vcpu) {
            return Err(TaskError::NoCpu);
        }
        if self.cpu(vcpu).current.is_some() {
            return Err(TaskError::CpuBusy);
        }
        self.exit_cpu(now, vcpu)?;
        self.cpu_mut(vcpu).up = false;
        Ok(())
    }

    /// A CPU comes back; nothing that was lost returns.
    ///
    /// # Errors
    /// The CPU is online, or there is none.
    pub fn online(&mut self, now: Nanos, vcpu: VcpuId) -> Result<(), TaskError> {
        if !self.has_cpu(vcpu) || self.is_up(vcpu) {
            return Err(TaskError::NoCpu);
        }
        self.cpu_mut(vcpu).up = true;
        self.init_cpu(now, vcpu)
    }

    /// What perf does when a CPU goes away, while the CPU itself stays.
    ///
    /// # Errors
    /// The CPU is not online.
    ///
    /// Linux: `perf_event_exit_cpu`.
    pub fn exit_cpu(&mut self, now: Nanos, vcpu: VcpuId) -> Result<(), TaskError> {
        if !self.is_up(vcpu) {
            return Err(TaskError::NoCpu);
        }
        self.at(now);
        let up: alloc::vec::Vec<bool> = self.cpus.iter().map(|c| c.up).collect();
        let is_up = |c: VcpuId| up.get(usize::from(c.0)).copied().unwrap_or(false);
        let targets = self.masks.offline(&self.config.topology, vcpu, is_up);
        for at in (0..self.pmus.len()).rev() {
            let scope = self.pmus[at].scope;
            let Ok(index) = u16::try_from(at) else {
                continue;
            };
            if scope != Scope::None
                && let Some(target) = target_of(scope, &targets)
            {
                self.migrate(PmuId(index), vcpu, target);
            }
        }
        self.clear_cpu(vcpu);
        self.cpu_mut(vcpu).online = false;
        self.check_invariants();
        Ok(())
    }

    /// Removes what is left on a CPU. Linux: `__perf_event_exit_context`.
    fn clear_cpu(&mut self, vcpu: VcpuId) {
        let ctx = self.cpu(vcpu).ctx;
        self.refresh(ctx);
        self.contexts[ctx].active.remove(Activity::TIME);
        while let Some((_, id)) = self.contexts[ctx].events.last_key_value() {
            self.remove_from_ctx(*id, Detach::OFFLINE);
        }
        self.contexts[ctx].active = Activity::empty();
    }

    /// What perf does when a CPU comes back.
    ///
    /// # Errors
    /// The CPU is not online.
    ///
    /// Linux: `perf_event_init_cpu`.
    pub fn init_cpu(&mut self, now: Nanos, vcpu: VcpuId) -> Result<(), TaskError> {
        if !self.is_up(vcpu) {
            return Err(TaskError::NoCpu);
        }
        self.at(now);
        let up: alloc::vec::Vec<bool> = self.cpus.iter().map(|c| c.up).collect();
        let is_up = |c: VcpuId| up.get(usize::from(c.0)).copied().unwrap_or(false);
        self.masks.online(&self.config.topology, vcpu, is_up);
        self.cpu_mut(vcpu).online = true;
        Ok(())
    }

    /// Whether perf takes events on the CPU (check 23).
    #[must_use]
    pub fn is_online(&self, vcpu: VcpuId) -> bool {
        self.cpus.get(usize::from(vcpu.0)).is_some_and(|c| c.online)
    }
}
