//! The generations of AMD's core counters.

use core::ops::RangeInclusive;

use crate::ids::{MsrIndex, PmcSet};
use crate::x86::cpuid::{AmdLeaves, Leaf22Ebx, PmuCpuid};
use crate::x86::event::ArchEventSet;
use crate::x86::msr::AMD_GLOBAL_CTL;

/// The first register of those that the feature PERFCTR_CORE announces.
const PERFCTR_CORE: MsrIndex = MsrIndex(0xc001_0200);

/// A generation of AMD's core counters.
///
/// # Examples
/// ```
/// use vpmu::guest::AmdVersion;
///
/// assert_eq!(AmdVersion::K7.counters(), 4);
/// assert_eq!(AmdVersion::V2.counters(), 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AmdVersion {
    /// Four counters at C001_0000, as K7 had them.
    K7,
    /// PERFCTR_CORE: six at C001_0200, the first four of them at the old
    /// addresses as well.
    Core,
    /// PerfMonV2: those, and global control and status.
    V2,
}

impl AmdVersion {
    /// How many counters it has, if nobody asks for fewer.
    #[must_use]
    pub const fn counters(self) -> u8 {
        match self {
            Self::K7 => 4,
            Self::Core | Self::V2 => 6,
        }
    }
}

impl AmdVersion {
    /// How many counters it may have: those at the old addresses at the least.
    #[must_use]
    pub const fn allowed(self) -> RangeInclusive<u8> {
        let most = self.counters();
        match self {
            Self::K7 | Self::Core => most..=most,
            Self::V2 => 4..=most,
        }
    }
}

/// The generation and the events of an [`super::AmdPmu`].
///
/// # Examples
/// ```
/// use vpmu::guest::{AmdConfig, AmdVersion};
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = AmdConfig::new(AmdVersion::V2, ArchEventSet::AMD_GENERIC);
/// assert!(config.has_globals());
/// assert_eq!(config.counters().len(), 6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmdConfig {
    version: AmdVersion,
    counters: u8,
    events: ArchEventSet,
}

impl AmdConfig {
    /// This generation, on a host that backs `events`.
    #[must_use]
    pub const fn new(version: AmdVersion, events: ArchEventSet) -> Self {
        Self {
            version,
            counters: version.counters(),
            events,
        }
    }

    /// The same with so many counters, within [`AmdVersion::allowed`]. Only
    /// PerfMonV2 can tell the guest (leaf 80000022H).
    #[must_use]
    pub fn with_counters(mut self, counters: u8) -> Self {
        let allowed = self.version.allowed();
        self.counters = counters.clamp(*allowed.start(), *allowed.end());
        self
    }

    /// The generation.
    #[must_use]
    pub const fn version(&self) -> AmdVersion {
        self.version
    }

    /// The events that the host backs.
    #[must_use]
    pub const fn events(&self) -> ArchEventSet {
        self.events
    }

    /// Every counter.
    #[must_use]
    pub const fn counters(&self) -> PmcSet {
        PmcSet::first(self.counters, 0)
    }

    /// Whether PerfMonV2's global control and status are there.
    #[must_use]
    pub const fn has_globals(&self) -> bool {
        matches!(self.version, AmdVersion::V2)
    }

    /// Guest-contract §3.1, from the rows: each bit and number announces registers.
    /// No LBR, data-fabric or memory-controller counters.
    #[must_use]
    pub fn cpuid(&self) -> PmuCpuid {
        let counters = self.counters_with_registers().len();
        let leaf_22 = Leaf22Ebx::new().with_core_counters(counters);
        PmuCpuid::Amd(AmdLeaves {
            perfctr_core: self.has_register(PERFCTR_CORE),
            leaf_22: self.has_register(AMD_GLOBAL_CTL).then_some(leaf_22),
        })
    }
}
