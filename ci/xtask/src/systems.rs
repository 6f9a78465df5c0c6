//! Root file systems of Debian, made from packages as disks under `target/xtask/images`.
//!
//! A disk is made once, and kept with a stamp of what it was made of. Whoever starts a
//! machine from it lets QEMU throw away what is written.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::apt::MIRROR;
use crate::images::Stamp;
use crate::kernels::{self, Kernel};
use crate::{artifacts, cmd, nested, paths, setup};

/// The release of the nested host's own system: the first one with virtiofsd, and with a
/// passt that serves vhost-user.
const HOST_SUITE: &str = "trixie";

/// The series of the kernels with which guests boot from a disk.
const GUEST_KERNELS: [&str; 2] = ["6.1", "6.12"];

/// The disk of a nested host that is a Debian 13: `kernels`, and those of other releases,
/// are in its /boot and /lib/modules. It is a guest's too. `peer`: another disk, which has
/// QEMU as well.
///
/// # Errors
/// If packages cannot be had, or there is no right to make a root file system.
pub(crate) fn host(kernels: &[Kernel], peer: bool) -> Result<PathBuf> {
    let mut kernels = kernels.to_vec();
    let _alone = alone()?;
    kernels.extend(kernels::of_other_releases()?);
    // A guest's own is the first.
    kernels.sort_by_key(|kernel| kernel.series != GUEST_KERNELS[1]);
    let mut stamp = Stamp::default();
    for kernel in &kernels {
        stamp = stamp.text(&kernel.stamp);
    }
    let folders = kernels.iter().map(|k| k.dir.display().to_string());
    let mut packages = artifacts::system(HOST_SUITE, "host")?;
    if peer {
        packages = format!("{packages},{}", artifacts::system(HOST_SUITE, "peer")?);
    }
    let system = System {
        name: if peer { "host-peer" } else { "host" },
        purpose: "host",
        suite: HOST_SUITE,
        packages,
    };
    make(&system, &folders.collect::<Vec<_>>(), stamp)
}

/// The disks of a Debian 12 and of a Debian 13 for guests, with their own kernels and
/// initramfs in /boot. The second one is that of the nested host.
///
/// # Errors
/// As [`host`].
pub(crate) fn guests(kernels: &[Kernel]) -> Result<Vec<PathBuf>> {
    let own = nested::pick(kernels, "a Debian 12 with the kernel", GUEST_KERNELS[0])?;
    let locked = alone()?;
    let folder = own.dir.display().to_string();
    let stamp = Stamp::default().text(&own.stamp);
    let system = System {
        name: "guest",
        purpose: "guest",
        suite: "bookworm",
        packages: artifacts::system("bookworm", "guest")?,
    };
    let debian_12 = make(&system, &[folder], stamp)?;
    drop(locked);
    Ok(vec![debian_12, host(kernels, false)?])
}

/// Keeps others out who make disks. What needs none goes on.
fn alone() -> Result<File> {
    setup::lock("lock-systems", "root file systems are being made")
}

/// What makes a disk, in `resources/debian`.
const SCRIPTS: [&str; 4] = ["make-disk", "kernel", "guest", "host"];

/// What a disk is made of.
struct System {
    /// Of its file, behind the release.
    name: &'static str,
    /// The script of `resources/debian` that completes it.
    purpose: &'static str,
    suite: &'static str,
    /// Separated by commas.
    packages: String,
}

fn make(system: &System, arguments: &[String], stamp: Stamp) -> Result<PathBuf> {
    let System {
        name,
        purpose,
        suite,
        packages,
    } = system;
    let script = |name: &str| paths::resource("debian").join(name);
    let (maker, customise) = (script("make-disk"), script(purpose));
    let mut stamp = stamp.text("system 2").text(packages);
    for name in SCRIPTS {
        stamp = stamp.contents(&script(name))?;
    }
    let stamp = stamp.value();
    let disk = paths::cache("images")?.join(format!("{suite}-{name}.ext4"));
    let stamp_path = disk.with_extension("stamp");
    if disk.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(disk);
    }
    setup::makers()?;
    let what = format!("making the disk {suite}-{name}");
    cmd::long(&what, || {
        let mut make = setup::as_root("sh")?;
        make.arg(&maker).arg(&disk).args([*suite, MIRROR, packages]);
        cmd::run(make.arg(&customise).args(arguments))
            .with_context(|| format!("cannot make the disk of a Debian {suite}"))
    })?;
    fs::write(&stamp_path, stamp)?;
    Ok(disk)
}
