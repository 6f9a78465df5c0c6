//! Recognises kernel images, and refuses other files and truncated images.

mod multiboot;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::ByteValued;

use super::initramfs::RamdiskForm;
use super::linux::HEADER_MAGIC;
use crate::kvm::layout;
use crate::sys::files::{FileFault, FileId, InputFile};

pub use multiboot::MultibootImage;
pub(super) use multiboot::Segment;

const EXPECTED: &str = "expected: a Linux bzImage, an x86-64 ELF file or a multiboot-1 image";

/// A file that cannot be the kernel.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be opened or read.
    #[error("--kernel: cannot read {path}; {EXPECTED}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The path names a directory, a device or another special file.
    #[error("--kernel: {path} is not a regular file but {kind}; {EXPECTED}")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// The kind of file, in words.
        kind: &'static str,
    },
    /// The file has none of the known formats.
    #[error("--kernel: {path} is not a kernel ({why}); {EXPECTED}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// The part of the file that shows it.
        why: &'static str,
    },
    /// The end of the file is missing.
    #[error("--kernel: {path} is truncated: {size} of {needed} bytes; expected: the whole file")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The size in bytes that its header gives.
        needed: u64,
    },
}

/// The format of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux bzImage; it unpacks itself.
    BzImage {
        /// The highest address where it takes an initramfs.
        ramdisk_limit: u64,
    },
    /// An x86-64 ELF file.
    Elf,
    /// A multiboot-1 image, ELF32 or with its addresses in its header.
    Multiboot(MultibootImage),
}

/// A checked kernel, and the guest memory that it will occupy.
#[derive(Debug)]
pub struct KernelImage {
    path: PathBuf,
    file: File,
    id: FileId,
    kind: ImageKind,
    span: (u64, u64),
}

impl KernelImage {
    /// Opens a kernel and checks that it has a known format and is complete.
    ///
    /// # Errors
    /// If the file cannot be read, has another format, or is truncated.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let read = |source| ImageError::Read {
            path: path.to_owned(),
            source,
        };
        let opened = InputFile::open(path).map_err(|fault| match fault {
            FileFault::Io(source) => read(source),
            FileFault::Kind(kind) => ImageError::NotAFile {
                path: path.to_owned(),
                kind,
            },
        })?;
        let InputFile { mut file, size, id } = opened;
        let (kind, span) = inspect(&mut file, size).map_err(|fault| match fault {
            ImageFault::Io(source) => read(source),
            ImageFault::NotAKernel(why) => ImageError::NotAKernel {
                path: path.to_owned(),
                why,
            },
            ImageFault::Truncated(needed) => ImageError::Truncated {
                path: path.to_owned(),
                size,
                needed,
            },
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            id,
            kind,
            span,
        })
    }

    /// Which file of the host it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The guest-physical bytes that the kernel needs, from the first to the
    /// one after the last.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        self.span
    }

    /// The first address that an initramfs may not reach.
    #[must_use]
    pub fn ramdisk_limit(&self) -> u64 {
        match self.kind {
            ImageKind::BzImage { ramdisk_limit } => ramdisk_limit,
            ImageKind::Elf | ImageKind::Multiboot(_) => layout::DEVICE_GAP,
        }
    }

    /// Whether it can be Linux, which unpacks archives: a bzImage, or an ELF file that
    /// reaches beyond the 16 MiB from which Linux is linked.
    pub(super) fn may_be_linux(&self) -> bool {
        const LINKED: u64 = 16 << 20;
        match self.kind {
            ImageKind::BzImage { .. } => true,
            ImageKind::Elf => self.span.1 > LINKED,
            ImageKind::Multiboot(_) => false,
        }
    }

    /// The meaning of the files of `--initramfs` for this kernel.
    #[must_use]
    pub fn ramdisk_form(&self) -> RamdiskForm {
        match self.kind {
            ImageKind::BzImage { .. } | ImageKind::Elf => RamdiskForm::Archives,
            ImageKind::Multiboot(_) => RamdiskForm::Modules,
        }
    }

    /// Where it came from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file and what it is, for the loader.
    pub(super) fn parts(&mut self) -> (&mut File, &ImageKind) {
        (&mut self.file, &self.kind)
    }
}

/// What [`inspect`] finds wrong.
#[derive(Debug)]
enum ImageFault {
    Io(io::Error),
    NotAKernel(&'static str),
    Truncated(u64),
}

impl From<io::Error> for ImageFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Inspected = (ImageKind, (u64, u64));

fn inspect<F: Read + Seek>(file: &mut F, size: u64) -> Result<Inspected, ImageFault> {
    let mut start = Vec::new();
    file.by_ref()
        .take(multiboot::SEARCHED)
        .read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(ImageFault::NotAKernel("it is empty"));
    }
    if start.starts_with(b"\x7fELF") {
        return if start.get(EI_CLASS) == Some(&CLASS_32) {
            multiboot::inspect(file, size, &start)
        } else {
            inspect_elf(file, size, &start)
        };
    }
    if field(&start, HEADER_MAGIC_OFFSET, 4) != u64::from(HEADER_MAGIC)
        && multiboot::has_header(&start)
    {
        return multiboot::inspect(file, size, &start);
    }
    inspect_bzimage(file, size)
}

