//! Passes: putting the groups of one context, set and PMU on (2.I, 2.J).

use super::AttrFlags;
use super::Scheduler;
use super::commit::Batch;
use super::context::Owner;
use super::driver::{AddError, PmuDriver, TxnKind};
use super::event::Ready;
use super::groups::RunKey;
use super::ids::{ContextId, EventId, PmuId};
use super::state::{EventCaps, EventState, GroupSet};
use crate::ids::VcpuId;

/// The next group of one run in one tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunHead {
    run: RunKey,
    ready: Ready,
    next: Option<(u64, EventId)>,
}

/// One pass: a context, a set and a PMU on a CPU; each starts afresh,
/// so that lower classes get what is left.
#[derive(Clone, Copy, Debug)]
struct Pass {
    vcpu: VcpuId,
    ctx: ContextId,
    pmu: PmuId,
    set: GroupSet,
    can_add_hw: bool,
}

impl<D: PmuDriver> Scheduler<D> {
    /// Visits the ready groups in order and puts them on.
    ///
    /// Linux: `pmu_groups_sched_in`, `visit_groups_merge`.
    pub(super) fn pass(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        ctx: ContextId,
        pmu: PmuId,
        set: GroupSet,
    ) {
        self.cpu_mut(vcpu).pmu_mut(pmu).settled = None;
        if !self.pmus[pmu.index()].driver.supports(vcpu) {
            return;
        }
        let mut heads = core::mem::take(&mut self.heads);
        heads.clear();
        self.open_runs(vcpu, ctx, pmu, set, &mut heads);
        let mut pass = Pass {
            vcpu,
            ctx,
            pmu,
            set,
            can_add_hw: true,
        };
        while let Some(at) = first_head(&heads) {
            let head = heads[at];
            let Some((index, leader)) = head.next else {
                break;
            };
            self.visit(batch, &mut pass, leader);
            heads[at].next = self.contexts[ctx]
                .groups(set)
                .next_ready(head.run, head.ready, index);
            if !pass.can_add_hw && set == GroupSet::Flexible {
                // Refused flexible groups behind this one would change nothing.
                heads.retain(|h| h.ready == Ready::Software);
            }
        }
        self.heads = heads;
        self.cpu_mut(vcpu).pmu_mut(pmu).settled =
            (set == GroupSet::Flexible).then_some((ctx, !pass.can_add_hw));
    }

    /// Continues the last pass with a group, where redoing the class would give
    /// the same but for that group. `false` if it might not.
    ///
    /// This makes opening n events cost O(n log n) instead of O(n²).
    pub(super) fn append(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        id: EventId,
        last_of_all: bool,
    ) -> bool {
        let event = &self.events[id];
        let (ctx, pmu, set) = (event.ctx(), event.slice(), event.set());
        let lone = event.leader() == id && event.siblings().is_empty() && event.cgroup().is_none();
        let here = event.vcpu().is_none_or(|v| v == vcpu);
        let plain =
            lone && here && set == GroupSet::Flexible && event.state() == EventState::Inactive;
        let c = &self.contexts[ctx];
        let Some((last, refused)) = self.cpu(vcpu).pmu(pmu).settled else {
            return false;
        };
        if !plain || last != ctx || c.nr_cgroups > 0 || !c.active.contains(set.activity()) {
            return false;
        }
        let driver = &self.pmus[pmu.index()].driver;
        // Where there is always room the order does not matter either, but for
        // exclusive groups.
        let anywhere = driver.always_fits() && !refused;
        let calm = !event.attr().has(AttrFlags::EXCLUSIVE) && !self.cpu(vcpu).pmu(pmu).exclusive;
        let forgets = driver.forgets() && driver.supports(vcpu) && event.pmu() == pmu;
        if !forgets || !calm || !(last_of_all || anywhere) {
            return false;
        }
        let mut pass = Pass {
            vcpu,
            ctx,
            pmu,
            set,
            can_add_hw: !refused,
        };
        if c.owner.is_cpu() {
            // A reschedule of the CPU's class also brings the task's clock up to date.
            if let Some(task_ctx) = self.cpu(vcpu).task_ctx {
                self.refresh(task_ctx);
            }
        } else {
            self.cpu_mut(vcpu).pmu_mut(pmu).task_ctx = Some(ctx);
        }
        self.visit(batch, &mut pass, id);
        self.cpu_mut(vcpu).pmu_mut(pmu).settled = Some((ctx, !pass.can_add_hw));
        true
    }

