//! Fork, inheritance and the end of a task (2.N).

use alloc::vec::Vec;

use super::context::{EventContext, Owner};
use super::cpu::Task;
use super::driver::PmuDriver;
use super::error::{OpenError, TaskError};
use super::event::{Birth, PerfEvent};
use super::find_pmu::Draft;
use super::ids::{ContextId, EventId, TaskId};
use super::install::Detach;
use super::request::{OpenRequest, Target};
use super::resched::Which;
use super::state::{Activity, EventState, GroupSet};
use super::{AttrFlags, Scheduler};
use crate::units::{Count, Nanos};

/// Sums that exited children fed back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChildTotals {
    /// Events counted.
    pub(crate) count: Count,
    /// Time enabled, in ns.
    pub(crate) enabled: Nanos,
    /// Time running, in ns.
    pub(crate) running: Nanos,
}

/// The copies of an event in child tasks, or the event that it is a copy of.
#[derive(Debug)]
pub(crate) struct Family {
    parent: Option<EventId>,
    /// It is in its parent's list of children. Linux: `PERF_ATTACH_CHILD`.
    attached: bool,
    children: Vec<EventId>,
    totals: ChildTotals,
}

impl Family {
    /// Without parent and copies.
    pub(super) fn new(_: &Birth) -> Self {
        Self {
            parent: None,
            attached: false,
            children: Vec::new(),
            totals: ChildTotals::default(),
        }
    }
}

impl PerfEvent {
    /// The event that a caller opened, if this is an inherited copy.
    pub(crate) const fn parent(&self) -> Option<EventId> {
        self.family.parent
    }

    /// Its inherited copies.
    pub(crate) fn children(&self) -> &[EventId] {
        &self.family.children
    }

    /// What copies that are gone have counted.
    pub(crate) const fn totals(&self) -> ChildTotals {
        self.family.totals
    }
}

impl<D: PmuDriver> Scheduler<D> {
    /// A task makes a thread; events with `inherit` follow.
    ///
    /// # Errors
    /// There is no such task, or its PMU refuses a copy of an event.
    ///
    /// Linux: `perf_event_init_task`.
    pub fn fork(&mut self, now: Nanos, parent: TaskId) -> Result<TaskId, TaskError> {
        let p = self.tasks.get(parent).ok_or(TaskError::NoTask)?;
        let (parent_ctx, cgroup) = (p.ctx, p.cgroup);
        self.at(now);
        let child = self.tasks.insert(Task {
            ctx: None,
            oncpu: None,
            cgroup,
        });
        let Some(parent_ctx) = parent_ctx else {
            return Ok(child);
        };
        match self.inherit_all(parent_ctx, child) {
            Ok(all) => {
                if let (true, Some(ctx)) = (all, self.tasks[child].ctx) {
                    let p = &self.contexts[parent_ctx];
                    let clone_of = p.clone_of.unwrap_or((parent_ctx, p.generation));
                    self.contexts[ctx].clone_of = Some(clone_of);
                }
                self.check_invariants();
                Ok(child)
            }
            Err(e) => {
                self.end_task(child);
                Err(e)
            }
        }
    }

    /// Linux: `perf_event_init_context`.
    fn inherit_all(&mut self, parent_ctx: ContextId, child: TaskId) -> Result<bool, TaskError> {
        let mut all = true;
        for set in [GroupSet::Pinned, GroupSet::Flexible] {
            let leaders: Vec<EventId> = self.contexts[parent_ctx].groups(set).iter().collect();
            for leader in leaders {
                let attr = self.events[leader].attr();
                if !attr.has(AttrFlags::INHERIT) || attr.has(AttrFlags::SIGTRAP) {
                    all = false;
                    continue;
                }
                let ctx = self.child_context(child);
                self.inherit_group(leader, ctx)
                    .map_err(|_| TaskError::Inherit)?;
            }
        }
        Ok(all)
    }

    fn child_context(&mut self, child: TaskId) -> ContextId {
        if let Some(ctx) = self.tasks[child].ctx {
            return ctx;
        }
        let ctx = self.contexts.insert(EventContext::new(Owner::Task(child)));
        self.contexts[ctx].refs += 1;
        self.tasks[child].ctx = Some(ctx);
        ctx
    }

    /// Linux: `inherit_group`.
    fn inherit_group(&mut self, parent: EventId, ctx: ContextId) -> Result<(), OpenError> {
        let leader = self.inherit_event(parent, None, ctx)?;
        for i in 0..self.events[parent].siblings().len() {
            let sibling = self.events[parent].siblings()[i];
            self.inherit_event(sibling, Some(leader), ctx)?;
        }
        let generation = self.events[parent].group_generation();
        self.events[leader].links.set_generation(generation);
        Ok(())
    }

