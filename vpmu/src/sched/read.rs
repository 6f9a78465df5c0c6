//! Reading (2.D).

use alloc::vec::Vec;

use super::Scheduler;
use super::attr::{AttrFlags, ReadFormat};
use super::driver::{PmuDriver, TxnKind};
use super::error::EventError;
use super::event::read_size;
use super::ids::{EventId, TaskId};
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// One value of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadValue {
    /// The event's number, as [`EventView::id`](super::EventView) shows it.
    pub id: u64,
    /// Events counted.
    pub count: Count,
    /// Samples lost.
    pub lost: u64,
}

/// What a read returns; the format says which parts the caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadValues {
    /// The parts that are in the caller's buffer.
    pub format: ReadFormat,
    /// Time enabled.
    pub enabled: Nanos,
    /// Time running.
    pub running: Nanos,
    /// One value, or the group's: leader, then siblings in order.
    pub values: Vec<ReadValue>,
}

/// The outcome of a successful read.
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
/// use vpmu::sched::ReadOutcome;
/// use vpmu::units::Count;
///
/// // `s` is a scheduler whose PMU counts once a nanosecond.
/// let event = s.open(Nanos(0), &request).unwrap();
/// let ReadOutcome::Values(read) = s.read(Nanos(500), event, 64).unwrap() else {
///     panic!("only an event in error reads as end of file");
/// };
/// assert_eq!(read.values[0].count, Count(500));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The event is in ERROR: 0 bytes (R-056).
    EndOfFile,
    /// Values.
    Values(ReadValues),
}

impl<D: PmuDriver> Scheduler<D> {
    /// Reads an event or, with [`ReadFormat::GROUP`], its group, into a buffer of
    /// `size` bytes. Layouts and sizes are R-057…R-059.
    ///
    /// # Errors
    /// The buffer is too small, or an inherited group has another shape (R-060).
    ///
    /// Linux: `__perf_read`.
    pub fn read(
        &mut self,
        now: Nanos,
        id: EventId,
        size: usize,
    ) -> Result<ReadOutcome, EventError> {
        self.exists(id)?;
        self.at(now);
        let event = &self.events[id];
        if event.state() == EventState::Error {
            return Ok(ReadOutcome::EndOfFile);
        }
        let siblings = self
            .events
            .get(event.leader())
            .map_or(0, |l| l.siblings().len());
        let need = read_size(event.attr().read_format, 1 + siblings);
        if size < need {
            return Err(EventError::NoSpace { need, have: size });
        }
        let values = if event.attr().read_format.contains(ReadFormat::GROUP) {
            self.read_group(id)?
        } else {
            self.read_one(id)
        };
        Ok(ReadOutcome::Values(values))
    }

    /// Brings times and count up to date as far as a read does (R-055); a group is
    /// read in a transaction (R-061). Nothing depends on the CPU that reads (R-246).
    ///
    /// Linux: `perf_event_read`.
    pub(super) fn update_for_read(&mut self, id: EventId, group: bool) {
        let event = &self.events[id];
        let (ctx, state) = (event.ctx(), event.state());
        if !state.is_enabled() {
            return;
        }
        self.refresh_for(ctx, id);
        self.update_time(id);
        if group {
            self.update_sibling_times(id);
        }
        if state != EventState::Active {
            return;
        }
        if !group {
            self.fold(id);
            return;
        }
        let event = &self.events[id];
        let (Some(vcpu), pmu) = (event.oncpu(), event.pmu().index()) else {
            return;
        };
        self.pmus[pmu].driver.start_txn(vcpu, TxnKind::Read);
        self.fold(id);
        for i in 0..self.events[id].siblings().len() {
            let sibling = self.events[id].siblings()[i];
            self.fold(sibling);
        }
        // A failed group read leaves the counts as they were.
        if self.pmus[pmu]
            .driver
            .commit_txn(vcpu, TxnKind::Read)
            .is_err()
        {
            self.pmus[pmu].driver.cancel_txn(vcpu);
        }
    }

    /// Adds what an active event has counted. Linux: `pmu->read`.
    pub(super) fn fold(&mut self, id: EventId) {
        let event = &self.events[id];
        let (Some(vcpu), pmu) = (event.counting_on(), event.pmu().index()) else {
            return;
        };
        let clock = self.count_clock(id);
        let delta = self.pmus[pmu].driver.read(vcpu, id, clock);
        self.add_count(id, delta);
    }

    fn total(&self, id: EventId) -> Count {
        let e = &self.events[id];
        Count(e.count().0.wrapping_add(e.totals().count.0))
    }

