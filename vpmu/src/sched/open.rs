//! Opening an event: the checks in the kernel's order (2.F), then the install.

use super::Scheduler;
use super::attr::{AttrFlags, sample_type};
use super::context::{EventContext, Owner};
use super::driver::PmuDriver;
use super::error::{GroupMismatch, OpenError};
use super::event::{PerfEvent, read_size};
use super::find_pmu::Draft;
use super::ids::{ContextId, EventId, PmuId, TaskId};
use super::install::Detach;
use super::open_attr::{check_attr, check_clock};
use super::registry::{PmuCaps, PmuClass};
use super::request::{OpenFlags, OpenRequest, Target};
use super::state::{EventCaps, EventState};
use crate::ids::VcpuId;
use crate::units::Nanos;

/// The largest group read, in bytes.
const MAX_READ: usize = 16 * 1024;

impl<D: PmuDriver> Scheduler<D> {
    /// Opens an event and lets it compete.
    ///
    /// # Errors
    /// The first check that fails, in the kernel's order. A failed open
    /// schedules nothing.
    ///
    /// Linux: `perf_event_open`, `perf_event_create_kernel_counter`.
    pub fn open(&mut self, now: Nanos, request: &OpenRequest) -> Result<EventId, OpenError> {
        self.at(now);
        let mut copied = request.clone();
        if !request.in_kernel {
            copied.attr = request.attr.as_copied();
        }
        let request = &copied;
        let leader = self.check_request(request)?;
        let id = self.allocate(request, leader)?;
        let opened = self.place(id, request, leader);
        if opened.is_err() {
            self.discard(id);
        }
        self.check_invariants();
        opened.map(|()| id)
    }

    /// Checks 1 to 10.
    fn check_request(&self, request: &OpenRequest) -> Result<Option<EventId>, OpenError> {
        let leader = if request.in_kernel {
            None
        } else {
            self.check_syscall(request)?
        };
        let attr = &request.attr;
        let task = request.task();
        if let Some(t) = task
            && self.tasks.get(t).is_none()
        {
            return Err(OpenError::NoTask);
        }
        if let (Some(_), Some(l)) = (task, leader)
            && self.events[l].attr().has(AttrFlags::INHERIT) != attr.has(AttrFlags::INHERIT)
        {
            return Err(OpenError::InheritMismatch);
        }
        match request.vcpu {
            Some(v) if !self.has_cpu(v) => return Err(OpenError::NoCpu),
            None if task.is_none() => return Err(OpenError::NoCpu),
            _ => {}
        }
        if attr.has(AttrFlags::SIGTRAP) && task.is_none() {
            return Err(OpenError::Attr("sigtrap without a task"));
        }
        if attr.inherits_sample_read() && attr.sample_type & sample_type::TID == 0 {
            return Err(OpenError::InheritSampleRead);
        }
        Ok(leader)
    }

    /// Checks 1 to 6.
    fn check_syscall(&self, request: &OpenRequest) -> Result<Option<EventId>, OpenError> {
        let attr = &request.attr;
        if !OpenFlags::all().contains(request.flags) {
            return Err(OpenError::UnknownFlag);
        }
        check_attr(attr)?;
        let too_fast = attr.has(AttrFlags::FREQ) && attr.sample > self.config.max_sample_rate;
        let too_long = !attr.has(AttrFlags::FREQ) && attr.sample >> 63 != 0;
        if too_fast || too_long {
            return Err(OpenError::SampleRange);
        }
        let cgroup = request.flags.contains(OpenFlags::CGROUP);
        if cgroup && (request.target == Target::Cpu || request.vcpu.is_none()) {
            return Err(OpenError::CgroupNeedsCpu);
        }
        let Some(leader) = request.group else {
            return Ok(None);
        };
        self.exists(leader).map_err(|_| OpenError::NoLeader)?;
        if self.events[leader].state() <= EventState::Exit {
            return Err(OpenError::LeaderGone);
        }
        Ok((!request.flags.contains(OpenFlags::NO_GROUP)).then_some(leader))
    }

