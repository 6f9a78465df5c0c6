//! Initramfs archives: checked, then concatenated in guest memory; or modules of
//! a multiboot kernel, each on pages of its own.
//!
//! Linux takes several archives in a row, each at a 4-byte boundary, with zero
//! bytes between (kernel documentation, "initramfs buffer format").

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

const ACCEPTED: &str =
    "accepted: a cpio archive (newc), plain or packed with gzip, bzip2, xz, lzma, lzo, lz4 or zstd";

/// A file that cannot be an initramfs.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// It cannot be opened or read.
    #[error("--initramfs: cannot read {path}; {ACCEPTED}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device or so.
    #[error("--initramfs: {path} is not a regular file; {ACCEPTED}")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It has no bytes.
    #[error("--initramfs: {path} is empty; {ACCEPTED}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is no archive.
    #[error("--initramfs: {path} is not an archive (at byte {offset}); {ACCEPTED}")]
    NotAnArchive {
        /// The file.
        path: PathBuf,
        /// Where something else was found.
        offset: u64,
    },
    /// Its end is missing.
    #[error("--initramfs: {path} is truncated after {size} bytes; expected: the whole archive")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// It could not be copied: it shrank, or the host failed.
    #[error("--initramfs: cannot load {path}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: GuestMemoryError,
    },
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    file: File,
    size: u64,
}

/// What a kernel takes the files of `--initramfs` for.
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

/// Archives that have been looked at.
#[derive(Debug, Default)]
pub struct Initramfs {
    form: RamdiskForm,
    archives: Vec<Archive>,
}

impl Initramfs {
    /// Opens and checks archives. Packed ones are taken by their magic number;
    /// plain ones are walked to their trailer. Modules need only be files.
    ///
    /// # Errors
    /// The first that is not usable.
    pub fn open(paths: &[PathBuf], form: RamdiskForm) -> Result<Self, InitramfsError> {
        let archives = paths
            .iter()
            .map(|path| open_one(path, form))
            .collect::<Result<_, _>>()?;
        Ok(Self { form, archives })
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
    pub(super) fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        start: u64,
    ) -> Result<(), InitramfsError> {
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

fn open_one(path: &Path, form: RamdiskForm) -> Result<Archive, InitramfsError> {
    let path = path.to_owned();
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(source) => return Err(InitramfsError::Read { path, source }),
    };
    if !metadata.is_file() {
        return Err(InitramfsError::NotAFile { path });
    }
    let size = metadata.len();
    if size == 0 {
        return Err(InitramfsError::Empty { path });
    }
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) => return Err(InitramfsError::Read { path, source }),
    };
    let walked = match form {
        RamdiskForm::Archives => walk(&mut BufReader::new(&file), size),
        RamdiskForm::Modules => Ok(()),
    };
    match walked {
        Ok(()) => Ok(Archive { path, file, size }),
        Err(ArchiveFault::Io(source)) => Err(InitramfsError::Read { path, source }),
        Err(ArchiveFault::NotAnArchive(offset)) => {
            Err(InitramfsError::NotAnArchive { path, offset })
        }
        Err(ArchiveFault::Truncated) => Err(InitramfsError::Truncated { path, size }),
    }
}

#[derive(Debug)]
enum ArchiveFault {
    Io(io::Error),
    NotAnArchive(u64),
    Truncated,
}

impl From<io::Error> for ArchiveFault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated
        } else {
            Self::Io(error)
        }
    }
}

/// First bytes of the formats that Linux unpacks.
const PACKED: [&[u8]; 8] = [
    b"\x1f\x8b",
    b"\x1f\x9e",
    b"BZh",
    b"\x5d\x00\x00",
    b"\xfd7zXZ\0",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
    b"\x28\xb5\x2f\xfd",
];
/// A newc header: magic and thirteen numbers of eight hexadecimal digits.
const HEADER_LEN: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!\0";
/// The longest name that Linux takes.
const MAX_NAME: u64 = 4096;

