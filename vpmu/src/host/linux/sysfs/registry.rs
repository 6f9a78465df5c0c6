//! The PMUs by type number and by name.

use std::collections::HashMap;

use super::{PmuDevice, Sysfs, SysfsError};
use crate::ids::PmuType;

/// The host's PMUs as they were when it was read. PMUs that come later (a
/// module) are not in it.
///
/// Linux: `pmu_idr` and `pmus`.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::{PmuRegistry, Sysfs};
/// use vpmu::ids::PmuType;
///
/// let registry = PmuRegistry::read(&Sysfs::default())?;
/// for pmu in registry.iter() {
///     println!("{}: core PMU: {}", pmu.name, pmu.is_core());
/// }
/// let raw = registry.by_type(PmuType::RAW); // None on a host without a PMU
/// # drop(raw);
/// # Ok::<(), vpmu::host::linux::sysfs::SysfsError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PmuRegistry {
    pmus: Vec<PmuDevice>,
    by_type: HashMap<PmuType, usize>,
    by_name: HashMap<String, usize>,
}

impl PmuRegistry {
    /// Reads the tree.
    ///
    /// # Errors
    /// [`SysfsError`]
    pub fn read(sysfs: &Sysfs) -> Result<Self, SysfsError> {
        Ok(Self::new(sysfs.pmus()?))
    }

    /// A registry of these. Names and types are unique in a kernel's list.
    #[must_use]
    pub fn new(pmus: Vec<PmuDevice>) -> Self {
        let places = || pmus.iter().enumerate();
        Self {
            by_type: places().map(|(i, pmu)| (pmu.kind, i)).collect(),
            by_name: places().map(|(i, pmu)| (pmu.name.clone(), i)).collect(),
            pmus,
        }
    }

    /// The PMU with this type number.
    #[must_use]
    pub fn by_type(&self, kind: PmuType) -> Option<&PmuDevice> {
        self.pmus.get(*self.by_type.get(&kind)?)
    }

    /// The PMU with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&PmuDevice> {
        self.pmus.get(*self.by_name.get(name)?)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PmuDevice> {
        self.pmus.iter()
    }

    /// The core PMUs, by name: one on most hosts, one for each kind of CPU on a
    /// hybrid host.
    pub fn cores(&self) -> impl Iterator<Item = &PmuDevice> {
        self.iter().filter(|pmu| pmu.is_core())
    }
}
