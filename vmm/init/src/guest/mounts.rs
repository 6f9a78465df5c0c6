//! The file systems: the host's root under an overlay, the shared folders on top of it,
//! and those of the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use guest_words::Share;
use rustix::mount::{self, MountFlags};
use rustix::process;

use crate::{Failure, failed};

/// The host's root, read-only.
const LOWER: &str = "/lower";
/// What the guest writes over it, in memory.
const SCRATCH: &str = "/scratch";
/// Both together: what becomes `/`.
const ROOT: &str = "/root";

const DEVICE: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
const KERNEL: MountFlags = DEVICE.union(MountFlags::NODEV);

/// Mounts /proc, /sys and /dev below `root`.
pub(super) fn kernel_file_systems(root: &str) -> Result<(), Failure> {
    mount_new(root, "/proc", "proc", KERNEL, "")?;
    mount_new(root, "/sys", "sysfs", KERNEL, "")?;
    mount_new(root, "/dev", "devtmpfs", DEVICE, "mode=0755")
}

/// Makes the host's root and the shared folders this guest's root.
pub(super) fn root(shares: &[Share]) -> Result<(), Failure> {
    let (root, others): (Vec<_>, Vec<_>) = shares
        .iter()
        .partition(|share| share.path == Path::new("/"));
    let root = root.first().ok_or("the job has no root")?;
    mount_share(root, Path::new(LOWER))?;
    mount_new("", SCRATCH, "tmpfs", MountFlags::empty(), "mode=0755")?;
    for folder in ["upper", "work"] {
        let path = Path::new(SCRATCH).join(folder);
        fs::create_dir_all(&path).map_err(failed(format_args!("create {}", path.display())))?;
    }
    let layers = format!("lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
    mount_new("", ROOT, "overlay", MountFlags::empty(), &layers)?;
    kernel_file_systems(ROOT)?;
    own_file_systems()?;
    for share in others {
        mount_share(share, &below_root(&share.path))?;
    }
    enter()
}

/// The file systems of /dev, /run and /sys that programs expect.
fn own_file_systems() -> Result<(), Failure> {
    let nothing = MountFlags::NOSUID.union(MountFlags::NODEV);
    mount_new(ROOT, "/run", "tmpfs", nothing, "mode=0755")?;
    mount_new(ROOT, "/dev/shm", "tmpfs", nothing, "mode=1777")?;
    mount_new(
        ROOT,
        "/dev/pts",
        "devpts",
        DEVICE,
        "ptmxmode=0666,mode=0620,gid=5",
    )?;
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let link = Path::new(ROOT).join("dev").join(name);
        std::os::unix::fs::symlink(target, &link)
            .map_err(failed(format_args!("create {}", link.display())))?;
    }
    // Not in every kernel.
    for (kind, path) in [
        ("tracefs", "sys/kernel/tracing"),
        ("debugfs", "sys/kernel/debug"),
        ("cgroup2", "sys/fs/cgroup"),
    ] {
        let at = Path::new(ROOT).join(path);
        let _missing = mount::mount(kind, at, kind, KERNEL, None);
    }
    Ok(())
}

/// Makes [`ROOT`] the root of this process and of those that it starts.
fn enter() -> Result<(), Failure> {
    let step = || format!("enter {ROOT}");
    std::env::set_current_dir(ROOT).map_err(failed(step()))?;
    mount::mount_move(".", "/").map_err(failed(step()))?;
    process::chroot(".").map_err(failed(step()))?;
    std::env::set_current_dir("/").map_err(failed(step()))
}

fn below_root(path: &Path) -> PathBuf {
    Path::new(ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn mount_share(share: &Share, at: &Path) -> Result<(), Failure> {
    let flags = if share.writable {
        MountFlags::empty()
    } else {
        MountFlags::RDONLY
    };
    fs::create_dir_all(at).map_err(failed(format_args!("create {}", at.display())))?;
    mount::mount(share.tag.as_str(), at, "virtiofs", flags, None).map_err(failed(format_args!(
        "mount the host's {}",
        share.path.display()
    )))
}

/// Mounts a file system of the kernel at a folder, which comes into being.
fn mount_new(
    root: &str,
    path: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Failure> {
    let at = format!("{root}{path}");
    fs::create_dir_all(&at).map_err(failed(format_args!("create {at}")))?;
    let options = std::ffi::CString::new(options).map_err(failed("pass options"))?;
    match mount::mount(kind, &at, kind, flags, Some(options.as_c_str())) {
        Ok(()) => Ok(()),
        // devtmpfs, by CONFIG_DEVTMPFS_MOUNT.
        Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(failed(format_args!("mount {kind} at {at}"))(error)),
    }
}
