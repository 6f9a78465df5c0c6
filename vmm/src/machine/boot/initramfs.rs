//! Initramfs archives: checked, then concatenated in guest memory; or modules of
//! a multiboot kernel, each on pages of its own.
//!
//! Linux takes several archives in a row, each at a 4-byte boundary, with zero
//! bytes between (kernel documentation, "initramfs buffer format").

mod archive;
mod packed;

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::sys::files::{FileFault, FileId, InputFile};
use crate::sys::guest_ram::GuestRam;
use archive::ArchiveFault;

const EXPECTED: &str =
    "expected: a cpio archive (newc), plain or packed with gzip, bzip2, xz, lzma, lzo, lz4 or zstd";

/// A file that cannot be an initramfs.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// The file cannot be opened or read.
    #[error("--initramfs: cannot read {path}; {EXPECTED}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The path names a directory, a device or another special file.
    #[error("--initramfs: {path} is not a regular file but {kind}; {EXPECTED}")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// The kind of file, in words.
        kind: &'static str,
    },
    /// The file is empty.
    #[error("--initramfs: {path} is empty; {EXPECTED}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is no cpio archive.
    #[error("--initramfs: {path} is not an archive (at byte {offset}); {EXPECTED}")]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// The offset in bytes at which something else than an archive starts.
        offset: u64,
    },
    /// The end of the archive is missing.
    #[error("--initramfs: {path} is truncated after {size} bytes; expected: the whole archive")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The file could not be copied to guest memory: it shrank, or the host failed.
    #[error("--initramfs: cannot load {path}")]
    Load {
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: GuestMemoryError,
    },
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    size: u64,
    id: FileId,
}

/// The meaning of the files of `--initramfs` for a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RamdiskForm {
    /// Archives, one behind the other.
    #[default]
    Archives,
    /// Files of any content.
    Modules,
}

impl RamdiskForm {
    /// Where each file begins, in bytes.
    const fn alignment(self) -> u64 {
        match self {
            Self::Archives => 4,
            Self::Modules => 4096,
        }
    }
}

/// The open files of `--initramfs`.
#[derive(Debug, Default)]
pub struct Initramfs {
    form: RamdiskForm,
    archives: Vec<Archive>,
    /// Bytes in the guest's root file system, once the archives have been read.
    unpacked: u64,
}

impl Initramfs {
    /// Opens the files, and reads nothing yet: their sizes come first.
    ///
    /// # Errors
    /// The first that cannot be one.
    pub fn open(paths: &[PathBuf], form: RamdiskForm) -> Result<Self, InitramfsError> {
        let archives = paths
            .iter()
            .map(|path| open_one(path))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            form,
            archives,
            unpacked: 0,
        })
    }

    /// Checks archives. Packed ones are taken by their magic number; plain ones are
    /// walked to their trailer. Modules need only be files.
    ///
    /// # Errors
    /// The first that is not usable.
    pub fn inspect(&mut self) -> Result<(), InitramfsError> {
        if self.form == RamdiskForm::Archives {
            for archive in &self.archives {
                let unpacked = archive.inspect()?;
                self.unpacked = self.unpacked.saturating_add(unpacked);
            }
        }
        Ok(())
    }

    /// Bytes that the files inside take in the guest's root file system; 0 before
    /// [`Initramfs::inspect`]. A packed archive that does not tell counts as packed.
    #[must_use]
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Which files of the host they are.
    pub fn ids(&self) -> impl Iterator<Item = FileId> {
        self.archives.iter().map(|archive| archive.id)
    }

    /// Where each file lies, if the first one does at `start`.
    pub(super) fn places(&self, start: u64) -> Vec<Range<u64>> {
        let mut at = start;
        let place = |archive: &Archive| {
            let place = at..at + archive.size;
            at += archive.size.next_multiple_of(self.form.alignment());
            place
        };
        self.archives.iter().map(place).collect()
    }

    /// Bytes in guest memory, padding included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.archives
            .iter()
            .map(|archive| archive.size.next_multiple_of(self.form.alignment()))
            .sum()
    }

    /// Copies all of them to `start`, which is zeroed memory.
    pub(super) fn load(&mut self, memory: &GuestRam, start: u64) -> Result<(), InitramfsError> {
        let places = self.places(start);
        for (archive, place) in self.archives.iter_mut().zip(places) {
            let rewound = archive.file.rewind();
            rewound.map_err(|source| InitramfsError::Read {
                path: archive.path.clone(),
                source,
            })?;
            let len = usize::try_from(archive.size).unwrap_or(usize::MAX);
            memory
                .read_exact_volatile_from(GuestAddress(place.start), &mut archive.file, len)
                .map_err(|source| InitramfsError::Load {
                    path: archive.path.clone(),
                    source,
                })?;
        }
        Ok(())
    }
}

fn open_one(path: &Path) -> Result<Archive, InitramfsError> {
    let path = path.to_owned();
    match InputFile::open(&path) {
        Ok(InputFile { size: 0, .. }) => Err(InitramfsError::Empty { path }),
        Ok(InputFile { file, size, id }) => Ok(Archive {
            path,
            file,
            size,
            id,
        }),
        Err(FileFault::Io(source)) => Err(InitramfsError::Read { path, source }),
        Err(FileFault::Kind(kind)) => Err(InitramfsError::NotAFile { path, kind }),
    }
}

impl Archive {
    /// Reads it to its end; bytes in the guest's root file system.
    fn inspect(&self) -> Result<u64, InitramfsError> {
        let path = || self.path.clone();
        archive::walk(&mut BufReader::new(&self.file), self.size).map_err(|fault| match fault {
            ArchiveFault::Io(source) => InitramfsError::Read {
                path: path(),
                source,
            },
            ArchiveFault::NotAnArchive(offset) => InitramfsError::NotAnArchive {
                path: path(),
                offset,
            },
            ArchiveFault::Truncated => InitramfsError::Truncated {
                path: path(),
                size: self.size,
            },
        })
    }
}