    /// Checks 11 to 18: finds the PMU and makes the event, in no context yet.
    ///
    /// Linux: `perf_event_alloc`.
    fn allocate(
        &mut self,
        request: &OpenRequest,
        leader: Option<EventId>,
    ) -> Result<EventId, OpenError> {
        let id = self.blank_event(request.attr, leader);
        let of_task = request.task().is_some();
        let mut draft = Draft {
            event: id,
            attr: request.attr,
            vcpu: request.vcpu,
            of_task,
            leader,
            caps: EventCaps::empty(),
            request,
        };
        let pmu = match self.find_pmu(&mut draft) {
            Ok(pmu) => pmu,
            Err(e) => {
                self.events.remove(id);
                return Err(e);
            }
        };
        let event = &mut self.events[id];
        event.taken_by(pmu, &draft);
        self.pmus[pmu.index()].events += 1;
        if let Err(e) = self.check_pmu_use(id, &draft) {
            self.release_pmu(id);
            self.events.remove(id);
            return Err(e);
        }
        Ok(id)
    }

    /// Checks 15, 17 and 18.
    fn check_pmu_use(&mut self, id: EventId, draft: &Draft<'_>) -> Result<(), OpenError> {
        let event = &self.events[id];
        let class = self.pmus[event.pmu().index()].class;
        let cgroup = draft.request.flags.contains(OpenFlags::CGROUP);
        if class == PmuClass::Uncore && (draft.of_task || cgroup) {
            return Err(OpenError::TaskOnUncore);
        }
        if cgroup {
            let Target::Cgroup(g) = draft.request.target else {
                return Err(OpenError::NoCgroup);
            };
            if !self.cgroup_exists(g) {
                return Err(OpenError::NoCgroup);
            }
            if draft
                .leader
                .is_some_and(|l| self.events[l].cgroup() != Some(g))
            {
                return Err(OpenError::CgroupMismatch);
            }
            self.events[id].follow_cgroup(g);
        }
        self.hold_exclusive(id)
    }

    /// Check 18. Linux: `exclusive_event_init`.
    pub(super) fn hold_exclusive(&mut self, id: EventId) -> Result<(), OpenError> {
        let event = &self.events[id];
        let of_task = event.of_task();
        let pmu = &mut self.pmus[event.pmu().index()];
        if !pmu.caps.contains(PmuCaps::EXCLUSIVE) {
            return Ok(());
        }
        if (of_task && pmu.exclusive_count < 0) || (!of_task && pmu.exclusive_count > 0) {
            return Err(OpenError::ExclusiveInUse);
        }
        pmu.exclusive_count += if of_task { 1 } else { -1 };
        self.events[id].mark_exclusive();
        Ok(())
    }

    /// Checks 19 to 27, then the install.
    fn place(
        &mut self,
        id: EventId,
        request: &OpenRequest,
        leader: Option<EventId>,
    ) -> Result<(), OpenError> {
        let event = &self.events[id];
        let caps = self.pmus[event.pmu().index()].caps;
        if !request.in_kernel && event.attr().is_sampling() && caps.contains(PmuCaps::NO_INTERRUPT)
        {
            return Err(OpenError::NoInterrupt);
        }
        if !request.in_kernel {
            check_clock(event.attr().clock, caps)?;
        }
        let ctx = self.find_context(request.task(), event.vcpu())?;
        self.events[id].join_context(ctx);
        self.contexts[ctx].refs += 1;
        if let (None, Some(vcpu)) = (request.task(), self.events[id].vcpu())
            && !self.cpu(vcpu).online
        {
            return Err(OpenError::CpuOffline);
        }
        let (slice, moves) = match leader {
            Some(l) => self.check_group(id, l)?,
            None => (self.events[id].pmu(), false),
        };
        self.events[id].schedule_with(slice);
        if request.flags.contains(OpenFlags::OUTPUT) && request.group.is_some() {
            // There are no buffers, and the kernel refuses one that is not mapped.
            return Err(OpenError::Output);
        }
        if !self.fits_read(id, leader) {
            return Err(OpenError::TooLarge);
        }
        if !self.exclusive_free(id) {
            return Err(OpenError::ExclusiveTaken);
        }
        if let (Some(l), true) = (leader, moves) {
            self.move_group(l, slice);
        }
        self.install(id);
        Ok(())
    }

