//! The PMUs that a Linux host lists in sysfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ids::HostCpu;

/// `perf_event_attr.type` of a PMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PmuType(pub u32);

/// A PMU of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PmuDevice {
    /// Directory name, such as `cpu`, `cpu_core` or `power`.
    pub name: String,
    /// Type number.
    pub kind: PmuType,
    /// The CPUs that it counts on (`cpus`), or that stand for its scopes
    /// (`cpumask`). `None`: on all.
    pub cpus: Option<Vec<HostCpu>>,
}

/// Why the list could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SysfsError {
    /// A file or directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what the kernel's ABI says.
    #[error("{path} holds {text:?}, which is no {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
        /// What was expected.
        what: &'static str,
    },
}

/// A sysfs tree: the machine's own, or a recorded one.
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
        let devices = self.0.join("bus/event_source/devices");
        let entries = match fs::read_dir(&devices) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                return Err(SysfsError::Read {
                    path: devices,
                    source,
                });
            }
        };
        let mut pmus = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| SysfsError::Read {
                path: devices.clone(),
                source,
            })?;
            pmus.push(pmu(&entry.path())?);
        }
        pmus.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pmus)
    }

    /// The CPUs that are online.
    ///
    /// # Errors
    /// [`SysfsError`]
    pub fn online_cpus(&self) -> Result<Vec<HostCpu>, SysfsError> {
        let path = self.0.join("devices/system/cpu/online");
        cpu_list(&path, &read(&path)?)
    }
}

fn pmu(directory: &Path) -> Result<PmuDevice, SysfsError> {
    let name = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let path = directory.join("type");
    let text = read(&path)?;
    let Ok(number) = text.parse() else {
        return Err(SysfsError::Malformed {
            path,
            text,
            what: "PMU type number",
        });
    };
    let mut cpus = None;
    for file in ["cpus", "cpumask"] {
        let path = directory.join(file);
        if path.exists() {
            cpus = Some(cpu_list(&path, &read(&path)?)?);
            break;
        }
    }
    Ok(PmuDevice {
        name,
        kind: PmuType(number),
        cpus,
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

/// The kernel's list format: `0-3,8,10-11`, or nothing.
fn cpu_list(path: &Path, text: &str) -> Result<Vec<HostCpu>, SysfsError> {
    let malformed = || SysfsError::Malformed {
        path: path.to_owned(),
        text: text.to_owned(),
        what: "list of CPUs",
    };
    let number = |s: &str| s.parse::<u32>().map_err(|_not_a_number| malformed());
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend((number(first)?..=number(last)?).map(HostCpu));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in a directory of its own, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("vpmu-{name}-{}", std::process::id()));
            for (file, text) in files {
                let path = root.join("bus/event_source/devices").join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_hybrid_host_lists_both_core_pmus_with_their_cpus() {
        let tree = Tree::new(
            "hybrid",
            &[
                ("cpu_core/type", "4\n"),
                ("cpu_core/cpus", "0-1,4\n"),
                ("cpu_atom/type", "10\n"),
                ("cpu_atom/cpus", "2-3\n"),
                ("power/type", "11\n"),
                ("power/cpumask", "0\n"),
                ("software/type", "1\n"),
            ],
        );
        let cpus = |list: &[u32]| Some(list.iter().copied().map(HostCpu).collect());
        let pmu = |name: &str, kind, cpus| PmuDevice {
            name: name.into(),
            kind: PmuType(kind),
            cpus,
        };
        assert_eq!(
            Sysfs::at(&tree.0).pmus().unwrap(),
            [
                pmu("cpu_atom", 10, cpus(&[2, 3])),
                pmu("cpu_core", 4, cpus(&[0, 1, 4])),
                pmu("power", 11, cpus(&[0])),
                pmu("software", 1, None),
            ]
        );
    }

    #[test]
    fn a_malformed_tree_is_an_error_that_names_the_file() {
        let tree = Tree::new("malformed", &[("cpu/type", "four\n")]);
        let text = Sysfs::at(&tree.0).pmus().unwrap_err().to_string();
        assert!(text.contains("cpu/type") && text.contains("four"), "{text}");
        let tree = Tree::new("list", &[("cpu/type", "4"), ("cpu/cpus", "0-x")]);
        assert!(Sysfs::at(&tree.0).pmus().is_err());
    }

    #[test]
    fn no_perf_is_no_pmu() {
        assert_eq!(Sysfs::at(Path::new("/nonexistent")).pmus().unwrap(), []);
    }
}
