//! PMUs, their types, and which one takes an event (2.G).

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

use super::Scheduler;
use super::attr::{AttrFlags, EventAttr};
use super::cpu::{CpuPmu, MuxTimer};
use super::driver::{GroupMember, InitError, InitRequest, PmuDriver};
use super::error::{OpenError, RegisterError};
use super::ids::{EventId, PmuId, PmuType};
use super::scope::{Scope, ScopePolicy};
use super::state::EventCaps;
use crate::ids::VcpuId;
use crate::units::Nanos;

/// How a PMU's events relate to tasks (R-005). Linux: `pmu->task_ctx_nr`.
///
/// # Examples
/// ```
/// use vpmu::sched::{PmuClass, PmuDesc};
///
/// let desc = PmuDesc::new("power", PmuClass::Uncore);
/// assert_eq!(desc.class, PmuClass::Uncore);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmuClass {
    /// Counters of a core; follows tasks. Linux: `perf_hw_context`.
    Hardware,
    /// Never lacks a counter; may join any group. Linux: `perf_sw_context`.
    Software,
    /// Counts CPUs only. Linux: `perf_invalid_context`.
    Uncore,
}

bitflags::bitflags! {
    /// Capabilities of a PMU (R-101). Linux: `PERF_PMU_CAP_*`.
    ///
    /// # Examples
    /// ```
    /// use vpmu::sched::{PmuCaps, PmuClass, PmuDesc};
    ///
    /// let mut desc = PmuDesc::new("power", PmuClass::Uncore);
    /// desc.caps |= PmuCaps::NO_INTERRUPT | PmuCaps::NO_EXCLUDE;
    /// assert!(desc.caps.contains(PmuCaps::NO_INTERRUPT));
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PmuCaps: u16 {
        /// Cannot sample.
        const NO_INTERRUPT = 1 << 0;
        /// Its interrupt is no NMI, so that any clock will do.
        const NO_NMI = 1 << 1;
        /// Samples may hold extended registers.
        const EXTENDED_REGS = 1 << 3;
        /// One event at a time, and of tasks or of CPUs only (R-152).
        const EXCLUSIVE = 1 << 4;
        /// Traces instructions.
        const ITRACE = 1 << 5;
        /// Counts every mode, so that `exclude_*` is refused.
        const NO_EXCLUDE = 1 << 6;
        /// Takes generic events that name it in the upper half of `config`.
        const EXTENDED_HW_TYPE = 1 << 8;
    }
}

/// A PMU to be registered.
///
/// # Examples
/// ```
/// use vpmu::sched::{PmuClass, PmuDesc};
///
/// let desc = PmuDesc::new("power", PmuClass::Uncore);
/// assert_eq!(desc.pmu_type, None, "it gets the next free type");
/// ```
#[derive(Clone, Debug)]
pub struct PmuDesc {
    /// Its name in sysfs.
    pub name: String,
    /// A fixed type, or none for the next free one (R-090).
    pub pmu_type: Option<PmuType>,
    /// Its class.
    pub class: PmuClass,
    /// Its capabilities.
    pub caps: PmuCaps,
    /// Which CPUs share one instance of it.
    pub scope: Scope,
    /// Time between rotations.
    pub mux_interval: Nanos,
}

impl PmuDesc {
    /// A core PMU with a dynamic type that rotates every 4 ms.
    #[must_use]
    pub fn new(name: &str, class: PmuClass) -> Self {
        Self {
            name: name.into(),
            pmu_type: None,
            class,
            caps: PmuCaps::empty(),
            scope: Scope::None,
            mux_interval: Nanos(4_000_000),
        }
    }
}

/// A registered PMU.
#[derive(Debug)]
pub(crate) struct RegisteredPmu<D> {
    pub(crate) name: String,
    pub(crate) pmu_type: PmuType,
    pub(crate) class: PmuClass,
    pub(crate) caps: PmuCaps,
    pub(crate) scope: Scope,
    pub(crate) mux_interval: Nanos,
    /// Positive: task events; negative: CPU events (R-152). Linux: `pmu->exclusive_cnt`.
    pub(crate) exclusive_count: i64,
    /// Events that were not freed yet.
    pub(crate) events: usize,
    pub(crate) registered: bool,
    pub(crate) driver: D,
}

/// How far the lookup has come.
enum Lookup {
    Found(PmuId),
    Again(PmuType),
    Fail(OpenError),
}

