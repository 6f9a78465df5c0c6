//! Which snapshot it is, and which one it needs.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::random;

/// What no two snapshots share.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotId([u8; 16]);

impl SnapshotId {
    /// A new one.
    ///
    /// # Errors
    /// If the host gives no random bytes.
    pub fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The section that tells a snapshot from others.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotIdentity {
    /// Which it is.
    pub id: SnapshotId,
    /// The snapshot whose memory it changes; `None` if it has all of its memory.
    pub base: Option<NeededBase>,
}

impl SnapshotIdentity {
    /// The name of the section.
    pub const SECTION: &'static str = "snapshot";
}

/// The base of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct NeededBase {
    /// Its folder.
    path: Vec<u8>,
    /// Which snapshot is to be there.
    pub id: SnapshotId,
    /// The pages that were written since, as the first and their number; in their order.
    pages: Vec<(u64, u64)>,
}

impl NeededBase {
    /// The base in this folder, since which `pages` were written.
    #[must_use]
    pub fn new(path: &Path, id: SnapshotId, pages: &[Range<u64>]) -> Self {
        let pages = pages
            .iter()
            .map(|range| (range.start, range.end - range.start));
        Self {
            path: path.as_os_str().as_bytes().to_vec(),
            id,
            pages: pages.collect(),
        }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.path.clone()))
    }

    /// The pages that were written since; `None` if they are not in their order, or not all
    /// below `most`.
    #[must_use]
    pub fn pages(&self, most: u64) -> Option<Vec<Range<u64>>> {
        let mut next = 0;
        let mut ranges = Vec::with_capacity(self.pages.len());
        for &(first, count) in &self.pages {
            let end = first.checked_add(count)?;
            if first < next || count == 0 || end > most {
                return None;
            }
            next = end;
            ranges.push(first..end);
        }
        Some(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_hostile_base_are_refused() {
        let id = SnapshotId::new().unwrap();
        let ranges = [0..2, 2..3, 7..8];
        let base = NeededBase::new(Path::new("/a"), id, &ranges);
        assert_eq!(base.pages(8).unwrap(), ranges);
        assert_eq!(base.path(), Path::new("/a"));
        assert_eq!(base.pages(7), None);
        for pages in [vec![(2, 1), (1, 1)], vec![(0, 0)], vec![(u64::MAX, 2)]] {
            let base = NeededBase {
                pages,
                ..NeededBase::new(Path::new("/a"), id, &[])
            };
            assert_eq!(base.pages(u64::MAX), None);
        }
        assert_ne!(id, SnapshotId::new().unwrap());
    }
}