/// Follows archives one after the other to the end of the file.
fn walk<F: Read + Seek>(file: &mut F, size: u64) -> Result<(), ArchiveFault> {
    let mut at = 0;
    loop {
        at = skip_padding(file, at, size)?;
        if at == size {
            // Padding alone, from the start, is no archive.
            return Ok(());
        }
        let mut magic = [0u8; 6];
        let have = usize::try_from(size - at).unwrap_or(6).min(6);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(magic.get_mut(..have).unwrap_or_default())?;
        if PACKED.iter().any(|packed| magic.starts_with(packed)) {
            // Its length is known only to who unpacks it.
            return Ok(());
        }
        if magic != *b"070701" && magic != *b"070702" {
            return Err(if have < 6 && b"070701".starts_with(&magic[..have]) {
                ArchiveFault::Truncated
            } else {
                ArchiveFault::NotAnArchive(at)
            });
        }
        at = walk_newc(file, at, size)?;
    }
}

/// Skips zero bytes between archives; there are none before the first.
fn skip_padding<F: Read + Seek>(file: &mut F, from: u64, size: u64) -> Result<u64, ArchiveFault> {
    let mut at = from;
    if at == 0 {
        return Ok(at);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut byte = [0u8];
    while at < size {
        file.read_exact(&mut byte)?;
        if byte != [0] {
            break;
        }
        at += 1;
    }
    Ok(at)
}

/// Follows one newc archive to the end of its trailer.
fn walk_newc<F: Read + Seek>(file: &mut F, from: u64, size: u64) -> Result<u64, ArchiveFault> {
    let mut at = from;
    loop {
        let mut header = [0u8; HEADER_LEN];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        if !header.starts_with(b"07070") {
            return Err(ArchiveFault::NotAnArchive(at));
        }
        let broken = ArchiveFault::NotAnArchive(at);
        let (Some(file_len), Some(name_len)) = (hex(&header, 6), hex(&header, 11)) else {
            return Err(broken);
        };
        if name_len == 0 || name_len > MAX_NAME {
            return Err(broken);
        }
        let mut name = vec![0u8; usize::try_from(name_len).unwrap_or(0)];
        file.read_exact(&mut name)?;
        let data = (at + HEADER_LEN as u64 + name_len).next_multiple_of(4);
        if name == TRAILER {
            return Ok(data.min(size));
        }
        at = (data + file_len).next_multiple_of(4);
        if at > size.next_multiple_of(4) {
            return Err(ArchiveFault::Truncated);
        }
    }
}

/// The `index`th number of a newc header.
fn hex(header: &[u8; HEADER_LEN], index: usize) -> Option<u64> {
    let start = 6 + index * 8;
    let text = std::str::from_utf8(header.get(start..start + 8)?).ok()?;
    u32::from_str_radix(text, 16).ok().map(u64::from)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"070701".to_vec();
        for number in [
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ] {
            bytes.extend(format!("{number:08x}").bytes());
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn archive() -> Vec<u8> {
        let mut bytes = member("init", b"#!/bin/sh\n");
        bytes.extend(member("etc", b""));
        bytes.extend(member("TRAILER!!!", b""));
        bytes
    }

    fn look(bytes: &[u8]) -> Result<(), ArchiveFault> {
        walk(&mut Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn whole_archives_are_taken() {
        let mut bytes = archive();
        assert!(look(&bytes).is_ok());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        assert!(look(&bytes).is_ok());
        bytes.extend(archive());
        assert!(look(&bytes).is_ok());
        bytes.extend(b"\x1f\x8b packed, whatever it holds");
        assert!(look(&bytes).is_ok());
    }

    #[test]
    fn every_shorter_archive_is_refused() {
        let whole = archive();
        let name_end = whole.len() - whole.len() % 4 - 3;
        for len in 1..name_end {
            let result = look(&whole[..len]);
            assert!(
                matches!(result, Err(ArchiveFault::Truncated)),
                "{len}: {result:?}"
            );
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(
            look(b"hello there"),
            Err(ArchiveFault::NotAnArchive(0))
        ));
        let mut bytes = archive();
        bytes.extend(b"tail");
        assert!(matches!(look(&bytes), Err(ArchiveFault::NotAnArchive(_))));
        assert!(matches!(
            look(&[0; 512]),
            Err(ArchiveFault::NotAnArchive(0))
        ));
    }
}
