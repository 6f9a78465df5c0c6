//! The models by name, and what each can be shaped into.

use core::fmt;
use core::ops::RangeInclusive;

use crate::ids::Pmc;
use crate::x86::cpuid::Vendor;

use super::{AmdVersion, ArchVersion, ModelConfigError, Shape};

/// A model that a user can name.
///
/// A name stands for the same registers, widths and default numbers on every
/// host and in every release, so that a guest finds the same PMU wherever it
/// is moved to; a model that differs gets another name. What depends on the
/// host is which architectural events leaf 0AH offers. A VMM may give smaller
/// numbers where its user gave none.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchVersion, ModelKind};
///
/// assert_eq!(ModelKind::from_name("intel-v4"), Some(ModelKind::Intel(ArchVersion::V4)));
/// assert_eq!(ModelKind::from_name("intel-v9"), None);
/// assert_eq!(ModelKind::INTEL_GENERIC.name(), "intel-v2");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// Architectural performance monitoring of this version.
    Intel(ArchVersion),
    /// AMD's counters of this generation.
    Amd(AmdVersion),
}

/// What the numbers of a model may be.
///
/// # Examples
/// ```
/// use vpmu::guest::ModelKind;
///
/// let limits = ModelKind::INTEL_GENERIC.limits();
/// assert!(limits.gp.contains(&8) && !limits.gp.contains(&9));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// General-purpose counters.
    pub gp: RangeInclusive<u8>,
    /// Fixed counters.
    pub fixed: RangeInclusive<u8>,
    /// Bits of a counter.
    pub width: RangeInclusive<u8>,
}

impl ModelKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Intel(ArchVersion::V1),
        Self::Intel(ArchVersion::V2),
        Self::Intel(ArchVersion::V3),
        Self::Intel(ArchVersion::V4),
        Self::Intel(ArchVersion::V5),
        Self::Amd(AmdVersion::K7),
        Self::Amd(AmdVersion::Core),
        Self::Amd(AmdVersion::V2),
    ];

    /// The names of [`ModelKind::ALL`].
    pub const NAMES: &str =
        "intel-v1, intel-v2, intel-v3, intel-v4, intel-v5, amd-k7, amd-core, amd-v2";

    /// The profile `intel-generic`: what Linux takes on any host.
    pub const INTEL_GENERIC: Self = Self::Intel(ArchVersion::V2);

    /// The model of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel(ArchVersion::V1) => "intel-v1",
            Self::Intel(ArchVersion::V2) => "intel-v2",
            Self::Intel(ArchVersion::V3) => "intel-v3",
            Self::Intel(ArchVersion::V4) => "intel-v4",
            Self::Intel(ArchVersion::V5) => "intel-v5",
            Self::Amd(AmdVersion::K7) => "amd-k7",
            Self::Amd(AmdVersion::Core) => "amd-core",
            Self::Amd(AmdVersion::V2) => "amd-v2",
        }
    }

    /// Whose CPU the guest sees.
    #[must_use]
    pub const fn vendor(self) -> Vendor {
        match self {
            Self::Intel(_) => Vendor::Intel,
            Self::Amd(_) => Vendor::Amd,
        }
    }

    /// The numbers where nobody asks for others: of the first CPUs with this
    /// version (v1: Core Duo; v5: Ice Lake), four general-purpose counters in
    /// between. An AMD model has what its generation has.
    #[must_use]
    pub const fn shape(self) -> Shape {
        match self {
            Self::Intel(ArchVersion::V1) => Shape::new(2, 0, 40),
            Self::Intel(ArchVersion::V2 | ArchVersion::V3 | ArchVersion::V4) => {
                Shape::new(4, 3, 48)
            }
            Self::Intel(ArchVersion::V5) => Shape::new(8, 3, 48),
            Self::Amd(version) => Shape::new(version.counters(), 0, 48),
        }
    }

    /// What the numbers may be.
    #[must_use]
    pub const fn limits(self) -> Limits {
        const WIDTH: RangeInclusive<u8> = 32..=48;
        // Linux binds only with more than one.
        const GP: RangeInclusive<u8> = 2..=Pmc::MAX_GP;
        let (gp, fixed, width) = match self {
            Self::Intel(ArchVersion::V1) => (GP, 0..=0, WIDTH),
            // G-002: never 0.
            Self::Intel(ArchVersion::V2 | ArchVersion::V3 | ArchVersion::V4) => (GP, 1..=3, WIDTH),
            Self::Intel(ArchVersion::V5) => (GP, 1..=Pmc::MAX_FIXED, WIDTH),
            Self::Amd(version) => (version.allowed(), 0..=0, 48..=48),
        };
        Limits { gp, fixed, width }
    }
}

impl ModelKind {
    /// Whether it can have these numbers.
    ///
    /// # Errors
    /// [`ModelConfigError`] for the first number that it cannot have.
    pub fn check(self, shape: Shape) -> Result<(), ModelConfigError> {
        let limits = self.limits();
        for (number, asked, allowed) in [
            ("gp", shape.gp, limits.gp),
            ("fixed", shape.fixed, limits.fixed),
            ("width", shape.width, limits.width),
        ] {
            if !allowed.contains(&asked) {
                return Err(ModelConfigError {
                    number,
                    asked,
                    model: self,
                    allowed,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn names_are_unique_and_found() {
        let names: Vec<_> = ModelKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.join(", "), ModelKind::NAMES);
        for kind in ModelKind::ALL {
            assert_eq!(ModelKind::from_name(kind.name()), Some(kind));
        }
        for bad in ["", "intel", "intel-v6", "amd-v1", "Intel-v2"] {
            assert_eq!(ModelKind::from_name(bad), None);
        }
    }

    /// A name stands for the same numbers for ever.
    #[test]
    fn default_shapes_never_change() {
        let shapes = ModelKind::ALL.map(|kind| {
            let Shape { gp, fixed, width } = kind.shape();
            (gp, fixed, width)
        });
        assert_eq!(
            shapes,
            [
                (2, 0, 40),
                (4, 3, 48),
                (4, 3, 48),
                (4, 3, 48),
                (8, 3, 48),
                (4, 0, 48),
                (6, 0, 48),
                (6, 0, 48)
            ]
        );
    }
}