    /// The context of a task, made if need be and not a clone any more, or of
    /// a CPU. Linux: `find_get_context`.
    fn find_context(
        &mut self,
        task: Option<TaskId>,
        vcpu: Option<VcpuId>,
    ) -> Result<ContextId, OpenError> {
        let Some(task) = task else {
            return vcpu.map(|v| self.cpu(v).ctx).ok_or(OpenError::NoCpu);
        };
        let existing = self.tasks.get(task).ok_or(OpenError::NoTask)?.ctx;
        if let Some(ctx) = existing {
            self.unclone(ctx);
            return Ok(ctx);
        }
        let ctx = self.contexts.insert(EventContext::new(Owner::Task(task)));
        self.contexts[ctx].refs += 1;
        self.tasks[task].ctx = Some(ctx);
        Ok(ctx)
    }

    /// Check 24: the slice of the new event, and whether the group must move
    ///
    fn check_group(&self, id: EventId, leader: EventId) -> Result<(PmuId, bool), OpenError> {
        let (event, l) = (&self.events[id], &self.events[leader]);
        let refuse = |why| Err(OpenError::Group(why));
        if l.leader() != leader {
            return refuse(GroupMismatch::LeaderIsSibling);
        }
        if l.attr().clock != event.attr().clock {
            return refuse(GroupMismatch::Clock);
        }
        if l.vcpu() != event.vcpu() {
            return refuse(GroupMismatch::Cpu);
        }
        if l.ctx() != event.ctx() {
            return refuse(GroupMismatch::Context);
        }
        if l.state() <= EventState::Exit {
            return Err(OpenError::LeaderGone);
        }
        if event
            .attr()
            .flags
            .intersects(AttrFlags::PINNED | AttrFlags::EXCLUSIVE)
        {
            return refuse(GroupMismatch::LeaderAttribute);
        }
        let in_software = self.pmus[l.slice().index()].class == PmuClass::Software;
        if event.is_software() {
            return Ok((if in_software { event.pmu() } else { l.slice() }, false));
        }
        if !in_software && l.slice() != event.pmu() {
            return refuse(GroupMismatch::Pmu);
        }
        let pure = l.is_software() && l.group_caps().contains(EventCaps::SOFTWARE);
        Ok((event.pmu(), pure))
    }

    /// Check 25. Linux: `perf_event_validate_size`.
    fn fits_read(&self, id: EventId, leader: Option<EventId>) -> bool {
        let members = leader.map_or(2, |l| self.events[l].siblings().len() + 2);
        let fits = |e: &PerfEvent| read_size(e.attr().read_format, members) <= MAX_READ;
        if !fits(&self.events[id]) {
            return false;
        }
        let Some(l) = leader else { return true };
        let l = &self.events[l];
        fits(l) && l.siblings().iter().all(|s| fits(&self.events[*s]))
    }

    /// Check 27. Linux: `exclusive_event_installable`.
    fn exclusive_free(&self, id: EventId) -> bool {
        let event = &self.events[id];
        if !self.pmus[event.pmu().index()]
            .caps
            .contains(PmuCaps::EXCLUSIVE)
        {
            return true;
        }
        self.contexts[event.ctx()]
            .events
            .values()
            .map(|e| &self.events[*e])
            .all(|e| {
                e.pmu() != event.pmu()
                    || (e.vcpu() != event.vcpu() && e.vcpu().is_some() && event.vcpu().is_some())
            })
    }

    /// Moves a pure software group into a hardware slice.
    fn move_group(&mut self, leader: EventId, slice: PmuId) {
        let members = self.events[leader].siblings().len();
        self.remove_from_ctx(leader, Detach::MOVE);
        for i in 0..members {
            let sibling = self.events[leader].siblings()[i];
            self.remove_from_ctx(sibling, Detach::MOVE);
        }
        for i in 0..members {
            let sibling = self.events[leader].siblings()[i];
            self.reinstall(sibling, slice);
        }
        self.reinstall(leader, slice);
    }

    fn reinstall(&mut self, id: EventId, slice: PmuId) {
        let event = &mut self.events[id];
        event.schedule_with(slice);
        event.start_in(PerfEvent::initial_state(event.attr()));
        self.install(id);
    }
}
