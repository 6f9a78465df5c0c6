//! A disk of `--disk`, opened: everything that its file can be is checked here, before
//! anything starts.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::image::{DiskImage, RawImage};
use super::qcow2::{Qcow2Fault, Qcow2Image};
use crate::config::{DiskConfig, DiskFormat};
use crate::sys::file_lock::{self, LockKind, LockRefusal};
use crate::sys::files::{FileId, kind_of};

/// The unit of sizes and addresses of a virtio disk in bytes.
pub(super) const SECTOR: u64 = 512;

/// The first bytes of image formats that are not raw, and their names.
const MAGICS: [(&[u8], &str); 6] = [
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"<<< Oracle VM VirtualBox Disk Image >>>", "VDI"),
    (b"QED\0", "QED"),
    (b"conectix", "VHD"),
];

/// A disk that cannot be one.
#[derive(Debug, Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("--disk: cannot open {path} for {access}; expected: path=P of a {what}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Reading, or writing too.
        access: &'static str,
        /// What works.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("--disk: path={path} is {kind}; expected: a regular file or a block device")]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another process uses it.
    #[error("--disk: path={path} is in use: {holder}; use a copy, {instead}")]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who uses it.
        holder: &'static str,
        /// What works beside a copy.
        instead: &'static str,
    },
    /// Its size cannot be the size of a disk.
    #[error(
        "--disk: path={path} has {size} bytes, which is no multiple of {unit}; use a disk of {next} bytes (truncate --size={next} {path})"
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The unit in bytes.
        unit: u64,
        /// The next possible size in bytes.
        next: u64,
    },
    /// It looks like an image, and nobody has said so.
    #[error(
        "--disk: path={path} starts as a {found} image does, and format= is missing; use {instead}"
    )]
    Unsaid {
        /// The file.
        path: PathBuf,
        /// What its first bytes say.
        found: &'static str,
        /// What works.
        instead: &'static str,
    },
    /// It is no qcow2 image.
    #[error(
        "--disk: path={path} is no usable qcow2 image; use format=raw, or an image that qemu-img check finds good"
    )]
    Qcow2 {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It needs another file.
    #[error(
        "--disk: path={path} needs the file '{needed}', which no flag names; use an image without other files (qemu-img convert -O qcow2 writes one)"
    )]
    Needs {
        /// The file.
        path: PathBuf,
        /// The name in the image.
        needed: String,
    },
    /// The host cannot go past its page cache.
    #[error("--disk: path={path} cannot be read with direct=on here; use direct=off")]
    Direct {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A disk that is open, checked and locked.
#[derive(Debug)]
pub struct OpenDisk {
    pub(super) image: Box<dyn DiskImage>,
    pub(super) read_only: bool,
    pub(super) serial: String,
    pub(super) path: PathBuf,
    id: FileId,
}

impl OpenDisk {
    /// Opens the disk and locks it: for one writer, or for readers.
    ///
    /// # Errors
    /// If it cannot be the guest's disk.
    pub fn open(config: &DiskConfig) -> Result<Self, DiskError> {
        let path = &config.path;
        let fail = open_error(config);
        // To open a device may already do something: look first.
        is_disk(path, &std::fs::metadata(path).map_err(&fail)?)?;
        let direct = if config.direct { libc::O_DIRECT } else { 0 };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!config.read_only)
            // Another file may have taken its place meanwhile: a FIFO, on which to wait.
            .custom_flags(direct | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL) if config.direct => direct_error(path)(error),
                _ => fail(error),
            })?;
        let metadata = file.metadata().map_err(&fail)?;
        is_disk(path, &metadata)?;
        lock(config, &file)?;
        let size = file.seek(SeekFrom::End(0)).map_err(&fail)?;
        let block_size = if config.direct {
            direct_block_size(path, &file)?
        } else {
            512
        };
        let image = match config.format {
            Some(DiskFormat::Qcow2) => qcow2(config, file)?,
            said => {
                if said.is_none() {
                    is_not_another_format(path, &file, block_size).map_err(
                        |fault| match fault {
                            ProbeFault::Io(error) => fail(error),
                            ProbeFault::Found(error) => error,
                        },
                    )?;
                }
                Box::new(RawImage::new(file, size, block_size, config.direct)) as Box<_>
            }
        };
        check_size(path, image.size(), u64::from(image.block_size()))?;
        Ok(Self {
            image,
            read_only: config.read_only,
            serial: config.id.clone().unwrap_or_default(),
            path: path.clone(),
            id: FileId::of(&metadata),
        })
    }

    /// A file of this size as a disk.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn raw(file: File, size: u64, read_only: bool) -> Self {
        #[expect(clippy::unwrap_used, reason = "a check")]
        let id = FileId::of(&file.metadata().unwrap());
        // Its name as long as it is open. Another of this name is taken for the same.
        #[expect(clippy::unwrap_used, reason = "a check")]
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        let path = format!("/proc/self/fd/{fd}").into();
        Self {
            image: Box::new(RawImage::new(file, size, 512, false)),
            read_only,
            serial: "serial".to_owned(),
            path,
            id,
        }
    }

    /// Which file it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }
}