    /// Linux: `perf_read_one`, `__perf_event_read_value`.
    fn read_one(&mut self, id: EventId) -> ReadValues {
        self.update_for_read(id, false);
        let e = &self.events[id];
        let mut count = self.total(id);
        let mut enabled = e.enabled() + e.totals().enabled;
        let mut running = e.running() + e.totals().running;
        let (number, format) = (e.id(), e.attr().read_format);
        for i in 0..self.events[id].children().len() {
            let child = self.events[id].children()[i];
            self.update_for_read(child, false);
            count = Count(count.0.wrapping_add(self.total(child).0));
            enabled += self.events[child].enabled();
            running += self.events[child].running();
        }
        let values = alloc::vec![ReadValue {
            id: number,
            count,
            lost: 0
        }];
        ReadValues {
            format,
            enabled,
            running,
            values,
        }
    }

    /// Linux: `perf_read_group`.
    fn read_group(&mut self, id: EventId) -> Result<ReadValues, EventError> {
        let format = self.events[id].attr().read_format;
        let leader = self.events[id].leader();
        let mut sum = ReadValues {
            format,
            enabled: Nanos(0),
            running: Nanos(0),
            values: Vec::new(),
        };
        self.add_group(leader, &mut sum)?;
        for i in 0..self.events[leader].children().len() {
            let child = self.events[leader].children()[i];
            self.add_group(child, &mut sum)?;
        }
        Ok(sum)
    }

    /// Linux: `__perf_read_group_add`.
    fn add_group(&mut self, leader: EventId, sum: &mut ReadValues) -> Result<(), EventError> {
        self.update_for_read(leader, true);
        let l = &self.events[leader];
        if let Some(parent) = l.parent().and_then(|p| self.events.get(p))
            && (parent.group_generation() != l.group_generation()
                || parent.siblings().len() != l.siblings().len())
        {
            return Err(EventError::ChildShape);
        }
        sum.enabled += l.enabled() + l.totals().enabled;
        sum.running += l.running() + l.totals().running;
        for at in 0..=l.siblings().len() {
            let member = if at == 0 {
                leader
            } else {
                self.events[leader].siblings()[at - 1]
            };
            let count = self.total(member);
            match sum.values.get_mut(at) {
                Some(v) => v.count = Count(v.count.0.wrapping_add(count.0)),
                None => sum.values.push(ReadValue {
                    id: self.primary_id(member),
                    count,
                    lost: 0,
                }),
            }
        }
        Ok(())
    }

    /// The number of the event that a caller opened. Linux: `primary_event_id`.
    fn primary_id(&self, id: EventId) -> u64 {
        let event = &self.events[id];
        event
            .parent()
            .and_then(|p| self.events.get(p))
            .map_or(event.id(), |p| p.id())
    }

    /// Reads without leaving the CPU, as an interrupt or a VM exit may (R-062).
    ///
    /// # Errors
    /// Only the current task's or this CPU's own events, not inherited, and
    /// pinned ones only while they are on this CPU.
    ///
    /// Linux: `perf_event_read_local`.
    pub fn read_local(
        &mut self,
        now: Nanos,
        id: EventId,
        vcpu: VcpuId,
        current: Option<TaskId>,
    ) -> Result<(Count, Nanos, Nanos), EventError> {
        self.exists(id)?;
        self.at(now);
        let event = &self.events[id];
        if event.attr().has(AttrFlags::INHERIT) {
            return Err(EventError::InheritedRead);
        }
        let owner = self.contexts[event.ctx()].owner;
        let ours = match owner {
            super::context::Owner::Task(t) => current == Some(t),
            super::context::Owner::Cpu(v) => v == vcpu,
            super::context::Owner::Gone => false,
        };
        if !ours {
            return Err(EventError::Foreign);
        }
        if event.attr().has(AttrFlags::PINNED) && event.oncpu() != Some(vcpu) {
            return Err(EventError::PinnedElsewhere);
        }
        if event.oncpu() == Some(vcpu) {
            self.fold(id);
        }
        let (enabled, running) = self.times(now, id)?;
        Ok((self.events[id].count(), enabled, running))
    }

    /// The in-kernel read: no end of file, and an ERROR event returns what it
    /// last had (R-062).
    ///
    /// # Errors
    /// [`EventError::NoEvent`] only.
    ///
    /// Linux: `perf_event_read_value`.
    pub fn read_value(&mut self, now: Nanos, id: EventId) -> Result<ReadValues, EventError> {
        self.exists(id)?;
        self.at(now);
        Ok(self.read_one(id))
    }
}
