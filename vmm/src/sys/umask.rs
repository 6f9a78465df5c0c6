//! The file mode creation mask.
#![expect(unsafe_code, reason = "umask has no safe binding")]

use std::sync::{Mutex, PoisonError};

/// One at a time: two that overlap would restore each other's mask.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `create` with the mask `mask`. The mask belongs to the whole process:
/// what another thread creates meanwhile gets it as well, so `create` should be
/// short, and `mask` strict.
pub fn with<T>(mask: u32, create: impl FnOnce() -> T) -> T {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the call takes a number and cannot fail.
    let before = unsafe { libc::umask(mask) };
    let made = create();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    made
}
