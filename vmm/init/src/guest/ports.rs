//! The virtio ports, found by their names.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::{Failure, failed};

/// The kernel finds the ports while process 1 is at work already.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS: u32 = 6000;

/// Opens the port with this name. The host's side is open before the name is there, so
/// that a port which reads as closed has come to its end.
pub(super) fn open(name: &str) -> Result<File, Failure> {
    let path = find(name)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&path)
        .map_err(failed(format_args!("open {}", path.display())))
}

fn find(name: &str) -> Result<PathBuf, Failure> {
    for _ in 0..LOOKS {
        let entries = fs::read_dir("/sys/class/virtio-ports")
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if found.trim_end() == name {
                return Ok(PathBuf::from("/dev").join(entry.file_name()));
            }
        }
        thread::sleep(LOOK);
    }
    Err(format!("there is no port {name}"))
}