impl<D: PmuDriver> Scheduler<D> {
    /// Registers a PMU (R-090…R-092).
    ///
    /// # Errors
    /// A name is missing, or there are 65,536 PMUs.
    ///
    /// Linux: `perf_pmu_register`.
    pub fn register_pmu(&mut self, desc: PmuDesc, driver: D) -> Result<PmuId, RegisterError> {
        if desc.name.is_empty() {
            return Err(RegisterError::NoName);
        }
        let id = PmuId(u16::try_from(self.pmus.len()).map_err(|_| RegisterError::TooMany)?);
        let pmu_type = self.free_type(desc.pmu_type.unwrap_or(PmuType::FIRST_DYNAMIC));
        self.types.insert(pmu_type, id);
        let timer = MuxTimer {
            armed: false,
            expiry: Nanos(0),
            interval: desc.mux_interval,
        };
        for cpu in &mut self.cpus {
            cpu.pmus.push(CpuPmu {
                active_oncpu: 0,
                exclusive: false,
                task_ctx: None,
                timer,
                settled: None,
                touched: false,
            });
        }
        self.pmus.push(RegisteredPmu {
            name: desc.name,
            pmu_type,
            class: desc.class,
            caps: desc.caps,
            scope: desc.scope,
            mux_interval: desc.mux_interval,
            exclusive_count: 0,
            events: 0,
            registered: true,
            driver,
        });
        Ok(id)
    }

    /// The lowest free type at or above `from` (R-090, R-091).
    fn free_type(&self, from: PmuType) -> PmuType {
        let mut free = from.0;
        for taken in self.types.range(from..).map(|(t, _)| t.0) {
            if taken != free {
                break;
            }
            free += 1;
        }
        PmuType(free)
    }

    /// Gives the type of a PMU without events back.
    ///
    /// # Errors
    /// There is no such PMU, or it has events.
    ///
    /// Linux: `perf_pmu_unregister`.
    pub fn unregister_pmu(&mut self, id: PmuId) -> Result<(), RegisterError> {
        let pmu = self
            .pmus
            .get_mut(id.index())
            .filter(|p| p.registered)
            .ok_or(RegisterError::NoPmu)?;
        if pmu.events > 0 {
            return Err(RegisterError::Busy);
        }
        pmu.registered = false;
        let pmu_type = pmu.pmu_type;
        self.types.remove(&pmu_type);
        self.timers.retain(|t| t.2 != id);
        for cpu in &mut self.cpus {
            cpu.pmus[id.index()].timer.armed = false;
        }
        Ok(())
    }

    /// The PMU that owns a type: O(log n).
    #[must_use]
    pub fn pmu_of_type(&self, pmu_type: PmuType) -> Option<PmuId> {
        self.types.get(&pmu_type).copied()
    }

    /// Name and type of a PMU.
    #[must_use]
    pub fn pmu(&self, id: PmuId) -> Option<(&str, PmuType)> {
        self.pmus
            .get(id.index())
            .map(|p| (p.name.as_str(), p.pmu_type))
    }

    /// The driver of a PMU.
    #[must_use]
    pub fn driver(&self, id: PmuId) -> Option<&D> {
        self.pmus.get(id.index()).map(|p| &p.driver)
    }

    /// The driver of a PMU, to be changed.
    pub fn driver_mut(&mut self, id: PmuId) -> Option<&mut D> {
        self.pmus.get_mut(id.index()).map(|p| &mut p.driver)
    }

    /// Finds the PMU that takes a new event (R-094…R-099). `attr` may be
    /// rewritten on the way, as the kernel does.
    ///
    /// Linux: `perf_init_event`.
    pub(super) fn find_pmu(&mut self, draft: &mut Draft<'_>) -> Result<PmuId, OpenError> {
        let mut key = draft.attr.pmu_type;
        let mut extended = false;
        if matches!(key, PmuType::HARDWARE | PmuType::HW_CACHE) {
            let upper = u32::try_from(draft.attr.config >> 32).unwrap_or(u32::MAX);
            extended = upper != 0;
            key = if extended {
                PmuType(upper)
            } else {
                PmuType::RAW
            };
            if extended {
                draft.attr.config &= 0xffff_ffff;
            }
        }
        loop {
            match self.find_by_type(draft, key, extended) {
                Lookup::Found(pmu) => return Ok(pmu),
                Lookup::Again(next) => key = next,
                Lookup::Fail(e) => return Err(e),
            }
        }
    }

    fn find_by_type(&mut self, draft: &mut Draft<'_>, key: PmuType, extended: bool) -> Lookup {
        let Some(pmu) = self.types.get(&key).copied() else {
            return self.walk_pmus(draft);
        };
        let caps = self.pmus[pmu.index()].caps;
        if draft.attr.pmu_type != key
            && key != PmuType::RAW
            && !caps.contains(PmuCaps::EXTENDED_HW_TYPE)
        {
            return Lookup::Fail(OpenError::NoPmu);
        }
        match self.try_pmu(pmu, draft) {
            Ok(()) => Lookup::Found(pmu),
            Err(OpenError::NoPmu) if draft.attr.pmu_type != key && !extended => {
                Lookup::Again(draft.attr.pmu_type)
            }
            Err(e) => Lookup::Fail(e),
        }
    }

