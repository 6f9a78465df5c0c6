//! The shape of an architectural PMU: checked once, then fixed.

use crate::ids::{Pmc, PmcSet};
use crate::x86::cpuid::{Leaf0A, Leaf0AEax, Leaf0AEdx};
use crate::x86::event::ArchEventSet;
use crate::x86::regs::PerfCapabilities;

/// Counters and events of an [`super::ArchPerfmon`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchPerfmonConfig {
    gp: u8,
    fixed: u8,
    width: u8,
    events: ArchEventSet,
}

/// A shape that no guest driver would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Linux binds only with more than one.
    #[error("{0} general-purpose counters; 2 to {max} can be had", max = Pmc::MAX_GP)]
    GeneralPurpose(u8),
    /// Rule G-002: never 0 under version 2.
    #[error("{0} fixed counters; 1 to 3 can be had")]
    Fixed(u8),
    /// Legacy writes carry 32 bits; more than 48 is on no CPU.
    #[error("counters of {0} bits; 32 to 48 can be had")]
    Width(u8),
}

impl ArchPerfmonConfig {
    /// Version of architectural performance monitoring.
    pub(super) const VERSION: u8 = 2;
    /// Length of the event vector: the seven pre-defined events. Linux refuses
    /// a shorter one.
    const EVENTS: u8 = 7;

    /// `gp` general-purpose and `fixed` fixed counters of `width` bits on a
    /// host that backs `events`.
    ///
    /// # Errors
    /// [`ConfigError`] names the number that cannot be had.
    pub const fn new(
        gp: u8,
        fixed: u8,
        width: u8,
        events: ArchEventSet,
    ) -> Result<Self, ConfigError> {
        if gp < 2 || gp > Pmc::MAX_GP {
            return Err(ConfigError::GeneralPurpose(gp));
        }
        if fixed < 1 || fixed > 3 {
            return Err(ConfigError::Fixed(fixed));
        }
        if width < 32 || width > 48 {
            return Err(ConfigError::Width(width));
        }
        Ok(Self {
            gp,
            fixed,
            width,
            events,
        })
    }

    /// Every counter.
    #[must_use]
    pub const fn counters(&self) -> PmcSet {
        PmcSet::first(self.gp, self.fixed)
    }

    /// The general-purpose counters.
    #[must_use]
    pub const fn general_purpose(&self) -> PmcSet {
        PmcSet::first(self.gp, 0)
    }

    /// The fixed counters.
    #[must_use]
    pub const fn fixed(&self) -> PmcSet {
        PmcSet::first(0, self.fixed)
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

    /// IA32_PERF_CAPABILITIES: full-width writes, nothing else.
    #[must_use]
    pub const fn capabilities(&self) -> PerfCapabilities {
        PerfCapabilities::new().with_full_width_writes(true)
    }

    /// CPUID leaf 0AH (rules G-002 and G-003; both widths are equal because
    /// Linux takes the general-purpose one for all counters).
    #[must_use]
    pub const fn leaf_0a(&self) -> Leaf0A {
        Leaf0A {
            eax: Leaf0AEax::new()
                .with_version(Self::VERSION)
                .with_gp_counters(self.gp)
                .with_gp_width(self.width)
                .with_event_mask_length(Self::EVENTS),
            ebx: self.events.unavailable_mask(),
            ecx: 0,
            edx: Leaf0AEdx::new()
                .with_fixed_counters(self.fixed)
                .with_fixed_width(self.width),
        }
    }
}