/// Boot protocol 2.12: the first with the 64-bit entry flag.
const PROTOCOL_2_12: u16 = 0x020c;
const HEADER_OFFSET: u64 = 0x1f1;
const HEADER_MAGIC_OFFSET: usize = 0x202;
const LOADED_HIGH: u8 = 1;
/// XLF_KERNEL_64: the 64-bit entry is there.
const XLF_KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;

fn inspect_bzimage<F: Read + Seek>(file: &mut F, size: u64) -> Result<Inspected, ImageFault> {
    const NO_MAGIC: ImageFault = ImageFault::NotAKernel("neither ELF, bzImage nor multiboot");
    let mut header = setup_header::default();
    file.seek(SeekFrom::Start(HEADER_OFFSET))?;
    match file.read_exact(header.as_mut_slice()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(NO_MAGIC),
        result => result?,
    }
    if header.header != HEADER_MAGIC || header.loadflags & LOADED_HIGH == 0 {
        return Err(NO_MAGIC);
    }
    if header.version < PROTOCOL_2_12 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(ImageFault::NotAKernel("a bzImage without a 64-bit entry"));
    }
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let setup = (sectors + 1) * SECTOR;
    let payload = u64::from(header.payload_offset) + u64::from(header.payload_length);
    // `syssize` counts paragraphs, and its last one may be partial.
    let system = (u64::from(header.syssize) * 16).saturating_sub(15);
    let needed = setup + payload.max(system);
    if size < needed {
        return Err(ImageFault::Truncated(needed));
    }
    // It moves to its preferred address before it unpacks; `init_size` covers that.
    let start = layout::HIGH_RAM.max(header.pref_address);
    let end = start.saturating_add(header.init_size.into());
    let end = end.max(layout::HIGH_RAM + size - setup);
    let kind = ImageKind::BzImage {
        ramdisk_limit: u64::from(header.initrd_addr_max) + 1,
    };
    Ok((kind, (layout::HIGH_RAM, end)))
}

/// Offsets in the ELF header and in a program header (System V ABI, "ELF
/// Header", "Program Header").
const EI_CLASS: usize = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const EI_DATA: usize = 5;
const LITTLE_ENDIAN: u8 = 1;
const E_MACHINE: usize = 18;
const EM_X86_64: u64 = 62;
const E_ENTRY: usize = 24;
const E_PHOFF: usize = 32;
const E_PHENTSIZE: usize = 54;
const E_PHNUM: usize = 56;
const PHDR_LEN: u64 = 56;
const PT_LOAD: u64 = 1;
const PT_INTERP: u64 = 3;

fn inspect_elf<F: Read + Seek>(
    file: &mut F,
    size: u64,
    header: &[u8],
) -> Result<Inspected, ImageFault> {
    const LOST: ImageFault = ImageFault::NotAKernel("its program headers make no sense");
    if header.len() < 64 {
        return Err(ImageFault::Truncated(64));
    }
    let little_64 =
        header.get(EI_CLASS) == Some(&CLASS_64) && header.get(EI_DATA) == Some(&LITTLE_ENDIAN);
    if !little_64 || field(header, E_MACHINE, 2) != EM_X86_64 {
        return Err(ImageFault::NotAKernel("an ELF file, but not of x86-64"));
    }
    let count = field(header, E_PHNUM, 2);
    let table = field(header, E_PHOFF, 8);
    if count == 0 || field(header, E_PHENTSIZE, 2) != PHDR_LEN || table < 64 {
        return Err(LOST);
    }
    let table_end = table.checked_add(count * PHDR_LEN).ok_or(LOST)?;
    if table_end > size {
        return Err(ImageFault::Truncated(table_end));
    }
    file.seek(SeekFrom::Start(table))?;
    let mut span = (u64::MAX, 0);
    let mut needed = 0;
    for _ in 0..count {
        let mut phdr = [0u8; 56];
        file.read_exact(&mut phdr)?;
        let kind = field(&phdr, 0, 4);
        if kind == PT_INTERP {
            return Err(ImageFault::NotAKernel("a program for an operating system"));
        }
        let (offset, in_file) = (field(&phdr, 8, 8), field(&phdr, 32, 8));
        needed = needed.max(offset.checked_add(in_file).ok_or(LOST)?);
        if kind == PT_LOAD {
            let (start, in_memory) = (field(&phdr, 24, 8), field(&phdr, 40, 8));
            let end = start.checked_add(in_memory.max(in_file)).ok_or(LOST)?;
            span = (span.0.min(start), span.1.max(end));
        }
    }
    if needed > size {
        return Err(ImageFault::Truncated(needed));
    }
    let entry = field(header, E_ENTRY, 8);
    if !(span.0..span.1).contains(&entry) {
        return Err(ImageFault::NotAKernel(
            "an ELF file whose entry is in no segment",
        ));
    }
    Ok((ImageKind::Elf, span))
}

/// A little-endian number of `len` bytes; missing bytes are 0.
fn field(bytes: &[u8], offset: usize, len: usize) -> u64 {
    let mut word = [0u8; 8];
    for (to, from) in word.iter_mut().zip(bytes.iter().skip(offset).take(len)) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests;
