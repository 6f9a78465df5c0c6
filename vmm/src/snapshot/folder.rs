//! The folder of a snapshot.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::state_file::{self, MOST_BYTES, StateFileError};
use super::{SectionError, Sections};
use crate::sys::files::{FileFault, InputFile};

const STATE: &str = "state";
const MEMORY: &str = "memory";
/// What a folder is called that is not complete.
const PARTIAL: &str = ".partial";

/// The reason why a folder cannot be written or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// There is something of this name.
    #[error("{path} is there already; name a folder that is not")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A file of it cannot be made or written.
    #[error("cannot write {path}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it is none.
    #[error("{path} is {kind}, and no file of a snapshot")]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Its state cannot be used.
    #[error("{path}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StateFileError,
    },
}

impl SnapshotError {
    /// An error about what is in the state of this folder.
    #[must_use]
    pub fn section(dir: &Path, source: SectionError) -> Self {
        Self::State {
            path: dir.join(STATE),
            source: source.into(),
        }
    }
}

/// A snapshot that is being written, under another name until it is complete. What was
/// not finished is removed.
#[derive(Debug)]
pub struct NewSnapshot {
    path: PathBuf,
    partial: PathBuf,
    memory: File,
}

impl NewSnapshot {
    /// Begins a folder that only its owner can read: it has the guest's secrets.
    ///
    /// # Errors
    /// If it is there already, or the host refuses it.
    pub fn begin(path: &Path) -> Result<Self, SnapshotError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(SnapshotError::Exists {
                path: path.to_owned(),
            });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let made = DirBuilder::new().mode(0o700).create(&partial);
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SnapshotError::Exists {
                path: partial.clone(),
            },
            _ => write_error(&partial)(source),
        })?;
        match new_file(&partial.join(MEMORY)) {
            Ok(memory) => Ok(Self {
                path: path.to_owned(),
                partial,
                memory,
            }),
            Err(error) => {
                remove(&partial);
                Err(error)
            }
        }
    }

    /// The file of the guest's memory, empty at first.
    #[must_use]
    pub const fn memory(&self) -> &File {
        &self.memory
    }

    /// The memory's file cannot be written for this reason.
    #[must_use]
    pub fn memory_error(&self, source: io::Error) -> SnapshotError {
        write_error(&self.partial.join(MEMORY))(source)
    }

    /// Writes the state, and gives the folder its name when all of it is on the disk.
    ///
    /// # Errors
    /// If the host refuses it; nothing is left then.
    pub fn finish(self, sections: &Sections) -> Result<(), SnapshotError> {
        let path = self.partial.join(STATE);
        let mut state = new_file(&path)?;
        let written = state.write_all(&state_file::encode(sections));
        written.map_err(write_error(&path))?;
        state.sync_all().map_err(write_error(&path))?;
        let synced = self.memory.sync_all();
        synced.map_err(|source| self.memory_error(source))?;
        // An empty folder of that name would be replaced.
        if fs::symlink_metadata(&self.path).is_ok() {
            return Err(SnapshotError::Exists {
                path: self.path.clone(),
            });
        }
        fs::rename(&self.partial, &self.path).map_err(write_error(&self.path))
    }
}

impl Drop for NewSnapshot {
    /// A finished one has another name by now.
    fn drop(&mut self) {
        remove(&self.partial);
    }
}

fn remove(partial: &Path) {
    if let Err(error) = fs::remove_dir_all(partial)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", partial.display());
    }
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Write {
        path: path.to_owned(),
        source,
    }
}

fn new_file(path: &Path) -> Result<File, SnapshotError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(write_error(path))
}

/// A snapshot that was read: its state, and its memory's file.
#[derive(Debug)]
pub struct SnapshotFolder {
    /// Where it is.
    pub path: PathBuf,
    /// The state.
    pub sections: Sections,
    /// The memory.
    pub memory: InputFile,
}

impl SnapshotFolder {
    /// Reads the state and opens the memory.
    ///
    /// # Errors
    /// If there is no snapshot, or it is not one that can be used.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let state = path.join(STATE);
        let bad = |source| SnapshotError::State {
            path: state.clone(),
            source,
        };
        let input = input(&state)?;
        if input.size > MOST_BYTES {
            return Err(bad(StateFileError::Large));
        }
        let mut bytes = Vec::new();
        let mut file = input.file.take(MOST_BYTES);
        file.read_to_end(&mut bytes)
            .map_err(|source| SnapshotError::Read {
                path: state.clone(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            sections: state_file::decode(&bytes).map_err(bad)?,
            memory: self::input(&path.join(MEMORY))?,
        })
    }

    /// A section of the state, which is gone from it then.
    ///
    /// # Errors
    /// If it is missing or damaged.
    pub fn take<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T, SnapshotError> {
        let taken = self.sections.take(name);
        taken.map_err(|source| SnapshotError::section(&self.path, source))
    }
}

fn input(path: &Path) -> Result<InputFile, SnapshotError> {
    InputFile::open(path).map_err(|fault| match fault {
        FileFault::Io(source) => SnapshotError::Read {
            path: path.to_owned(),
            source,
        },
        FileFault::Kind(kind) => SnapshotError::Kind {
            path: path.to_owned(),
            kind,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_folder_is_there_when_it_is_complete_and_has_no_other_readers() {
        let Scratch(scratch) = &Scratch::new("snapshot-folder");
        let path = scratch.join("snap");
        let new = NewSnapshot::begin(&path).unwrap();
        new.memory().write_all(b"ram").unwrap();
        assert!(!path.exists());
        let mut sections = Sections::default();
        sections.put("a", &5u8).unwrap();
        new.finish(&sections).unwrap();
        for (file, mode) in [("", 0o40_700), (STATE, 0o100_600), (MEMORY, 0o100_600)] {
            let metadata = fs::metadata(path.join(file)).unwrap();
            assert_eq!(metadata.permissions().mode(), mode, "{file}");
        }
        let mut read = SnapshotFolder::open(&path).unwrap();
        assert_eq!((read.memory.size, read.take::<u8>("a").unwrap()), (3, 5));
        let again = NewSnapshot::begin(&path).unwrap_err();
        assert!(matches!(again, SnapshotError::Exists { .. }));
    }

    #[test]
    fn what_was_not_finished_leaves_nothing() {
        let Scratch(scratch) = &Scratch::new("snapshot-unfinished");
        drop(NewSnapshot::begin(&scratch.join("snap")).unwrap());
        assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
        let nowhere = NewSnapshot::begin(&scratch.join("no/snap")).unwrap_err();
        assert!(matches!(nowhere, SnapshotError::Write { .. }));
    }

    #[test]
    fn a_folder_that_is_no_snapshot_is_refused_with_the_file() {
        let Scratch(scratch) = &Scratch::new("snapshot-foreign");
        let error =
            |path: &Path| crate::error_text::one_line(&SnapshotFolder::open(path).unwrap_err());
        assert!(
            error(scratch).contains("state: No such file"),
            "{}",
            error(scratch)
        );
        fs::write(scratch.join(STATE), "hello, world").unwrap();
        assert!(error(scratch).contains("no state of a VM"));
        fs::remove_file(scratch.join(STATE)).unwrap();
        fs::create_dir(scratch.join(STATE)).unwrap();
        assert!(error(scratch).contains("directory"), "{}", error(scratch));
    }
}
