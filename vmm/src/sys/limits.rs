//! Limits of the process.
#![expect(unsafe_code, reason = "getrlimit and setrlimit have no safe binding")]

use std::io;

/// Raises the soft limit of open files to the hard one: each vCPU takes descriptors, and
/// the soft limit of a login is enough for a hundred vCPUs only. getrlimit(2),
/// "RLIMIT_NOFILE".
///
/// # Errors
/// What the host says.
pub fn raise_open_files() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur == limit.rlim_max {
        return Ok(());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is initialised.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
