//! A disk in a snapshot: which file it was, and when it was written last. Its bytes are
//! the operator's.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::super::RestoreFault;
use super::open::OpenDisk;
use crate::snapshot;

/// What a snapshot has of a disk.
#[derive(Debug, Serialize, Deserialize)]
struct SavedDisk {
    /// The path, as `--disk` had it.
    path: Vec<u8>,
    /// Bytes of the disk, and of its blocks.
    size: u64,
    block_size: u32,
    /// When a file was written last: seconds and nanoseconds. A block device does not tell.
    written: Option<(i64, i64)>,
}

impl OpenDisk {
    /// What a snapshot has of it, when all that the guest has written is in the file.
    pub(super) fn saved(&mut self) -> io::Result<Vec<u8>> {
        if !self.read_only {
            self.image.flush()?;
        }
        let saved = SavedDisk {
            path: self.path.as_os_str().as_bytes().to_vec(),
            size: self.image.size(),
            block_size: self.image.block_size(),
            written: self.written()?,
        };
        postcard::to_allocvec(&saved).map_err(io::Error::other)
    }

    /// Whether it can be the disk of a guest that goes on: of the same size, and not
    /// written since. A file with another name is a copy, of whose time nobody can tell.
    pub(super) fn must_be(&self, state: &[u8]) -> Result<(), RestoreFault> {
        let saved: SavedDisk = snapshot::decode(state).ok_or(RestoreFault::Damaged)?;
        let other = |reason: String| Err(RestoreFault::Other(reason));
        let path = self.path.display();
        let own = (self.image.size(), u64::from(self.image.block_size()));
        let was = (saved.size, u64::from(saved.block_size));
        if own != was {
            return other(format!(
                "{path} is a disk of {} bytes in blocks of {}, and the guest's had {} in blocks of {}",
                own.0, own.1, was.0, was.1
            ));
        }
        let is_same_file = saved.path == self.path.as_os_str().as_bytes();
        let written = self.written().map_err(|error| {
            RestoreFault::Other(format!("cannot tell when {path} was written: {error}"))
        })?;
        if is_same_file && written != saved.written {
            return other(format!(
                "{path} was written after the snapshot was taken, which the guest does not know of; use a copy from then: --disk path=COPY"
            ));
        }
        Ok(())
    }

    fn written(&self) -> io::Result<Option<(i64, i64)>> {
        let metadata = fs::metadata(&self.path)?;
        let time = (metadata.mtime(), metadata.mtime_nsec());
        Ok(metadata.is_file().then_some(time))
    }
}