fn open_error(config: &DiskConfig) -> impl Fn(io::Error) -> DiskError {
    let path = config.path.clone();
    let (access, what) = if config.read_only {
        ("reading", "readable file or block device")
    } else {
        (
            "reading and writing",
            "writable file or block device, or readonly=on",
        )
    };
    move |source| DiskError::Open {
        path: path.clone(),
        access,
        what,
        source,
    }
}

fn direct_error(path: &Path) -> impl Fn(io::Error) -> DiskError {
    move |source| DiskError::Direct {
        path: path.to_owned(),
        source,
    }
}

fn is_disk(path: &Path, metadata: &Metadata) -> Result<(), DiskError> {
    if metadata.is_file() || metadata.file_type().is_block_device() {
        return Ok(());
    }
    Err(DiskError::Kind {
        path: path.to_owned(),
        kind: kind_of(metadata.file_type()),
    })
}

fn lock(config: &DiskConfig, file: &File) -> Result<(), DiskError> {
    let (kind, instead) = if config.read_only {
        (LockKind::Read, "or end that VM")
    } else {
        (LockKind::Write, "end the other VM, or readonly=on for both")
    };
    let holder = match file_lock::lock(file, kind) {
        Ok(()) => return Ok(()),
        Err(LockRefusal::Writer) => "another disk of this VM, or another VM, writes it",
        Err(LockRefusal::Reader) => "another disk of this VM, or another VM, reads it",
        Err(LockRefusal::Host(error)) => {
            log::warn!(
                "--disk: path={} cannot be locked against a second VM: {error}",
                config.path.display()
            );
            return Ok(());
        }
    };
    Err(DiskError::InUse {
        path: config.path.clone(),
        holder,
        instead,
    })
}

/// The smallest block that the host reads past its page cache.
fn direct_block_size(path: &Path, file: &File) -> Result<u32, DiskError> {
    let mut refusal = None;
    for size in [512, 4096] {
        let mut bytes = vec![0; 2 * 4096];
        let start = bytes.as_ptr().align_offset(4096);
        let end = start + size as usize;
        match file.read_at(bytes.get_mut(start..end).unwrap_or_default(), 0) {
            Ok(_) => return Ok(size),
            Err(error) => refusal = Some(error),
        }
    }
    let refusal = refusal.unwrap_or_else(|| io::Error::from(io::ErrorKind::Unsupported));
    Err(direct_error(path)(refusal))
}

fn check_size(path: &Path, size: u64, unit: u64) -> Result<(), DiskError> {
    if size > 0 && size.is_multiple_of(unit) {
        return Ok(());
    }
    Err(DiskError::Size {
        path: path.to_owned(),
        size,
        unit,
        // An empty one becomes 1 GiB: a disk of one sector is of no use.
        next: if size == 0 {
            1 << 30
        } else {
            size.checked_next_multiple_of(unit).unwrap_or(size)
        },
    })
}

enum ProbeFault {
    Io(io::Error),
    Found(DiskError),
}

/// Refuses a file whose first bytes are those of an image format. It is never taken for
/// that format: a guest can write any bytes to a raw disk.
fn is_not_another_format(path: &Path, file: &File, block_size: u32) -> Result<(), ProbeFault> {
    let mut bytes = vec![0; 2 * 4096];
    let start = bytes.as_ptr().align_offset(4096);
    let end = start + block_size as usize;
    let first = bytes.get_mut(start..end).unwrap_or_default();
    let len = file.read_at(first, 0).map_err(ProbeFault::Io)?;
    let first = first.get(..len).unwrap_or_default();
    let magic = MAGICS.iter().find(|(magic, _)| first.starts_with(magic));
    let Some(&(_, found)) = magic else {
        return Ok(());
    };
    let instead = if found == "qcow2" {
        "format=qcow2, or format=raw if these bytes are the guest's"
    } else {
        "qemu-img convert -O qcow2 to make an image for format=qcow2, or format=raw if these bytes are the guest's"
    };
    Err(ProbeFault::Found(DiskError::Unsaid {
        path: path.to_owned(),
        found,
        instead,
    }))
}

fn qcow2(config: &DiskConfig, file: File) -> Result<Box<dyn DiskImage>, DiskError> {
    let path = &config.path;
    match Qcow2Image::open(file, path, !config.read_only, config.direct) {
        Ok(image) => Ok(Box::new(image)),
        Err(Qcow2Fault::Io(source)) => Err(DiskError::Qcow2 {
            path: path.clone(),
            source,
        }),
        Err(Qcow2Fault::Needs(needed)) => Err(DiskError::Needs {
            path: path.clone(),
            needed,
        }),
    }
}
