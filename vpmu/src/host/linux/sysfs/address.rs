//! How an event of one PMU is named in `perf_event_attr`.

use perf_event_open_sys::bindings;

use super::{PmuDevice, PmuRegistry, RawConfig};
use crate::ids::PmuType;

/// `perf_event_attr.type` and the configuration words.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::EventAddress;
///
/// assert_eq!(EventAddress::TASK_CLOCK.kind, 1, "PERF_TYPE_SOFTWARE");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventAddress {
    /// `type`.
    pub kind: u32,
    /// `config`, `config1`, `config2`.
    pub config: RawConfig,
}

impl EventAddress {
    /// The time that a task runs: every Linux host counts it.
    pub const TASK_CLOCK: Self = Self {
        kind: bindings::PERF_TYPE_SOFTWARE,
        config: RawConfig::of(bindings::PERF_COUNT_SW_TASK_CLOCK as u64),
    };
}

/// An event by a number that means the same on every core PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericEvent {
    /// `PERF_COUNT_HW_*`.
    Hardware(u32),
    /// Cache, operation and result, as `PERF_TYPE_HW_CACHE` packs them.
    Cache(u32),
}

/// Which host PMU counts an event.
///
/// # Examples
/// ```
/// use vpmu::host::linux::EventSource;
/// use vpmu::host::linux::sysfs::{GenericEvent, RawConfig};
/// use vpmu::ids::PmuType;
///
/// // Cycles of a hybrid host's second core PMU, whose type is 10.
/// let cycles = EventSource::Pmu(PmuType(10)).generic(GenericEvent::Hardware(0));
/// assert_eq!((cycles.kind, cycles.config.config), (0, 10 << 32));
/// assert_eq!(EventSource::Hardware.raw(RawConfig::of(0x3c)).kind, 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// The host kernel's choice: the one core PMU of a host that is not hybrid.
    Hardware,
    /// This PMU. The host has to take its type in the upper half of `config` for
    /// generic events (see [`super::super::probe::extended_type`]); raw ones
    /// reach any.
    ///
    /// Linux: `PERF_PMU_TYPE_SHIFT`, `PERF_PMU_CAP_EXTENDED_HW_TYPE`.
    Pmu(PmuType),
}

impl PmuRegistry {
    /// How events of `pmu` are opened: without a type where there is no other
    /// core PMU.
    #[must_use]
    pub fn source(&self, pmu: &PmuDevice) -> EventSource {
        if pmu.is_core() && self.cores().count() == 1 {
            EventSource::Hardware
        } else {
            EventSource::Pmu(pmu.kind)
        }
    }
}

impl EventSource {
    /// A generic event.
    #[must_use]
    pub const fn generic(self, event: GenericEvent) -> EventAddress {
        const PMU_TYPE_SHIFT: u32 = 32;
        let (kind, number) = match event {
            GenericEvent::Hardware(number) => (bindings::PERF_TYPE_HARDWARE, number),
            GenericEvent::Cache(number) => (bindings::PERF_TYPE_HW_CACHE, number),
        };
        let pmu = match self {
            Self::Hardware => 0,
            Self::Pmu(PmuType(number)) => (number as u64) << PMU_TYPE_SHIFT,
        };
        EventAddress {
            kind,
            config: RawConfig::of(pmu | number as u64),
        }
    }

    /// An event in the PMU's own encoding.
    #[must_use]
    pub const fn raw(self, config: RawConfig) -> EventAddress {
        let kind = match self {
            Self::Hardware => bindings::PERF_TYPE_RAW,
            Self::Pmu(PmuType(number)) => number,
        };
        EventAddress { kind, config }
    }
}
