//! Context switches and the clone shortcut (2.M).

use super::AttrFlags;
use super::Scheduler;
use super::commit::Batch;
use super::context::Owner;
use super::cpu::Task;
use super::driver::PmuDriver;
use super::error::TaskError;
use super::ids::{CgroupId, ContextId, EventId, TaskId};
use super::resched::Which;
use super::state::{Activity, EventState, GroupSet};
use crate::ids::VcpuId;
use crate::units::Nanos;

impl<D: PmuDriver> Scheduler<D> {
    /// A new task, on no CPU.
    pub fn create_task(&mut self) -> TaskId {
        self.tasks.insert(Task {
            ctx: None,
            oncpu: None,
            cgroup: CgroupId::ROOT,
        })
    }

    /// The CPU that a task runs on.
    #[must_use]
    pub fn task_vcpu(&self, task: TaskId) -> Option<VcpuId> {
        self.tasks.get(task)?.oncpu
    }

    /// The task that runs on a CPU.
    #[must_use]
    pub fn current_task(&self, vcpu: VcpuId) -> Option<TaskId> {
        self.cpus.get(usize::from(vcpu.0))?.current
    }

    /// A CPU switches from its current task to another, or to idle.
    ///
    /// # Errors
    /// There is no such task or CPU, or the task runs elsewhere.
    ///
    /// Linux: `__perf_event_task_sched_out`, `__perf_event_task_sched_in`.
    pub fn switch_to(
        &mut self,
        now: Nanos,
        vcpu: VcpuId,
        next: Option<TaskId>,
    ) -> Result<(), TaskError> {
        if !self.is_up(vcpu) {
            return Err(TaskError::NoCpu);
        }
        if let Some(t) = next {
            match self.tasks.get(t).ok_or(TaskError::NoTask)?.oncpu {
                Some(v) if v == vcpu => return Ok(()),
                Some(_) => return Err(TaskError::RunsElsewhere),
                None => {}
            }
        }
        self.at(now);
        let old = self.cpu(vcpu).current;
        if old.is_none() && next.is_none() {
            return Ok(());
        }
        self.batch(|s, batch| {
            if let Some(task) = old {
                s.switch_out(batch, vcpu, task, next);
                s.tasks[task].oncpu = None;
            }
            s.cpu_mut(vcpu).current = next;
            s.cgroup_switch(batch, vcpu);
            if let Some(task) = next {
                s.tasks[task].oncpu = Some(vcpu);
                s.switch_in(batch, vcpu, task);
            }
        });
        self.check_invariants();
        Ok(())
    }

    /// Everything of the task goes out, but for clones.
    ///
    /// Linux: `perf_event_context_sched_out`.
    fn switch_out(&mut self, batch: Batch<'_>, vcpu: VcpuId, task: TaskId, next: Option<TaskId>) {
        let Some(ctx) = self.tasks[task].ctx else {
            return;
        };
        let next_ctx = next.and_then(|t| self.tasks[t].ctx);
        if let (Some(next), Some(other)) = (next, next_ctx)
            && self.may_exchange(ctx, other)
        {
            self.exchange(task, ctx, next, other);
            return;
        }
        if self.cpu(vcpu).task_ctx == Some(ctx) {
            self.ctx_sched_out(batch, vcpu, ctx, Which::All, Activity::ALL);
        }
    }

    /// Whether two contexts are clones of each other. Linux: `context_equiv`.
    fn may_exchange(&self, a: ContextId, b: ContextId) -> bool {
        let (x, y) = (&self.contexts[a], &self.contexts[b]);
        let equal = match (x.clone_of, y.clone_of) {
            (_, Some((p, g))) if p == a => g == x.generation,
            (Some((p, g)), _) if p == b => g == y.generation,
            (Some(p), Some(q)) => p == q,
            _ => false,
        };
        equal && x.nr_no_switch_fast == 0 && y.nr_no_switch_fast == 0
    }

    /// The two tasks exchange their contexts; nothing goes out or in.
    fn exchange(&mut self, task: TaskId, ctx: ContextId, next: TaskId, other: ContextId) {
        self.contexts[ctx].owner = Owner::Task(next);
        self.contexts[other].owner = Owner::Task(task);
        self.tasks[task].ctx = Some(other);
        self.tasks[next].ctx = Some(ctx);
        if self.contexts[ctx].nr_stat > 0 {
            self.swap_stats(ctx, other);
        }
    }

    /// Counts and times stay with the tasks. Linux: `perf_event_sync_stat`.
    fn swap_stats(&mut self, running: ContextId, other: ContextId) {
        let now = self.now;
        self.contexts[running].refresh(now);
        let a: alloc::vec::Vec<EventId> = self.contexts[running]
            .events
            .values()
            .rev()
            .copied()
            .collect();
        let b: alloc::vec::Vec<EventId> = self.contexts[other]
            .events
            .values()
            .rev()
            .copied()
            .collect();
        for (x, y) in a.into_iter().zip(b) {
            if !self.events[x].attr().has(AttrFlags::INHERIT_STAT) {
                continue;
            }
            if self.events[x].state() == EventState::Active {
                self.fold(x);
            }
            self.update_time(x);
            self.update_time(y);
            if let Some((x, y)) = self.events.get_two_mut(x, y) {
                x.swap_counts(y);
                x.swap_times(y);
            }
        }
    }

    /// Pinned groups of the task make room first; what the last task left
    /// is not offered to anyone. Linux: `perf_event_context_sched_in`.
    fn switch_in(&mut self, batch: Batch<'_>, vcpu: VcpuId, task: TaskId) {
        let Some(ctx) = self.tasks[task].ctx else {
            return;
        };
        if self.cpu(vcpu).task_ctx == Some(ctx) || self.contexts[ctx].nr_events() == 0 {
            return;
        }
        if !self.contexts[ctx].groups(GroupSet::Pinned).is_empty() {
            let cpu_ctx = self.cpu(vcpu).ctx;
            self.ctx_sched_out(batch, vcpu, cpu_ctx, Which::All, Activity::FLEXIBLE);
        }
        self.fill(batch, vcpu, Some(ctx), Which::All);
    }
}
