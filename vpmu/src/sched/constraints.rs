//! The x86 core PMU: lists, transactions and the constraint solver (2.P). On a
//! hybrid machine there is one for each core type (R-229).
//! Linux: `arch/x86/events/core.c`.

use alloc::vec::Vec;

use super::attr::EventAttr;
use super::driver::{AddError, InitError, InitRequest, PmuDriver, TxnKind};
use super::error::Errno;
use super::ids::{EventId, PmuType};
use super::rated::RatedEvents;
use super::solver::{Constraint, MAX_EVENTS, assign, reuse};
use super::state::EventState;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// What an x86 core PMU has.
#[derive(Clone, Copy, Debug)]
pub struct X86Model {
    /// General purpose counters; their indices are 0 to `gp` − 1.
    pub gp: u32,
    /// Fixed counters; their indices begin at 32.
    pub fixed: u32,
    /// The counters that may host an event, and how many events it counts a
    /// nanosecond; nothing for an event that the PMU does not know.
    pub decode: fn(&EventAttr) -> Option<(Constraint, u64)>,
}

#[derive(Debug)]
struct X86Event {
    constraint: Constraint,
    /// The last counter; it outlives `del` (R-217).
    last: Option<u32>,
}

#[derive(Debug, Default)]
struct X86Cpu {
    /// Events in the order of their adds (R-216).
    list: Vec<EventId>,
    /// Length of the list when the transaction began.
    txn: Option<usize>,
    /// How often an event moved to another counter.
    moves: u64,
}

/// An x86 core PMU with simulated counting.
///
/// # Examples
/// ```
/// use vpmu::sched::constraints::{X86Model, X86Pmu};
/// use vpmu::sched::solver::Constraint;
///
/// let pmu = X86Pmu::new(X86Model {
///     gp: 4,
///     fixed: 3,
///     decode: |attr| (attr.config < 8).then_some((Constraint::of(0b1111), 1)),
/// });
/// # drop(pmu);
/// ```
#[derive(Debug)]
pub struct X86Pmu {
    model: X86Model,
    events: RatedEvents<X86Event>,
    vcpus: Vec<X86Cpu>,
}

impl X86Pmu {
    /// A PMU with nothing on it.
    #[must_use]
    pub const fn new(model: X86Model) -> Self {
        Self {
            model,
            events: RatedEvents::new(),
            vcpus: Vec::new(),
        }
    }

    /// The last counter of an event.
    #[must_use]
    pub fn counter(&self, event: EventId) -> Option<u32> {
        self.events.find(event)?.last
    }

    /// How often an event moved to another counter on a CPU.
    #[must_use]
    pub fn moves(&self, vcpu: VcpuId) -> u64 {
        self.vcpus.get(usize::from(vcpu.0)).map_or(0, |c| c.moves)
    }

    fn room(&self) -> usize {
        ((self.model.gp + self.model.fixed) as usize).min(MAX_EVENTS)
    }

    fn cpu(&mut self, vcpu: VcpuId) -> &mut X86Cpu {
        let at = usize::from(vcpu.0);
        while self.vcpus.len() <= at {
            self.vcpus.push(X86Cpu::default());
        }
        &mut self.vcpus[at]
    }

    /// R-211…R-213: leader, enabled siblings and the new event on an empty PMU.
    fn group_fits(&self, request: &InitRequest<'_>, constraint: Constraint) -> bool {
        let mut constraints = [Constraint::default(); MAX_EVENTS];
        let mut n = 0;
        let ours = request.group.iter().enumerate();
        let counted = ours.filter(|(i, m)| m.ours && (*i == 0 || m.state > EventState::Off));
        let sets = counted.filter_map(|(_, m)| Some(self.events.find(m.event)?.constraint));
        for set in sets.chain([constraint]) {
            if n >= self.room() {
                return false;
            }
            constraints[n] = set;
            n += 1;
        }
        assign(&constraints[..n], self.model.gp, &mut [0; MAX_EVENTS])
    }

