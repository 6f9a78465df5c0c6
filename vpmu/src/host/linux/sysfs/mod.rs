//! The PMUs that a Linux host lists in sysfs.
//!
//! ```text
//!  Sysfs (the machine's tree, or a recorded one)
//!   ├ pmus ─▶ PmuDevice: name, type, Coverage ─▶ PmuRegistry: by type, by name
//!   ├ details ─▶ formats, events, caps of one device, read when somebody asks
//!   └ scope ─▶ which CPUs share one instance of an uncore PMU
//! ```
//! Linux: Documentation/ABI/testing/sysfs-bus-event_source-devices*.

mod address;
mod cpus;
mod details;
mod registry;
mod scope;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use address::{EventAddress, EventSource, GenericEvent};
pub use cpus::CpuSet;
pub use details::{EncodeError, PmuDetails, RawConfig};
pub use registry::PmuRegistry;
pub use scope::PmuScope;

use crate::ids::PmuType;

/// Where a PMU counts, as its directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Neither file: on every CPU.
    EveryCpu,
    /// `cpus`: on these CPUs and on no other. Core PMUs of hybrid hosts and of
    /// Arm have it.
    Cpus(CpuSet),
    /// `cpumask`: its counters belong to groups of CPUs, and these CPUs stand
    /// for the groups.
    Designated(CpuSet),
}

/// A PMU of the host.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::{Coverage, CpuSet, PmuDevice};
/// use vpmu::ids::PmuType;
///
/// let atom = PmuDevice {
///     name: "cpu_atom".into(),
///     kind: PmuType(10),
///     coverage: Coverage::Cpus(CpuSet::parse("16-23").unwrap()),
/// };
/// assert!(atom.is_core());
/// assert_eq!(atom.cpus().map(CpuSet::len), Some(8));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmuDevice {
    /// Directory name, such as `cpu`, `cpu_core` or `power`.
    pub name: String,
    /// Type number.
    pub kind: PmuType,
    /// Where it counts.
    pub coverage: Coverage,
}

impl PmuDevice {
    /// The name of the core PMU on a host whose CPUs are all alike, and not
    /// Arm's.
    pub const CORE: &'static str = "cpu";

    /// Whether it counts what CPUs execute: `cpu`, or a PMU that lists the CPUs
    /// that it counts on (`cpu_core`, `cpu_atom`, `armv8_…`, or a name that
    /// nobody has thought of yet). The perf tool decides likewise.
    #[must_use]
    pub fn is_core(&self) -> bool {
        self.name == Self::CORE || matches!(self.coverage, Coverage::Cpus(_))
    }

    /// The CPUs that it counts on; `None`: on all.
    #[must_use]
    pub const fn cpus(&self) -> Option<&CpuSet> {
        match &self.coverage {
            Coverage::Cpus(cpus) => Some(cpus),
            Coverage::EveryCpu | Coverage::Designated(_) => None,
        }
    }
}

/// The reason why sysfs gave no list of PMUs.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// A file or directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what the kernel's ABI says.
    #[error("{path} holds {text:?}; expected: a {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
        /// The form that the kernel's ABI promises.
        what: &'static str,
    },
}

/// A sysfs tree: the machine's own, or a recorded one.
///
/// # Examples
/// ```
/// use std::path::Path;
///
/// use vpmu::host::linux::sysfs::Sysfs;
///
/// // A tree without PMUs; `Sysfs::default()` is the machine's own.
/// let none = Sysfs::at(Path::new("/nonexistent"));
/// assert!(none.pmus().is_ok_and(|pmus| pmus.is_empty()));
/// ```
#[derive(Clone, Debug)]
pub struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self("/sys".into())
    }
}

impl Sysfs {
    /// The tree that is mounted, or was copied, at `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Every PMU, by name.
    ///
    /// # Errors
    /// [`SysfsError`] if a file is unreadable or malformed. A host without any
    /// PMU, or without perf, has an empty list.
    pub fn pmus(&self) -> Result<Vec<PmuDevice>, SysfsError> {
        let devices = self.0.join(DEVICES);
        let unreadable = |source| SysfsError::Read {
            path: devices.clone(),
            source,
        };
        let entries = match fs::read_dir(&devices) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(unreadable(source)),
        };
        let mut pmus = Vec::new();
        for entry in entries {
            pmus.push(pmu(&entry.map_err(unreadable)?.path())?);
        }
        pmus.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pmus)
    }

    /// The PMU of this name, as it is now; `None` if there is none.
    ///
    /// # Errors
    /// [`SysfsError`] if a file of it is unreadable or malformed.
    pub fn pmu(&self, name: &str) -> Result<Option<PmuDevice>, SysfsError> {
        let directory = self.0.join(DEVICES).join(name);
        directory.exists().then(|| pmu(&directory)).transpose()
    }

    /// The CPUs that are online.
    ///
    /// # Errors
    /// [`SysfsError`]
    pub fn online_cpus(&self) -> Result<CpuSet, SysfsError> {
        cpu_list(&self.0.join(CPUS).join("online"))
    }
}

const DEVICES: &str = "bus/event_source/devices";
const CPUS: &str = "devices/system/cpu";

fn pmu(directory: &Path) -> Result<PmuDevice, SysfsError> {
    let name = directory.file_name().unwrap_or_default();
    let path = directory.join("type");
    let text = read(&path)?;
    let Ok(number) = text.parse() else {
        return Err(SysfsError::Malformed {
            path,
            text,
            what: "PMU type number",
        });
    };
    let (cpus, cpumask) = (directory.join("cpus"), directory.join("cpumask"));
    let coverage = if cpus.exists() {
        Coverage::Cpus(cpu_list(&cpus)?)
    } else if cpumask.exists() {
        Coverage::Designated(cpu_list(&cpumask)?)
    } else {
        Coverage::EveryCpu
    };
    Ok(PmuDevice {
        name: name.to_string_lossy().into_owned(),
        kind: PmuType(number),
        coverage,
    })
}

fn read(path: &Path) -> Result<String, SysfsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(SysfsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn cpu_list(path: &Path) -> Result<CpuSet, SysfsError> {
    let text = read(path)?;
    CpuSet::parse(&text).ok_or_else(|| SysfsError::Malformed {
        path: path.to_owned(),
        text,
        what: "list of CPUs",
    })
}