    /// Finds where each run of the pass begins, and links a visited task slice
    /// to the CPU. Linux: `__link_epc`.
    fn open_runs(
        &mut self,
        vcpu: VcpuId,
        ctx: ContextId,
        pmu: PmuId,
        set: GroupSet,
        heads: &mut alloc::vec::Vec<RunHead>,
    ) {
        let c = &self.contexts[ctx];
        let groups = c.groups(set);
        if groups.is_empty() {
            return;
        }
        let mut visited = false;
        let mut open = |vcpu, cgroup| {
            let run = RunKey { vcpu, pmu, cgroup };
            let before = heads.len();
            for ready in [Ready::Hardware, Ready::Software] {
                let next = groups.next_ready(run, ready, 0);
                if next.is_some() {
                    heads.push(RunHead { run, ready, next });
                }
            }
            visited = visited || heads.len() > before || groups.first_of_run(run).is_some();
        };
        let task = matches!(c.owner, Owner::Task(_));
        if task {
            open(None, None);
        }
        open(Some(vcpu), None);
        if !task {
            let mut at = self.cpu(vcpu).cgroup;
            while let Some(g) = at {
                open(Some(vcpu), Some(g));
                at = self.cgroups.parent(g);
            }
        }
        if task && visited {
            self.cpu_mut(vcpu).pmu_mut(pmu).task_ctx = Some(ctx);
        }
    }

    /// After the first refusal no hardware group of the pass is tried, and pinned
    /// ones go to ERROR, the leader alone. A placed group is
    /// the last of its active list.
    ///
    /// Linux: `merge_sched_in`.
    fn visit(&mut self, batch: Batch<'_>, pass: &mut Pass, leader: EventId) {
        if self.can_go_on(pass, leader) && self.put_group_on(batch, pass.vcpu, leader).is_ok() {
            self.push_active(pass.ctx, pass.pmu, pass.set, leader);
        }
        if self.events[leader].state() != EventState::Inactive {
            return;
        }
        pass.can_add_hw = false;
        match pass.set {
            GroupSet::Pinned => {
                self.cgroup_event_disabled(leader);
                self.set_state(leader, EventState::Error);
            }
            GroupSet::Flexible => {
                self.contexts[pass.ctx].slice_mut(pass.pmu).rotate_necessary = true;
                self.arm_timer(pass.vcpu, pass.pmu);
            }
        }
    }

    /// Whether a group may be tried: an exclusive one looks only at
    /// the list of its own set, and whatever is on excludes nobody but by
    /// its flag. Linux: `group_can_go_on`.
    fn can_go_on(&self, pass: &Pass, leader: EventId) -> bool {
        let event = &self.events[leader];
        if event.group_caps().contains(EventCaps::SOFTWARE) {
            return true;
        }
        if self.cpu(pass.vcpu).pmu(pass.pmu).exclusive {
            return false;
        }
        if event.attr().has(AttrFlags::EXCLUSIVE)
            && self.first_active(pass.ctx, pass.pmu, pass.set).is_some()
        {
            return false;
        }
        pass.can_add_hw
    }

    /// Puts one event on; one that is off counts as success.
    ///
    /// Linux: `event_sched_in`.
    fn put_on(&mut self, batch: Batch<'_>, vcpu: VcpuId, id: EventId) -> Result<(), AddError> {
        if self.events[id].state() <= EventState::Off {
            return Ok(());
        }
        self.set_state(id, EventState::Active);
        let event = &mut self.events[id];
        if event.sampling.is_throttled() {
            event.sampling.unthrottle();
        }
        let (slice, ctx) = (event.slice(), event.ctx());
        let (software, exclusive, freq) = (
            event.is_software(),
            event.attr().has(AttrFlags::EXCLUSIVE),
            event.attr().is_freq(),
        );
        if let Err(none) = self.reserve(batch, vcpu, id) {
            self.set_state(id, EventState::Inactive);
            return Err(none);
        }
        let part = self.cpu_mut(vcpu).pmu_mut(slice);
        part.active_oncpu += usize::from(!software);
        part.exclusive |= exclusive;
        self.contexts[ctx].slice_mut(slice).nr_freq += usize::from(freq);
        Ok(())
    }

    /// Puts a group on, all or nothing, in a transaction.
    ///
    /// Linux: `group_sched_in`.
    fn put_group_on(
        &mut self,
        batch: Batch<'_>,
        vcpu: VcpuId,
        leader: EventId,
    ) -> Result<(), AddError> {
        let txn = self.events[leader].slice().index();
        self.pmus[txn].driver.start_txn(vcpu, TxnKind::Add);
        if let Err(none) = self.put_on(batch, vcpu, leader) {
            self.pmus[txn].driver.cancel_txn(vcpu);
            return Err(none);
        }
        let members = self.events[leader].siblings().len();
        let mut on = 0;
        while on < members {
            let sibling = self.events[leader].siblings()[on];
            if self.put_on(batch, vcpu, sibling).is_err() {
                break;
            }
            on += 1;
        }
        if on == members && self.pmus[txn].driver.commit_txn(vcpu, TxnKind::Add).is_ok() {
            return Ok(());
        }
        for i in 0..on {
            let sibling = self.events[leader].siblings()[i];
            self.take_off(batch, sibling, EventState::Inactive);
        }
        self.take_off(batch, leader, EventState::Inactive);
        self.pmus[txn].driver.cancel_txn(vcpu);
        Err(AddError)
    }
}

/// The head with the smallest index.
fn first_head(heads: &[RunHead]) -> Option<usize> {
    let mut best: Option<(u64, usize)> = None;
    for (at, head) in heads.iter().enumerate() {
        if let Some((index, _)) = head.next
            && best.is_none_or(|(b, _)| index < b)
        {
            best = Some((index, at));
        }
    }
    best.map(|(_, at)| at)
}
