//! `/proc/cpuinfo` of the host.

use std::fs::File;
use std::io::{self, Read};

/// The first processor of `/proc/cpuinfo`; not much more is read.
///
/// # Errors
/// What reading it says.
pub(crate) fn first_processor() -> io::Result<String> {
    const ENOUGH: u64 = 16 << 10;
    let mut text = Vec::new();
    File::open("/proc/cpuinfo")?
        .take(ENOUGH)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
