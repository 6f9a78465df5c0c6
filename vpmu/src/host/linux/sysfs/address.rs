//! How an event of one PMU is named in `perf_event_attr`.

use perf_event_open_sys::bindings;

use super::{PmuDevice, PmuRegistry, PmuType, RawConfig};

/// `perf_event_attr.type` and the configuration words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventAddress {
    /// `type`.
    pub kind: u32,
    /// `config`, `config1`, `config2`.
    pub config: RawConfig,
}

/// An event by a number that means the same on every core PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenericEvent {
    /// `PERF_COUNT_HW_*`.
    Hardware(u32),
    /// Cache, operation and result, as `PERF_TYPE_HW_CACHE` packs them.
    Cache(u32),
}

/// How generic events reach a core PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// The kernel knows no other core PMU.
    Only,
    /// By the PMU's type in the upper half of `config`.
    ///
    /// Linux: `PERF_PMU_TYPE_SHIFT`, `PERF_PMU_CAP_EXTENDED_HW_TYPE`.
    Extended,
}

impl PmuRegistry {
    /// How generic events reach `pmu`. `extended` says that the host takes its
    /// type in `config` (see [`super::super::probe::extended_type`]).
    ///
    /// `None`: it is one of several core PMUs and has no such capability, or it
    /// is no core PMU. Raw events alone reach it then.
    #[must_use]
    pub fn addressing(&self, pmu: &PmuDevice, extended: bool) -> Option<Addressing> {
        match self.cores().count() {
            _ if !pmu.is_core() => None,
            1 => Some(Addressing::Only),
            _ => extended.then_some(Addressing::Extended),
        }
    }
}

impl PmuType {
    /// A generic event of this PMU.
    #[must_use]
    pub const fn generic(self, event: GenericEvent, addressing: Addressing) -> EventAddress {
        const PMU_TYPE_SHIFT: u32 = 32;
        let (kind, number) = match event {
            GenericEvent::Hardware(number) => (bindings::PERF_TYPE_HARDWARE, number),
            GenericEvent::Cache(number) => (bindings::PERF_TYPE_HW_CACHE, number),
        };
        let pmu = match addressing {
            Addressing::Only => 0,
            Addressing::Extended => (self.0 as u64) << PMU_TYPE_SHIFT,
        };
        EventAddress {
            kind,
            config: RawConfig {
                config: pmu | number as u64,
                config1: 0,
                config2: 0,
            },
        }
    }

    /// An event of this PMU in its own encoding.
    #[must_use]
    pub const fn raw(self, config: RawConfig) -> EventAddress {
        EventAddress {
            kind: self.0,
            config,
        }
    }
}
