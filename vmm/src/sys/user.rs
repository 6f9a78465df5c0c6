//! Who runs this process.
#![expect(unsafe_code, reason = "geteuid has no safe binding")]

/// Whether it is root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
