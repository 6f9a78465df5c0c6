//! The memory of a snapshot that may need others: its base, the base of that, and so on.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::memory::RamLayout;
use super::restored::RestoredError;
use super::saved_memory::{self, pages_of};
use super::saving::MOST_LAYERS;
use crate::config::MemoryConfig;
use crate::snapshot::{SnapshotError, SnapshotFolder, SnapshotIdentity};
use crate::sys::files::InputFile;
use crate::sys::guest_ram::{GuestRam, PAGE};

/// The files of a memory, the newest first; the last one has all pages.
#[derive(Debug)]
pub(super) struct MemoryLayers(Vec<MemoryLayer>);

#[derive(Debug)]
struct MemoryLayer {
    path: PathBuf,
    file: InputFile,
    /// The pages that it has; all of them in the last one.
    pages: Vec<Range<u64>>,
}

impl MemoryLayers {
    /// Opens what the snapshot `identity` needs; `file` is its own memory, of the size of
    /// all others.
    ///
    /// # Errors
    /// If a base is missing, is another snapshot, or has another size.
    pub(super) fn open(
        path: &Path,
        file: InputFile,
        identity: SnapshotIdentity,
    ) -> Result<Self, RestoredError> {
        let size = file.size;
        let (mut path, mut file, mut needs) = (path.to_owned(), file, identity.base);
        let mut layers = Vec::new();
        loop {
            let misfit = |what: &str| RestoredError::misfit(&path, what);
            let Some(base) = needs else {
                let pages = std::iter::once(0..size / PAGE as u64).collect();
                layers.push(MemoryLayer { path, file, pages });
                return Ok(Self(layers));
            };
            if layers.len() >= MOST_LAYERS as usize {
                return Err(misfit("it needs too many other snapshots"));
            }
            let pages = base.pages(size / PAGE as u64);
            let pages = pages.ok_or_else(|| misfit("its list of pages is damaged"))?;
            let no_base = |source| RestoredError::Base {
                path: path.clone(),
                source,
            };
            let mut folder = SnapshotFolder::open(&base.path()).map_err(no_base)?;
            let found: SnapshotIdentity =
                folder.take(SnapshotIdentity::SECTION).map_err(no_base)?;
            let above = path;
            let misfit = |what: &str| {
                let above = above.display();
                RestoredError::misfit(&folder.path, &format!("{what}, and {above} needs it"))
            };
            if found.id != base.id {
                return Err(misfit("it is another snapshot than it was"));
            }
            if folder.memory.size != size {
                return Err(misfit("its memory has another size than it had"));
            }
            layers.push(MemoryLayer {
                path: above,
                file,
                pages,
            });
            (path, file, needs) = (folder.path, folder.memory, found.base);
        }
    }

    /// Maps the memory: pages of the last file come when the guest uses them, and what it
    /// writes stays its own. The pages of the others are read.
    ///
    /// # Errors
    /// If a file cannot be mapped or read.
    pub(super) fn map(&self, config: MemoryConfig) -> Result<GuestRam, RestoredError> {
        let Some((last, newer)) = self.0.split_last() else {
            return Err(RestoredError::misfit(Path::new(""), "it has no memory"));
        };
        let file = last.file.file.try_clone();
        let file = file.map_err(|source| unread(&last.path, source))?;
        let memory = RamLayout::of(config.size).map_saved(config, file)?;
        debug_assert_eq!(pages_of(&memory), last.file.size / PAGE as u64);
        for layer in newer.iter().rev() {
            let read = saved_memory::read_pages(&memory, &layer.pages, &layer.file.file);
            read.map_err(|source| unread(&layer.path, source))?;
        }
        Ok(memory)
    }
}

fn unread(path: &Path, source: io::Error) -> RestoredError {
    let path = path.to_owned();
    RestoredError::Folder(SnapshotError::Read { path, source })
}
