//! Files that flags name, opened without waiting for anybody: a FIFO, a terminal or a
//! device is recognised before it is opened.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Why a file is not opened.
#[derive(Debug)]
pub enum FileFault {
    /// The host refuses it.
    Io(io::Error),
    /// It is no regular file; what it is, in words.
    Kind(&'static str),
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file of this host, whatever its names are: its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with this metadata.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct InputFile {
    /// The open file.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
    /// Which it is.
    pub id: FileId,
}

impl InputFile {
    /// Opens a regular file for reading; follows links.
    ///
    /// # Errors
    /// If it is of another kind, or the host refuses it.
    pub fn open(path: &Path) -> Result<Self, FileFault> {
        // To open a device may already do something: look first.
        must_be_regular(&std::fs::metadata(path)?)?;
        let file = OpenOptions::new()
            .read(true)
            // Another file may have taken its place meanwhile: a FIFO, on which to wait.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        must_be_regular(&metadata)?;
        Ok(Self {
            file,
            size: metadata.len(),
            id: FileId::of(&metadata),
        })
    }
}

/// Whether the path is that of /dev/null, by this or another name; a link is not.
#[must_use]
pub fn is_null_device(path: &Path) -> bool {
    let null = libc::makedev(1, 3);
    std::fs::symlink_metadata(path)
        .is_ok_and(|file| file.file_type().is_char_device() && file.rdev() == null)
}

/// Refuses what is no regular file.
pub(super) fn must_be_regular(metadata: &Metadata) -> Result<(), FileFault> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(FileFault::Kind(kind_of(metadata.file_type())))
}

/// What a file of this type is, in words.
#[must_use]
pub fn kind_of(of: FileType) -> &'static str {
    if of.is_dir() {
        "a directory"
    } else if of.is_symlink() {
        "a symbolic link"
    } else if of.is_fifo() {
        "a FIFO"
    } else if of.is_socket() {
        "a socket"
    } else if of.is_block_device() {
        "a block device"
    } else if of.is_file() {
        "a regular file"
    } else {
        "a character device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let own = std::env::current_exe().unwrap();
        let input = InputFile::open(&own).unwrap();
        assert_eq!(input.size, std::fs::metadata(&own).unwrap().len());
        assert_eq!(input.id, FileId::of(&std::fs::metadata(&own).unwrap()));
        for (path, kind) in [("/", "a directory"), ("/dev/zero", "a character device")] {
            let fault = InputFile::open(Path::new(path)).unwrap_err();
            assert!(
                matches!(fault, FileFault::Kind(found) if found == kind),
                "{fault:?}"
            );
        }
        let missing = InputFile::open(Path::new("/does/not/exist")).unwrap_err();
        assert!(matches!(missing, FileFault::Io(_)), "{missing:?}");
    }
}
