//! What a core dump leaves out.
#![expect(unsafe_code, reason = "madvise")]

use std::io;

/// Keeps a mapping out of core dumps (`MADV_DONTDUMP`).
///
/// # Errors
/// What `madvise` says; for one, that it is no mapping that begins at a page.
pub fn leave_out(start: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: the advice changes no byte and no right of any mapping.
    let result = unsafe { libc::madvise(start.cast(), len, libc::MADV_DONTDUMP) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
