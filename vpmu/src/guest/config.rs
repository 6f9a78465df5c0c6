//! A model with its numbers: checked once, then fixed.

use core::fmt;
use core::ops::RangeInclusive;

use crate::ids::PmcSet;
use crate::x86::cpuid::PmuCpuid;
use crate::x86::event::ArchEventSet;

use super::{AmdConfig, ArchPerfmonConfig, ModelKind};

/// The numbers of a PMU.
///
/// # Examples
/// ```
/// use vpmu::guest::{ModelKind, Shape};
///
/// let small = Shape { gp: 2, ..ModelKind::INTEL_GENERIC.shape() };
/// assert!(ModelKind::INTEL_GENERIC.check(small).is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// General-purpose counters.
    pub gp: u8,
    /// Fixed counters.
    pub fixed: u8,
    /// Bits of a counter.
    pub width: u8,
}

impl Shape {
    pub(super) const fn new(gp: u8, fixed: u8, width: u8) -> Self {
        Self { gp, fixed, width }
    }
}

/// A number that a model cannot have.
///
/// # Examples
/// ```
/// use vpmu::guest::{ModelKind, Shape};
///
/// let none = Shape { gp: 0, ..ModelKind::INTEL_GENERIC.shape() };
/// let error = ModelKind::INTEL_GENERIC.check(none).unwrap_err();
/// assert_eq!((error.number, error.asked), ("gp", 0));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{number}={asked} is not possible with model={model}; accepted: {}", OneOf(.allowed))]
pub struct ModelConfigError {
    /// Which number: `gp`, `fixed` or `width`.
    pub number: &'static str,
    /// What was asked for.
    pub asked: u8,
    /// The model.
    pub model: ModelKind,
    /// What the model allows.
    pub allowed: RangeInclusive<u8>,
}

struct OneOf<'a>(&'a RangeInclusive<u8>);

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first} to {last}")
        }
    }
}

/// A model, its numbers, and the events that the host backs.
///
/// # Examples
/// ```
/// use vpmu::guest::{ModelConfig, ModelKind};
/// use vpmu::host::software::SoftwarePmu;
///
/// let kind = ModelKind::INTEL_GENERIC;
/// let config = ModelConfig::new(kind, kind.shape(), SoftwarePmu::SUPPORTED).unwrap();
/// assert_eq!(config.counters().len(), 7);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelConfig {
    /// An architectural PMU.
    Intel(ArchPerfmonConfig),
    /// An AMD PMU.
    Amd(AmdConfig),
}

impl ModelConfig {
    /// `kind` with these numbers, on a host that backs `events`.
    ///
    /// # Errors
    /// [`ModelConfigError`] for the first number that the model cannot have.
    pub fn new(
        kind: ModelKind,
        shape: Shape,
        events: ArchEventSet,
    ) -> Result<Self, ModelConfigError> {
        kind.check(shape)?;
        Ok(match kind {
            ModelKind::Intel(version) => {
                Self::Intel(ArchPerfmonConfig::of_version(version, shape, events))
            }
            ModelKind::Amd(version) => {
                Self::Amd(AmdConfig::new(version, events).with_counters(shape.gp))
            }
        })
    }

    /// Every counter.
    #[must_use]
    pub const fn counters(&self) -> PmcSet {
        match self {
            Self::Intel(config) => config.counters(),
            Self::Amd(config) => config.counters(),
        }
    }

    /// What CPUID says of it.
    #[must_use]
    pub fn cpuid(&self) -> PmuCpuid {
        match self {
            Self::Intel(config) => config.cpuid(),
            Self::Amd(config) => config.cpuid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    /// G-002 and the limits of the rows.
    #[test]
    fn impossible_numbers_are_refused_by_name() {
        for (name, [gp, fixed, width], asked, accepted) in [
            ("intel-v2", [1, 3, 48], "gp=1", "2 to 8"),
            ("intel-v4", [9, 3, 48], "gp=9", "2 to 8"),
            ("intel-v2", [4, 0, 48], "fixed=0", "1 to 3"),
            ("intel-v3", [4, 4, 48], "fixed=4", "1 to 3"),
            ("intel-v1", [2, 3, 48], "fixed=3", "0"),
            ("intel-v5", [8, 5, 48], "fixed=5", "1 to 4"),
            ("intel-v2", [4, 3, 31], "width=31", "32 to 48"),
            ("intel-v2", [4, 3, 49], "width=49", "32 to 48"),
            ("amd-k7", [6, 0, 48], "gp=6", "4"),
            ("amd-v2", [6, 3, 48], "fixed=3", "0"),
            ("amd-core", [6, 0, 40], "width=40", "48"),
        ] {
            let kind = ModelKind::from_name(name).unwrap();
            let error = ModelConfig::new(kind, Shape::new(gp, fixed, width), ArchEventSet::ALL);
            let text = error.unwrap_err().to_string();
            let expected =
                format!("{asked} is not possible with model={name}; accepted: {accepted}");
            assert_eq!(text, expected);
        }
        for kind in ModelKind::ALL {
            assert!(ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).is_ok());
        }
    }
}
