//! The drivers that the guest needs: built into its kernel, or modules for its initramfs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::kernel::GuestKernel;

/// The drivers of every guest.
const DRIVERS: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];
/// The driver of a guest with a network.
const NETWORK: &str = "virtio_net";

/// The reason why a kernel cannot be the guest's.
#[derive(Debug, Error)]
pub enum DriversError {
    /// Nobody can tell what the kernel has.
    #[error(
        "--kernel: the modules of {kernel} are missing: /lib/modules/{version} has no modules.builtin; install them (as the package of the kernel does), or use another kernel"
    )]
    NoFolder {
        /// The kernel.
        kernel: PathBuf,
        /// Its version.
        version: String,
    },
    /// It has no such driver.
    #[error(
        "--kernel: {kernel} has no {}, which exec needs, neither built in nor in {folder}; use another kernel (Debian: linux-image-cloud-amd64)", .drivers.join(", ")
    )]
    Missing {
        /// The kernel.
        kernel: PathBuf,
        /// The drivers.
        drivers: Vec<&'static str>,
        /// Where its modules are.
        folder: PathBuf,
    },
    /// A module cannot be read.
    #[error("--kernel: cannot read the module {path}")]
    Read {
        /// The module's file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// A module cannot be unpacked.
    #[error(
        "--kernel: the kernel {version} cannot unpack the module {path}, and neither can {program} here ({reason}); install {program}"
    )]
    Unpack {
        /// The kernel's version.
        version: String,
        /// The module's file.
        path: PathBuf,
        /// The program.
        program: &'static str,
        /// Why not.
        reason: String,
    },
}

/// A module for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestModule {
    /// Its file name, such as `overlay.ko.xz`: the guest's kernel unpacks what does not
    /// end with `.ko`.
    pub name: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

/// The modules to load, each after those that it needs.
///
/// # Errors
/// If the kernel lacks a driver, or its module cannot be used.
pub(super) fn needed(
    kernel: &GuestKernel,
    root: &Path,
    network: bool,
) -> Result<Vec<GuestModule>, DriversError> {
    let folder = kernel.modules(root).ok_or_else(|| DriversError::NoFolder {
        kernel: kernel.path.clone(),
        version: kernel.version.clone(),
    })?;
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|source| DriversError::Read { path, source })
    };
    let index = ModuleIndex::parse(&read("modules.builtin")?, &read("modules.dep")?);
    let drivers = DRIVERS.into_iter().chain(network.then_some(NETWORK));
    let paths = index.load_order(drivers).map_err(|drivers| {
        let (kernel, folder) = (kernel.path.clone(), folder.clone());
        DriversError::Missing {
            kernel,
            drivers,
            folder,
        }
    })?;
    let unpacks = kernel_unpacks(kernel, root);
    let load = |path: &String| read_module(&folder.join(path), unpacks, &kernel.version);
    paths.iter().map(load).collect()
}

/// What `modules.builtin` and `modules.dep` say (modules.dep(5)).
#[derive(Debug, Default)]
struct ModuleIndex {
    built_in: Vec<String>,
    /// The path of each module, and of those that it needs.
    files: Vec<(String, Vec<String>)>,
}

impl ModuleIndex {
    fn parse(built_in: &str, dependencies: &str) -> Self {
        let files = dependencies.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            Some((path.to_owned(), needs))
        });
        Self {
            built_in: built_in.lines().map(name_of).collect(),
            files: files.collect(),
        }
    }

    /// The paths of the modules of these drivers, in the order in which they load; or the
    /// drivers that are not there.
    fn load_order(
        &self,
        drivers: impl Iterator<Item = &'static str>,
    ) -> Result<Vec<String>, Vec<&'static str>> {
        let (mut order, mut missing) = (Vec::new(), Vec::new());
        let mut add = |path: &String| {
            if !order.contains(path) {
                order.push(path.clone());
            }
        };
        for driver in drivers {
            if self.built_in.iter().any(|name| name == driver) {
                continue;
            }
            let found = self.files.iter().find(|(path, _)| name_of(path) == driver);
            let Some((path, needs)) = found else {
                missing.push(driver);
                continue;
            };
            // The nearest needs come first.
            needs.iter().rev().for_each(&mut add);
            add(path);
        }
        if missing.is_empty() {
            Ok(order)
        } else {
            Err(missing)
        }
    }
}

/// The name of the module in a file: a driver's, with `_` for `-`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = file.split(".ko").next().unwrap_or(file);
    name.replace('-', "_")
}

/// Whether the kernel unpacks modules itself (CONFIG_MODULE_DECOMPRESS, Linux 5.17), by
/// its configuration beside it; `None` if it has none.
fn kernel_unpacks(kernel: &GuestKernel, root: &Path) -> Option<bool> {
    let name = format!("config-{}", kernel.version);
    let places = [
        Some(kernel.path.with_file_name(&name)),
        Some(root.join("boot").join(&name)),
        kernel.modules(root).map(|folder| folder.join("config")),
    ];
    let configs = places.into_iter().flatten();
    let text = configs
        .filter_map(|path| fs::read_to_string(path).ok())
        .next();
    let set = |text: String| {
        text.lines()
            .any(|line| line == "CONFIG_MODULE_DECOMPRESS=y")
    };
    text.map(set)
}

