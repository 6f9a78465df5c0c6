//! How much memory a kernel and its initramfs need, known before either is loaded.
//!
//! Linux has three things in memory when it unpacks an initramfs: itself, the archives,
//! and the files from them. It frees the archives only afterwards. The files lie in a
//! tmpfs, which holds half of the memory that is free when it is mounted; `root=` or
//! another `rootfstype=` on the command line make it a ramfs, which has no limit.

use super::{BootError, Initramfs, KernelImage};

/// Bytes for the tables, per-CPU areas and first processes of Linux, besides its image
/// and the 16 MiB below it, which are free. Debian's 6.1 and 6.12 with an archive of
/// 37 MiB ran a line with 160 and 170 MiB; this makes it 187 and 191.
const LINUX_ITSELF: u64 = 4 << 20;
/// One byte in this many describes the others (`struct page`: 64 bytes for 4,096).
const PAGE_TABLE: u64 = 64;

/// Checks that a memory of `memory` bytes has room for a kernel and its initramfs. For
/// an initramfs that has not been inspected, only its files count.
///
/// # Errors
/// [`BootError::TooSmall`] with a size that is enough, if the initramfs was inspected.
pub fn check_room(
    kernel: &KernelImage,
    initramfs: &Initramfs,
    cmdline: &str,
    memory: u64,
) -> Result<(), BootError> {
    let (_, kernel_end) = kernel.span();
    // Another kernel does with its files as it likes.
    let unpacked = if kernel.may_be_linux() {
        initramfs.unpacked()
    } else {
        0
    };
    let tmpfs = root_is_tmpfs(cmdline);
    let need = needed(kernel_end, initramfs.size(), unpacked, tmpfs);
    if need > memory {
        return Err(too_small(memory, need));
    }
    Ok(())
}

/// The error for `have` bytes where `need` are needed.
pub(super) fn too_small(have: u64, need: u64) -> BootError {
    BootError::TooSmall {
        have: have >> 20,
        need: need.div_ceil(1 << 20),
    }
}

/// The least memory in bytes.
fn needed(kernel_end: u64, archives: u64, unpacked: u64, tmpfs: bool) -> u64 {
    let loaded = kernel_end.saturating_add(archives);
    if unpacked == 0 {
        return loaded;
    }
    let root = unpacked.saturating_mul(if tmpfs { 2 } else { 1 });
    let used = loaded.saturating_add(root).saturating_add(LINUX_ITSELF);
    used.saturating_add(used / PAGE_TABLE)
}

/// Whether Linux unpacks into a tmpfs with this command line (`init_rootfs`).
fn root_is_tmpfs(cmdline: &str) -> bool {
    let value = |key| move |word: &str| word.strip_prefix(key).map(str::to_owned);
    let words = || cmdline.split_ascii_whitespace();
    let root = words().filter_map(value("root=")).next_back();
    let kind = words().filter_map(value("rootfstype=")).next_back();
    root.is_none_or(|root| root.is_empty()) && kind.is_none_or(|kind| kind.contains("tmpfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_unpacked_files_count_twice_in_a_tmpfs() {
        assert_eq!(needed(71 * MIB, 0, 0, true), 71 * MIB);
        assert_eq!(needed(71 * MIB, 37 * MIB, 0, true), 108 * MIB);
        let ramfs = needed(71 * MIB, 37 * MIB, 37 * MIB, false);
        let tmpfs = needed(71 * MIB, 37 * MIB, 37 * MIB, true);
        assert_eq!(ramfs, 149 * MIB + 149 * MIB / 64);
        assert_eq!(tmpfs, 186 * MIB + 186 * MIB / 64);
        assert_eq!(needed(u64::MAX, 1, u64::MAX, true), u64::MAX);
    }

    #[test]
    fn the_command_line_says_which_file_system_it_is() {
        for line in [
            "",
            "console=ttyS0 quiet",
            "rootfstype=tmpfs",
            "xroot=/dev/vda",
            "root=",
        ] {
            assert!(root_is_tmpfs(line), "{line}");
        }
        for line in ["quiet root=/dev/ram0", "rootfstype=ramfs", "root=LABEL=a"] {
            assert!(!root_is_tmpfs(line), "{line}");
        }
    }
}