    /// Asks every PMU, newest first (R-093, R-098); only where no PMU owns the key.
    fn walk_pmus(&mut self, draft: &mut Draft<'_>) -> Lookup {
        for at in (0..self.pmus.len()).rev() {
            if !self.pmus[at].registered {
                continue;
            }
            let Ok(index) = u16::try_from(at) else {
                continue;
            };
            match self.try_pmu(PmuId(index), draft) {
                Ok(()) => return Lookup::Found(PmuId(index)),
                Err(OpenError::NoPmu) => {}
                Err(e) => return Lookup::Fail(e),
            }
        }
        Lookup::Fail(OpenError::NoPmu)
    }

    /// Linux: `perf_try_init_event`.
    fn try_pmu(&mut self, id: PmuId, draft: &mut Draft<'_>) -> Result<(), OpenError> {
        let mut group = Vec::new();
        if let Some(leader) = draft.leader {
            let l = &self.events[leader];
            for member in core::iter::once(&leader).chain(l.siblings()) {
                let e = &self.events[*member];
                group.push(GroupMember {
                    event: *member,
                    ours: e.pmu() == id,
                    state: e.state(),
                });
            }
        }
        let pmu = &mut self.pmus[id.index()];
        let request = InitRequest {
            event: draft.event,
            attr: &draft.attr,
            own_type: pmu.pmu_type,
            vcpu: draft.vcpu,
            of_task: draft.of_task,
            group: &group,
        };
        match pmu.driver.event_init(&request) {
            Ok(()) => {}
            Err(InitError::NotMine) => return Err(OpenError::NoPmu),
            Err(InitError::Forward(t)) => {
                draft.attr.pmu_type = t;
                return Err(OpenError::NoPmu);
            }
            Err(InitError::Refused(e)) => return Err(OpenError::Pmu(e)),
        }
        let checked = self.check_scope(id, draft);
        if checked.is_err() {
            self.pmus[id.index()].driver.event_destroy(draft.event);
        }
        checked
    }

    /// Asks the PMU of the event that is copied (R-094).
    pub(super) fn inherit_pmu(
        &mut self,
        id: PmuId,
        draft: &mut Draft<'_>,
    ) -> Result<(), OpenError> {
        self.try_pmu(id, draft)
    }

    /// Checks 13 and 14, and the designated CPU (R-245, R-247).
    fn check_scope(&self, id: PmuId, draft: &mut Draft<'_>) -> Result<(), OpenError> {
        let pmu = &self.pmus[id.index()];
        let mut result = Ok(());
        if pmu.caps.contains(PmuCaps::NO_EXCLUDE)
            && draft.attr.flags.intersects(AttrFlags::ANY_EXCLUDE)
        {
            result = Err(OpenError::NoExclude);
        }
        if let (Some(vcpu), true) = (draft.vcpu, pmu.scope != Scope::None) {
            match self.designated(pmu.scope, vcpu) {
                None => result = Err(OpenError::NoDesignatedCpu),
                Some(designated) => {
                    draft.caps |= EventCaps::READ_SCOPE;
                    if self.config.scope_policy == ScopePolicy::Designated {
                        draft.vcpu = Some(designated);
                    }
                }
            }
        }
        if pmu.class == PmuClass::Software {
            draft.caps |= EventCaps::SOFTWARE;
        }
        if pmu.driver.needs_group(draft.event) {
            draft.caps |= EventCaps::SIBLING;
        }
        result
    }
}

/// The driver of a PMU that this scheduler registered.
///
/// # Panics
/// If the id is of another scheduler.
impl<D> Index<PmuId> for Scheduler<D> {
    type Output = D;

    fn index(&self, id: PmuId) -> &D {
        &self.pmus[id.index()].driver
    }
}

impl<D> IndexMut<PmuId> for Scheduler<D> {
    fn index_mut(&mut self, id: PmuId) -> &mut D {
        &mut self.pmus[id.index()].driver
    }
}

/// An event on its way through the checks of an open.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) event: EventId,
    pub(crate) attr: EventAttr,
    pub(crate) vcpu: Option<VcpuId>,
    pub(crate) of_task: bool,
    pub(crate) leader: Option<EventId>,
    pub(crate) caps: EventCaps,
    pub(crate) request: &'a super::open::OpenRequest,
}
