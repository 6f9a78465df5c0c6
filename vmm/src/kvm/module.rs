//! The parameters of KVM's modules, as sysfs shows them. They concern every VM of the host.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Serialize, Serializer};

/// The modules, in the order in which their parameters are looked for.
pub const MODULES: [&str; 4] = ["kvm_intel", "kvm_amd", "kvm_pvm", "kvm"];

/// Where the host shows its modules.
pub const SYS_MODULE: &str = "/sys/module";

/// A parameter, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The module.
    pub module: &'static str,
    /// What sysfs shows: `Y` or `N` of a switch.
    pub value: String,
}

impl Parameter {
    /// The parameter `name` of the first module under `modules` that has it; `None`: no
    /// module has.
    ///
    /// # Errors
    /// If one has it and it cannot be read.
    pub fn read(modules: &Path, name: &str) -> io::Result<Option<Self>> {
        for module in MODULES {
            let path = modules.join(module).join("parameters").join(name);
            match fs::read_to_string(path) {
                Ok(text) => {
                    return Ok(Some(Self {
                        module,
                        value: text.trim().to_owned(),
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The module under `modules` that gives VMs the host's PMU itself, instead of events
    /// of it, if one does. While such a VM lives, `perf_event_open` refuses events that
    /// count guests, with `EOPNOTSUPP`; while one of those is open, such a VM's vCPU is
    /// refused, with `EBUSY`.
    ///
    /// Linux: `enable_mediated_pmu`, from 7.0 on.
    #[must_use]
    pub fn mediated_pmu(modules: &Path) -> Option<&'static str> {
        // Without an answer the host's own words have to do.
        let parameter = Self::read(modules, "enable_mediated_pmu").ok().flatten()?;
        parameter.is_on().then_some(parameter.module)
    }

    /// Whether it is a switch that is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.value.starts_with(['Y', '1'])
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.value, self.module)
    }
}

impl Serialize for Parameter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of modules with one parameter, until its end.
    struct Modules(std::path::PathBuf);

    impl Modules {
        fn new(test: &str, path: &str, text: &str) -> Self {
            let name = format!("perfvisor-module-{test}-{}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            let file = dir.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
            Self(dir)
        }
    }

    impl Drop for Modules {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_mediated_pmu_is_seen_where_it_is_on() {
        for (text, module) in [("Y\n", Some("kvm_amd")), ("N\n", None)] {
            let path = "kvm_amd/parameters/enable_mediated_pmu";
            let modules = Modules::new("mediated", path, text);
            assert_eq!(Parameter::mediated_pmu(&modules.0), module);
        }
        let modules = Modules::new("vpmu", "kvm/parameters/enable_pmu", "Y\n");
        assert_eq!(Parameter::mediated_pmu(&modules.0), None, "an older kernel");
        let found = Parameter::read(&modules.0, "enable_pmu").unwrap().unwrap();
        assert_eq!((found.module, &*found.value), ("kvm", "Y"));
        assert_eq!(serde_json::to_string(&found).unwrap(), "\"Y (kvm)\"");
    }

    #[test]
    fn no_module_is_no_error() {
        let found = Parameter::read(Path::new("/nonexistent"), "enable_pmu");
        assert_eq!(found.unwrap(), None);
    }
}
