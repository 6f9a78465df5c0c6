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
use crate::{artifacts, cmd, paths, setup};

/// The release of the nested host's own system: the first one with virtiofsd, and with a
/// passt that serves vhost-user.
const HOST_SUITE: &str = "trixie";

/// The disk of a nested host that is a Debian 13: `kernels`, and those of other releases,
/// are in its /boot and /lib/modules.
///
/// # Errors
/// If packages cannot be had, or there is no right to make a root file system.
pub(crate) fn host(kernels: &[Kernel]) -> Result<PathBuf> {
    let mut kernels = kernels.to_vec();
    let _alone = alone()?;
    kernels.extend(kernels::of_other_releases()?);
    let mut stamp = Stamp::default();
    for kernel in &kernels {
        stamp = stamp.text(&kernel.stamp);
    }
    let folders = kernels.iter().map(|k| k.dir.display().to_string());
    make("host", HOST_SUITE, &folders.collect::<Vec<_>>(), stamp)
}

/// The releases of which there are disks for guests.
const GUEST_SUITES: [&str; 2] = ["bookworm", "trixie"];

/// The disks of a Debian 12 and of a Debian 13 for guests, with their own kernels and
/// initramfs in /boot.
///
/// # Errors
/// As [`host`].
pub(crate) fn guests() -> Result<Vec<PathBuf>> {
    let _alone = alone()?;
    let make = |suite| make("guest", suite, &[], Stamp::default());
    GUEST_SUITES.into_iter().map(make).collect()
}

/// Keeps others out who make disks. What needs none goes on.
fn alone() -> Result<File> {
    setup::lock("lock-systems", "another xtask makes root file systems")
}

fn make(purpose: &str, suite: &str, arguments: &[String], stamp: Stamp) -> Result<PathBuf> {
    let packages = artifacts::system(suite, purpose)?;
    let maker = paths::resource("debian/make-disk");
    let customise = paths::resource("debian").join(purpose);
    let stamp = stamp
        .text("system 1")
        .text(&packages)
        .contents(&maker)?
        .contents(&customise)?
        .value();
    let disk = paths::cache("images")?.join(format!("{suite}-{purpose}.ext4"));
    let stamp_path = disk.with_extension("stamp");
    if disk.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(disk);
    }
    setup::makers()?;
    let what = format!("making the disk of a Debian {suite} for a {purpose}");
    cmd::long(&what, || {
        let mut make = setup::as_root("sh")?;
        make.arg(&maker).arg(&disk).args([suite, MIRROR, &packages]);
        cmd::run(make.arg(&customise).args(arguments))
            .with_context(|| format!("cannot make the disk of a Debian {suite}"))
    })?;
    fs::write(&stamp_path, stamp)?;
    Ok(disk)
}
