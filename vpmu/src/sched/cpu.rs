//! CPU records and the part of each PMU on a CPU. Linux: `struct perf_cpu_context`,
//! `struct perf_cpu_pmu_context`.

use alloc::vec::Vec;

use super::ids::{CgroupId, ContextId, PmuId, TaskId};
use crate::units::Nanos;

/// The rotation timer of one PMU on one CPU. Linux: `cpc->hrtimer`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MuxTimer {
    pub(crate) armed: bool,
    pub(crate) expiry: Nanos,
    pub(crate) interval: Nanos,
}

impl MuxTimer {
    /// Moves the expiry past `now` by whole intervals.
    pub(crate) fn forward(&mut self, now: Nanos) {
        if now >= self.expiry {
            let steps = now.since(self.expiry).0 / self.interval.0.max(1) + 1;
            self.expiry = Nanos(
                self.expiry
                    .0
                    .saturating_add(steps.saturating_mul(self.interval.0)),
            );
        }
    }
}

/// One PMU on one CPU.
#[derive(Debug)]
pub(crate) struct CpuPmu {
    /// Active events that are not software.
    pub(crate) active_oncpu: usize,
    /// An exclusive group is on.
    pub(crate) exclusive: bool,
    /// The running task's context, if its slice of this PMU was visited.
    pub(crate) task_ctx: Option<ContextId>,
    pub(crate) timer: MuxTimer,
    /// The context whose flexible pass was the last thing that happened here,
    /// and whether it refused a group: doing it again would change nothing.
    pub(crate) settled: Option<(ContextId, bool)>,
    /// Something changed since the PMU was last enabled here.
    pub(crate) touched: bool,
}

/// One CPU.
#[derive(Debug)]
pub(crate) struct CpuRecord {
    pub(crate) ctx: ContextId,
    /// The task context that is scheduled here.
    pub(crate) task_ctx: Option<ContextId>,
    /// The task that runs here.
    pub(crate) current: Option<TaskId>,
    /// The CPU executes; without it no call reaches it.
    pub(crate) up: bool,
    /// perf takes new events here. Linux: `cpuctx->online`.
    pub(crate) online: bool,
    /// The current cgroup, while the CPU has cgroup events.
    pub(crate) cgroup: Option<CgroupId>,
    /// By PMU.
    pub(crate) pmus: Vec<CpuPmu>,
    /// Throttled events since the last tick.
    pub(crate) throttled: u32,
    /// Ticks so far. Linux: `perf_throttled_seq`.
    pub(crate) ticks: u64,
    /// Clock at the last tick.
    pub(crate) last_tick: Nanos,
}

impl CpuRecord {
    pub(crate) fn pmu(&self, pmu: PmuId) -> &CpuPmu {
        &self.pmus[pmu.index()]
    }

    pub(crate) fn pmu_mut(&mut self, pmu: PmuId) -> &mut CpuPmu {
        &mut self.pmus[pmu.index()]
    }
}

/// A task that events may follow.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) ctx: Option<ContextId>,
    pub(crate) oncpu: Option<crate::ids::VcpuId>,
    pub(crate) cgroup: CgroupId,
}
