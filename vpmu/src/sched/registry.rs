//! PMUs and their types (2.G).

use alloc::string::String;
use core::ops::{Index, IndexMut};

use super::Scheduler;
use super::cpu::{CpuPmu, MuxTimer};
use super::driver::PmuDriver;
use super::error::RegisterError;
use super::ids::{PmuId, PmuType};
use super::scope::Scope;
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
        self.add_pmu(id, desc, driver);
        Ok(id)
    }

    /// A machine with one PMU, the cores', which counts raw events.
    #[must_use]
    pub fn with_core_pmu(config: super::Config, driver: D) -> (Self, PmuId) {
        let mut scheduler = Self::new(config);
        let mut desc = PmuDesc::new("cpu", PmuClass::Hardware);
        desc.pmu_type = Some(PmuType::RAW);
        let first = PmuId(0);
        scheduler.add_pmu(first, desc, driver);
        (scheduler, first)
    }

    /// `id` is the next number.
    fn add_pmu(&mut self, id: PmuId, desc: PmuDesc, driver: D) {
        debug_assert_eq!(id.index(), self.pmus.len(), "PMUs are numbered in turn");
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
