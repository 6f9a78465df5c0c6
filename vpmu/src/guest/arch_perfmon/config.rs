//! The shape of an architectural PMU: checked once, then fixed.

use crate::ids::{Pmc, PmcSet};
use crate::x86::cpuid::{IntelLeaves, Leaf0A, Leaf0AEax, Leaf0AEdx, PmuCpuid, Vendor};
use crate::x86::event::ArchEventSet;
use crate::x86::msr::{FIXED_CTR_CTRL, PERF_CAPABILITIES};
use crate::x86::regs::{EventSel, PerfCapabilities};

use super::super::{Identity, ModelConfig, ModelConfigError, ModelKind, Shape};

/// A version of architectural performance monitoring.
///
/// # Examples
/// ```
/// use vpmu::guest::ArchVersion;
///
/// assert_eq!(ArchVersion::V5.number(), 5);
/// assert!(ArchVersion::V1 < ArchVersion::V2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArchVersion {
    /// Event selects and counters alone.
    V1 = 1,
    /// Fixed counters, global control and status.
    V2 = 2,
    /// AnyThread.
    V3 = 3,
    /// Status that can be set, registers in use, streamlined freeze.
    V4 = 4,
    /// Any set of fixed counters; AnyThread is gone.
    V5 = 5,
}

impl ArchVersion {
    /// The number in leaf 0AH.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A kind of core of the hybrid pair.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmonConfig, CoreType};
/// use vpmu::x86::event::ArchEventSet;
///
/// let core = ArchPerfmonConfig::hybrid(CoreType::Core, ArchEventSet::ALL);
/// let atom = ArchPerfmonConfig::hybrid(CoreType::Atom, ArchEventSet::ALL);
/// assert_eq!((core.counters().len(), atom.counters().len()), (12, 9));
/// assert_eq!(core.leaf_0a(), atom.leaf_0a());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CoreType {
    /// Leaf 1AH says 40H.
    Core,
    /// Leaf 1AH says 20H.
    Atom,
}

/// Counters and events of an [`super::ArchPerfmon`].
///
/// # Examples
/// ```
/// use vpmu::guest::ArchPerfmonConfig;
/// use vpmu::x86::event::ArchEventSet;
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
/// assert_eq!(config.counters().len(), 7);
/// assert!(ArchPerfmonConfig::new(9, 3, 48, ArchEventSet::ALL).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchPerfmonConfig {
    version: ArchVersion,
    counters: PmcSet,
    width: u8,
    events: ArchEventSet,
    /// PERF_METRICS and its bit in GLOBAL_CTRL are there.
    metrics: bool,
    /// What leaf 0AH shows, if it is not what there is.
    shown: PmcSet,
}

impl ArchPerfmonConfig {
    /// Length of the event vector: the seven pre-defined events. Linux refuses
    /// a shorter one.
    const EVENTS: u8 = 7;

    /// Version 2 with `gp` general-purpose and `fixed` fixed counters of
    /// `width` bits on a host that backs `events`.
    ///
    /// # Errors
    /// [`ModelConfigError`] names the number that cannot be had.
    pub fn new(
        gp: u8,
        fixed: u8,
        width: u8,
        events: ArchEventSet,
    ) -> Result<Self, ModelConfigError> {
        let shape = Shape::new(gp, fixed, width);
        // Checks the numbers; the result is of version 2 by its name.
        ModelConfig::new(ModelKind::INTEL_GENERIC, shape, events)?;
        Ok(Self::of_version(ArchVersion::V2, shape, events))
    }

    /// This version; the numbers have been checked.
    pub(in crate::guest) const fn of_version(
        version: ArchVersion,
        shape: Shape,
        events: ArchEventSet,
    ) -> Self {
        let counters = PmcSet::first(shape.gp, shape.fixed);
        Self {
            version,
            counters,
            width: shape.width,
            events,
            metrics: false,
            shown: counters,
        }
    }

    /// The same with other fixed counters, a bit for each of the four. Only
    /// version 5 can say which ones it has: under the others, and with none at
    /// all, nothing changes.
    #[must_use]
    pub const fn with_fixed_bitmap(mut self, fixed: u8) -> Self {
        let gp = self.general_purpose();
        let counters = PmcSet(gp.0 | PmcSet::with_fixed_bitmap(0, fixed).0);
        if matches!(self.version, ArchVersion::V5) && counters.0 != gp.0 {
            self.counters = counters;
            self.shown = counters;
        }
        self
    }