fn read_module(
    path: &Path,
    kernel_unpacks: Option<bool>,
    version: &str,
) -> Result<GuestModule, DriversError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        _ if kernel_unpacks == Some(true) => None,
        Some("xz") => Some("xz"),
        Some("zst") => Some("zstd"),
        Some("gz") => Some("gzip"),
        _ => None,
    };
    let packed = || {
        let bytes = fs::read(path).map_err(|source| DriversError::Read {
            path: path.to_owned(),
            source,
        })?;
        let name = name.clone().into_owned();
        Ok(GuestModule { name, bytes })
    };
    let Some(program) = program else {
        return packed();
    };
    let failed = |reason: String| DriversError::Unpack {
        version: version.to_owned(),
        path: path.to_owned(),
        program,
        reason,
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = match output {
        Ok(output) => output,
        // Nobody says that the kernel cannot.
        Err(_) if kernel_unpacks.is_none() => return packed(),
        Err(error) => return Err(failed(error.to_string())),
    };
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(failed(reason.lines().next().unwrap_or_default().to_owned()));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(GuestModule {
        name: name.into_owned(),
        bytes: output.stdout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    const BUILT_IN: &str = "kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/fuse/fuse.ko\n";
    const DEPENDENCIES: &str = "\
kernel/drivers/char/virtio_console.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio.ko.xz:
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/fs/fuse/virtiofs.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz
kernel/fs/overlayfs/overlay.ko.xz:
";

    #[test]
    fn a_module_loads_after_those_that_it_needs_and_once() {
        let index = ModuleIndex::parse(BUILT_IN, DEPENDENCIES);
        let order = index.load_order(DRIVERS.into_iter()).unwrap();
        let names: Vec<_> = order.iter().map(|path| name_of(path)).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_ring",
                "virtio_console",
                "virtiofs",
                "overlay"
            ]
        );
    }

    #[test]
    fn all_missing_drivers_are_named() {
        let index = ModuleIndex::parse(BUILT_IN, "");
        let missing = index.load_order(DRIVERS.into_iter()).unwrap_err();
        assert_eq!(missing, ["virtio_console", "virtiofs", "overlay"]);
    }

    fn kernel(scratch: &Scratch) -> GuestKernel {
        let boot = scratch.0.join("boot");
        fs::create_dir_all(&boot).unwrap();
        GuestKernel {
            path: boot.join("vmlinuz-9.9"),
            version: "9.9".into(),
        }
    }

    #[test]
    fn a_kernel_without_modules_or_drivers_is_refused() {
        let scratch = Scratch::new("exec-modules");
        let kernel = kernel(&scratch);
        let message = || {
            needed(&kernel, &scratch.0, false)
                .map(|_| ())
                .unwrap_err()
                .to_string()
        };
        assert!(message().contains("/lib/modules/9.9 has no modules.builtin"));
        let folder = scratch.0.join("lib/modules/9.9");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("modules.builtin"), BUILT_IN).unwrap();
        assert!(
            message().contains("cannot read the module"),
            "{}",
            message()
        );
        fs::write(folder.join("modules.dep"), "").unwrap();
        let text = message();
        assert!(
            text.contains("has no virtio_console, virtiofs, overlay, which"),
            "{text}"
        );
    }

    #[test]
    fn a_packed_module_stays_packed_where_the_kernel_unpacks_it() {
        let scratch = Scratch::new("exec-packed");
        let kernel = kernel(&scratch);
        let folder = scratch.0.join("lib/modules/9.9");
        fs::create_dir_all(&folder).unwrap();
        let built_in = "a/virtio-pci.ko\na/virtio_console.ko\na/virtiofs.ko\n";
        fs::write(folder.join("modules.builtin"), built_in).unwrap();
        fs::write(folder.join("modules.dep"), "overlay.ko.gz:\n").unwrap();
        let plain = scratch.0.join("overlay.ko");
        fs::write(&plain, "module").unwrap();
        let packed = Command::new("gzip").arg("-c").arg(&plain).output();
        let packed = packed.unwrap().stdout;
        fs::write(folder.join("overlay.ko.gz"), &packed).unwrap();
        let modules = || needed(&kernel, &scratch.0, false).unwrap();
        assert_eq!(
            modules(),
            [GuestModule {
                name: "overlay.ko".into(),
                bytes: b"module".to_vec()
            }]
        );
        let config = scratch.0.join("boot/config-9.9");
        fs::write(config, "CONFIG_A=y\nCONFIG_MODULE_DECOMPRESS=y\n").unwrap();
        assert_eq!(
            modules(),
            [GuestModule {
                name: "overlay.ko.gz".into(),
                bytes: packed
            }]
        );
    }
}