    /// Solves for the whole list (R-214, R-215); failure changes nothing. Events that
    /// moved count on, as the count is folded before and after (R-224…R-226).
    fn solve(&mut self, vcpu: VcpuId) -> Result<(), AddError> {
        let list = core::mem::take(&mut self.cpu(vcpu).list);
        let n = list.len();
        let mut constraints = [Constraint::default(); MAX_EVENTS];
        let mut last = [None; MAX_EVENTS];
        let mut assigned = [0; MAX_EVENTS];
        for (i, id) in list.iter().enumerate() {
            let e = self.events.own(*id);
            (constraints[i], last[i]) = (e.constraint, e.last);
        }
        let fits = reuse(&constraints[..n], &last[..n], &mut assigned)
            || assign(&constraints[..n], self.model.gp, &mut assigned);
        if fits {
            let mut moves = 0;
            for (id, index) in list.iter().zip(assigned) {
                let counting = self.events.is_counting(*id);
                let e = self.events.own_mut(*id);
                moves += u64::from(counting && e.last != Some(index));
                e.last = Some(index);
            }
            self.cpu(vcpu).moves += moves;
        }
        self.cpu(vcpu).list = list;
        if fits { Ok(()) } else { Err(AddError) }
    }
}

impl PmuDriver for X86Pmu {
    fn event_init(&mut self, request: &InitRequest<'_>) -> Result<(), InitError> {
        let generic = matches!(request.attr.pmu_type, PmuType::HARDWARE | PmuType::HW_CACHE);
        if request.attr.pmu_type != request.own_type && !generic {
            return Err(InitError::NotMine);
        }
        let refused = InitError::Refused(Errno::EINVAL);
        let (constraint, rate) = (self.model.decode)(request.attr).ok_or(refused)?;
        if constraint.weight() == 0 || !self.group_fits(request, constraint) {
            return Err(refused);
        }
        let own = X86Event {
            constraint,
            last: None,
        };
        self.events.insert(request.event, rate, own);
        Ok(())
    }

    fn event_destroy(&mut self, event: EventId) {
        self.events.remove(event);
    }

    fn add(&mut self, vcpu: VcpuId, event: EventId) -> Result<(), AddError> {
        let room = self.room();
        let cpu = self.cpu(vcpu);
        if cpu.list.len() >= room {
            return Err(AddError);
        }
        cpu.list.push(event);
        if cpu.txn.is_some() {
            return Ok(());
        }
        let solved = self.solve(vcpu);
        if solved.is_err() {
            self.cpu(vcpu).list.pop();
        }
        solved
    }

    fn del(&mut self, vcpu: VcpuId, event: EventId) {
        let cpu = self.cpu(vcpu);
        // Inside a transaction the cancel that follows shortens the list (R-145).
        if cpu.txn.is_none() {
            cpu.list.retain(|e| *e != event);
        }
    }

    fn start(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) {
        self.events.start(event, at);
    }

    fn stop(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.events.stop(event, at)
    }

    fn read(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.events.read(event, at)
    }

    fn start_txn(&mut self, vcpu: VcpuId, kind: TxnKind) {
        if kind == TxnKind::Add {
            let cpu = self.cpu(vcpu);
            cpu.txn = Some(cpu.list.len());
        }
    }

    fn commit_txn(&mut self, vcpu: VcpuId, kind: TxnKind) -> Result<(), AddError> {
        if kind == TxnKind::Read {
            return Ok(());
        }
        self.solve(vcpu)?;
        self.cpu(vcpu).txn = None;
        Ok(())
    }

    fn cancel_txn(&mut self, vcpu: VcpuId) {
        let cpu = self.cpu(vcpu);
        if let Some(n) = cpu.txn.take() {
            cpu.list.truncate(n);
        }
    }
}