    /// One of the hybrid pair (guest-contract §2.2). Linux takes the numbers of
    /// the boot CPU's leaf 0AH and adds two and one for a core, so leaf 0AH is
    /// the same on both (G-201), and a core has more than it shows (G-202),
    /// slots and PERF_METRICS among it (G-203).
    #[must_use]
    pub const fn hybrid(core: CoreType, events: ArchEventSet) -> Self {
        let shown = PmcSet::first(6, 3);
        let (counters, metrics) = match core {
            CoreType::Core => (PmcSet::first(8, 4), true),
            CoreType::Atom => (shown, false),
        };
        Self {
            version: ArchVersion::V5,
            counters,
            width: 48,
            events,
            metrics,
            shown,
        }
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> ArchVersion {
        self.version
    }

    /// Every counter.
    #[must_use]
    pub const fn counters(&self) -> PmcSet {
        self.counters
    }

    /// The general-purpose counters.
    #[must_use]
    pub const fn general_purpose(&self) -> PmcSet {
        self.counters.and(PmcSet::first(Pmc::MAX_GP, 0))
    }

    /// The fixed counters.
    #[must_use]
    pub const fn fixed(&self) -> PmcSet {
        self.counters.and(PmcSet::first(0, Pmc::MAX_FIXED))
    }

    /// The bits of a counter.
    #[must_use]
    pub const fn mask(&self) -> u64 {
        (1 << self.width) - 1
    }

    /// The events that the host backs.
    #[must_use]
    pub const fn events(&self) -> ArchEventSet {
        self.events
    }

    /// Whether PERF_METRICS and its bit in GLOBAL_CTRL are there.
    #[must_use]
    pub const fn has_metrics(&self) -> bool {
        self.metrics
    }

    /// Whether fixed counters and the global registers are there; and PDCM,
    /// with full-width writes.
    #[must_use]
    pub const fn has_globals(&self) -> bool {
        !matches!(self.version, ArchVersion::V1)
    }

    /// Whether status can be set, and a freeze shows in it.
    #[must_use]
    pub const fn has_status_set(&self) -> bool {
        matches!(self.version, ArchVersion::V4 | ArchVersion::V5)
    }

    /// Whether AnyThread can be asked for: version 5 has deprecated it.
    #[must_use]
    pub const fn has_any_thread(&self) -> bool {
        matches!(self.version, ArchVersion::V3 | ArchVersion::V4)
    }

    /// The bits of IA32_PERFEVTSELx that give #GP.
    #[must_use]
    pub const fn event_sel_reserved(&self) -> u64 {
        if self.has_any_thread() {
            EventSel::RESERVED_WITH_ANY_THREAD
        } else {
            EventSel::RESERVED
        }
    }

    /// IA32_PERF_CAPABILITIES: full-width writes, nothing else. What Linux
    /// forces on a hybrid core it forces without PERF_METRICS here as well.
    #[must_use]
    pub const fn capabilities(&self) -> PerfCapabilities {
        PerfCapabilities::new().with_full_width_writes(true)
    }

    /// CPUID leaf 0AH (rules G-002 and G-003; both widths are equal because
    /// Linux takes the general-purpose one for all counters). The counters are those
    /// of the rows; a hybrid core shows fewer ([`ArchPerfmonConfig::hybrid`]).
    #[must_use]
    pub fn leaf_0a(&self) -> Leaf0A {
        let counters = self.counters_with_registers().and(self.shown);
        let gp = counters.and(PmcSet::first(Pmc::MAX_GP, 0));
        let bitmap = counters.iter().filter_map(Pmc::fixed_number);
        let bitmap = bitmap.fold(0u8, |bits, i| bits | 1 << i);
        let mut leaf = Leaf0A {
            eax: Leaf0AEax::new()
                .with_version(self.version.number())
                .with_gp_counters(gp.len())
                .with_gp_width(self.width)
                .with_event_mask_length(Self::EVENTS),
            ebx: self.events.unavailable_mask(),
            ..Leaf0A::default()
        };
        if self.has_register(FIXED_CTR_CTRL) {
            let contiguous = u8::try_from(bitmap.trailing_ones()).unwrap_or(0);
            leaf.edx = Leaf0AEdx::new()
                .with_fixed_counters(contiguous)
                .with_fixed_width(self.width);
        }
        if self.version == ArchVersion::V5 {
            leaf.ecx = bitmap.into();
            leaf.edx.set_any_thread_deprecated(true);
        }
        leaf
    }

    /// The model with its numbers.
    #[must_use]
    pub(super) const fn identity(&self) -> Identity {
        Identity {
            vendor: Vendor::Intel,
            version: self.version.number(),
            width: self.width,
            metrics: self.metrics,
            events: self.events,
            counters: self.counters,
            shown: self.shown,
        }
    }

    /// What CPUID says of it, from the rows: what it announces is there.
    #[must_use]
    pub fn cpuid(&self) -> PmuCpuid {
        PmuCpuid::Intel(IntelLeaves {
            leaf_0a: self.leaf_0a(),
            pdcm: self.has_register(PERF_CAPABILITIES),
        })
    }
}