    /// Copies one event into a child's context. Linux: `inherit_event`.
    fn inherit_event(
        &mut self,
        from: EventId,
        leader: Option<EventId>,
        ctx: ContextId,
    ) -> Result<EventId, OpenError> {
        let source = &self.events[from];
        let (attr, vcpu, pmu, slice) =
            (*source.attr(), source.vcpu(), source.pmu(), source.slice());
        let (caps, wants) = (source.caps(), source.state() >= EventState::Inactive);
        // Copies of copies belong to the event that a caller opened.
        let parent = source.parent().unwrap_or(from);
        let id = self.blank_event(attr, leader);
        let request = OpenRequest::new(attr, Target::Cpu, vcpu);
        let mut draft = Draft {
            event: id,
            attr,
            vcpu,
            of_task: true,
            leader,
            caps,
            request: &request,
        };
        if let Err(e) = self.inherit_pmu(pmu, &mut draft) {
            self.events.remove(id);
            return Err(e);
        }
        self.pmus[pmu.index()].events += 1;
        // As the parent's, not as its own PMU would have it.
        (draft.vcpu, draft.caps) = (vcpu, caps);
        let event = &mut self.events[id];
        event.taken_by(pmu, &draft);
        event.join_context(ctx);
        event.schedule_with(slice);
        event.start_in(if wants {
            EventState::Inactive
        } else {
            EventState::Off
        });
        event.family.parent = Some(parent);
        self.contexts[ctx].refs += 1;
        if let Err(e) = self.hold_exclusive(id) {
            self.free_event(id);
            return Err(e);
        }
        self.add_to_ctx(id);
        self.events[id].family.attached = true;
        self.events[parent].family.children.push(id);
        Ok(id)
    }

    /// Feeds an exiting copy's totals back. Linux: `perf_child_detach`.
    pub(super) fn child_detach(&mut self, id: EventId) {
        let event = &mut self.events[id];
        if !core::mem::take(&mut event.family.attached) {
            return;
        }
        let Some(parent) = event.parent() else { return };
        let count = Count(event.count().0.wrapping_add(event.totals().count.0));
        let (enabled, running) = (event.enabled(), event.running());
        let Some(p) = self.events.get_mut(parent) else {
            return;
        };
        let totals = &mut p.family.totals;
        totals.count = Count(totals.count.0.wrapping_add(count.0));
        totals.enabled += enabled;
        totals.running += running;
        p.family.children.retain(|c| *c != id);
    }

    /// A context is no clone any more, nor are its clones its own: even an
    /// open that fails later ends clone equality.
    ///
    /// Linux: `unclone_ctx`.
    pub(super) fn unclone(&mut self, ctx: ContextId) {
        let c = &mut self.contexts[ctx];
        c.clone_of = None;
        c.generation += 1;
    }

    /// A task ends; its CPU goes idle. Events that were opened on it become
    /// EXIT, keep their groups and stay readable; inherited copies feed their
    /// counts back.
    ///
    /// # Errors
    /// There is no such task.
    ///
    /// Linux: `perf_event_exit_task`.
    pub fn exit_task(&mut self, now: Nanos, task: TaskId) -> Result<(), TaskError> {
        if self.tasks.get(task).is_none() {
            return Err(TaskError::NoTask);
        }
        self.at(now);
        self.end_task(task);
        self.check_invariants();
        Ok(())
    }

    fn end_task(&mut self, task: TaskId) {
        let (ctx, vcpu) = (self.tasks[task].ctx.take(), self.tasks[task].oncpu);
        if let Some(ctx) = ctx {
            if let Some(vcpu) = vcpu
                && self.cpu(vcpu).task_ctx == Some(ctx)
            {
                self.batch(|s, batch| {
                    s.ctx_sched_out(batch, vcpu, ctx, Which::All, Activity::ALL);
                });
            }
            self.contexts[ctx].owner = Owner::Gone;
            self.unclone(ctx);
            let events: Vec<EventId> = self.contexts[ctx].events.values().rev().copied().collect();
            for id in events {
                self.exit_event(id);
            }
            self.put_context(ctx);
        }
        if let Some(vcpu) = vcpu {
            self.cpu_mut(vcpu).current = None;
            self.batch(|s, batch| s.cgroup_switch(batch, vcpu));
        }
        self.tasks.remove(task);
    }

    /// Linux: `perf_event_exit_event`.
    fn exit_event(&mut self, id: EventId) {
        let inherited = self.events[id].parent().is_some();
        let how = Detach {
            state: EventState::Exit,
            group: inherited,
            child: inherited,
        };
        self.remove_from_ctx(id, how);
        if inherited {
            self.free_event(id);
        }
    }
}
