//! A file that is memory, and the advice for its mappings.
#![expect(unsafe_code, reason = "memfd_create, fcntl, madvise")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// The bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// The pages of a memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// The host's normal pages.
    Normal,
    /// Pages of 2 MiB from the host's pool of huge pages (`/proc/sys/vm/nr_hugepages`).
    Huge2M,
}

/// Makes a memory file (`memfd_create`) of `len` bytes whose size nobody can change any
/// more, whoever it is passed to.
///
/// # Errors
/// What the host says: a limit of open files, or too large a file.
pub fn create(name: &CStr, len: u64, pages: PageSize) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if pages == PageSize::Huge2M {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    // SAFETY: the name is a C string, which the call only reads.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Has the host provide every page of a mapping now (`MADV_POPULATE_WRITE`).
///
/// # Errors
/// If it has too little memory (`ENOMEM`, or `EFAULT` for huge pages), or is older than
/// 5.14 (`EINVAL`).
pub fn populate(start: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: the advice provides pages as a write would, and changes no byte of them.
    if unsafe { libc::madvise(start.cast(), len, libc::MADV_POPULATE_WRITE) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Asks for huge pages in a mapping (`MADV_HUGEPAGE`), which the host provides as it can.
/// Most hosts do so unasked for memory that is no file, and never for a file.
///
/// # Errors
/// If the host's kernel has no such pages (`EINVAL`).
pub fn prefer_huge_pages(start: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: the advice changes no byte and no right of any mapping.
    if unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes huge pages of a mapping now (`MADV_COLLAPSE`), with the bytes that it has: also of a
/// file, and whatever `shmem_enabled` says but `deny`. `start` is a multiple of [`HUGE_PAGE`].
///
/// # Errors
/// If the host has none free (`ENOMEM`, `EAGAIN`), or makes none (`EINVAL`: before 6.1, or
/// none at this address). Some of the pages may then be huge.
pub fn collapse(start: *mut u8, len: usize) -> io::Result<()> {
    // Linux makes none of a part of a file that has no page yet.
    for offset in (0..len).step_by(HUGE_PAGE) {
        populate(start.wrapping_add(offset), 1)?;
    }
    // SAFETY: the advice changes no byte and no right of any mapping.
    if unsafe { libc::madvise(start.cast(), len, libc::MADV_COLLAPSE) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backend that gets the file and shrinks it would have us die of SIGBUS.
    #[test]
    fn nobody_can_shrink_it() {
        let file = create(c"test", 8192, PageSize::Normal).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
        let other = file.try_clone().unwrap();
        for len in [0, 4096, 16384] {
            let error = other.set_len(len).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{len}");
        }
        // SAFETY: F_ADD_SEALS takes an integer and touches no memory of ours.
        let unsealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, 0) };
        assert_eq!(unsealed, -1);
    }
}
