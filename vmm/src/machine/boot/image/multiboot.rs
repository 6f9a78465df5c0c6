//! Multiboot-1 images ("Multiboot Specification version 0.6.96"): a header with
//! a magic number somewhere in the first 8 KiB, in an ELF32 file or with the
//! addresses in the header itself.

use std::io::{Read, Seek, SeekFrom};

use super::{
    E_MACHINE, EI_DATA, ImageFault, ImageKind, Inspected, LITTLE_ENDIAN, PT_INTERP, PT_LOAD, field,
};

/// The header lies within so many bytes ("OS image format").
pub(super) const SEARCHED: u64 = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// Magic number, flags and checksum.
const SHORT_LEN: usize = 12;
/// With the address fields.
const LONG_LEN: usize = 32;
/// Flags: modules on pages, memory information. Both are always given.
const GIVEN: u32 = 1 << 0 | 1 << 1;
/// Flags: what a loader must know or refuse.
const REQUIRED: u32 = 0xffff;
/// Flag: the address fields are valid.
const HAS_ADDRESSES: u32 = 1 << 16;

/// Offsets in the ELF32 header and in its program header (System V ABI, "ELF
/// Header", "Program Header").
const EM_386: u64 = 3;
const E_ENTRY: usize = 24;
const E_PHOFF: usize = 28;
const E_PHENTSIZE: usize = 42;
const E_PHNUM: usize = 44;
const EHDR_LEN: u64 = 52;
const PHDR_LEN: usize = 32;

const LOST: ImageFault = ImageFault::NotAKernel("its multiboot addresses make no sense");
const LOST_ELF: ImageFault = ImageFault::NotAKernel("its program headers make no sense");

/// What is to be loaded, and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultibootImage {
    /// The first instruction, in 32-bit protected mode.
    pub(in crate::machine::boot) entry: u64,
    /// Its parts.
    pub(in crate::machine::boot) segments: Vec<Segment>,
}

/// A part of the file and the memory that it goes to; what the file does not
/// fill is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine::boot) struct Segment {
    pub(in crate::machine::boot) offset: u64,
    pub(in crate::machine::boot) in_file: u64,
    pub(in crate::machine::boot) address: u64,
    pub(in crate::machine::boot) in_memory: u64,
}

/// The header, found.
struct Header<'a> {
    offset: usize,
    flags: u32,
    bytes: &'a [u8],
}

/// Whether `start`, the first [`SEARCHED`] bytes of a file, holds a header.
pub(super) fn has_header(start: &[u8]) -> bool {
    find(start).is_some()
}

/// Looks at a file that begins with `start`.
pub(super) fn inspect<F: Read + Seek>(
    file: &mut F,
    size: u64,
    start: &[u8],
) -> Result<Inspected, ImageFault> {
    let Some(header) = find(start) else {
        return Err(ImageFault::NotAKernel(
            "a 32-bit ELF file without a multiboot header",
        ));
    };
    if header.flags & REQUIRED & !GIVEN != 0 {
        return Err(ImageFault::NotAKernel(
            "a multiboot image that needs a video mode or what is not in version 1",
        ));
    }
    // The addresses have priority where there are both ("The address fields").
    let image = if header.flags & HAS_ADDRESSES != 0 {
        by_addresses(&header, size)?
    } else {
        by_elf(file, size, start)?
    };
    let loaded = image.segments.iter();
    let span = loaded.fold((u64::MAX, 0), |(first, end), segment| {
        let segment_end = segment.address + segment.in_memory;
        (first.min(segment.address), end.max(segment_end))
    });
    let has_entry = |segment: &Segment| {
        (segment.address..segment.address + segment.in_memory).contains(&image.entry)
    };
    if !image.segments.iter().any(has_entry) {
        return Err(ImageFault::NotAKernel(
            "a multiboot image whose entry is in no segment",
        ));
    }
    Ok((ImageKind::Multiboot(image), span))
}

/// The first place, four-byte aligned, where magic, flags and checksum add up
/// to zero.
fn find(start: &[u8]) -> Option<Header<'_>> {
    let last = start.len().checked_sub(SHORT_LEN)?;
    (0..=last).step_by(4).find_map(|offset| {
        let bytes = start.get(offset..)?;
        let (magic, flags, checksum) = (word(bytes, 0), word(bytes, 4), word(bytes, 8));
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MAGIC && sum == 0).then_some(Header {
            offset,
            flags,
            bytes,
        })
    })
}

/// "The address fields of Multiboot header": the header says where it is itself
/// to lie, and so where the file goes.
fn by_addresses(header: &Header<'_>, size: u64) -> Result<MultibootImage, ImageFault> {
    if header.bytes.len() < LONG_LEN {
        return Err(ImageFault::Truncated((header.offset + LONG_LEN) as u64));
    }
    let [own, load, load_end, bss_end, entry] =
        [12, 16, 20, 24, 28].map(|at| field(header.bytes, at, 4));
    let before = own.checked_sub(load).ok_or(LOST)?;
    let offset = (header.offset as u64).checked_sub(before).ok_or(LOST)?;
    let in_file = match load_end {
        // "If this field is zero, the text and data occupy the whole OS image file."
        0 => size.saturating_sub(offset),
        end => end.checked_sub(load).ok_or(LOST)?,
    };
    let in_memory = match bss_end {
        0 => in_file,
        end => end
            .checked_sub(load)
            .filter(|len| *len >= in_file)
            .ok_or(LOST)?,
    };
    if offset + in_file > size {
        return Err(ImageFault::Truncated(offset + in_file));
    }
    let segment = Segment {
        offset,
        in_file,
        address: load,
        in_memory,
    };
    Ok(MultibootImage {
        entry,
        segments: vec![segment],
    })
}

fn by_elf<F: Read + Seek>(
    file: &mut F,
    size: u64,
    header: &[u8],
) -> Result<MultibootImage, ImageFault> {
    let elf = header.starts_with(b"\x7fELF") && header.get(EI_DATA) == Some(&LITTLE_ENDIAN);
    if !elf {
        return Err(ImageFault::NotAKernel(
            "a multiboot image that is neither ELF nor says its addresses",
        ));
    }
    if field(header, E_MACHINE, 2) != EM_386 {
        return Err(ImageFault::NotAKernel("a 32-bit ELF file, but not of i386"));
    }
    let (count, table) = (field(header, E_PHNUM, 2), field(header, E_PHOFF, 4));
    if count == 0 || field(header, E_PHENTSIZE, 2) != PHDR_LEN as u64 || table < EHDR_LEN {
        return Err(LOST_ELF);
    }
    let table_end = table + count * PHDR_LEN as u64;
    if table_end > size {
        return Err(ImageFault::Truncated(table_end));
    }
    file.seek(SeekFrom::Start(table))?;
    let mut segments = Vec::new();
    let mut needed = 0;
    for _ in 0..count {
        let mut phdr = [0u8; PHDR_LEN];
        file.read_exact(&mut phdr)?;
        let [kind, offset, address, in_file, in_memory] =
            [0, 4, 12, 16, 20].map(|at| field(&phdr, at, 4));
        match kind {
            PT_INTERP => return Err(ImageFault::NotAKernel("a program for an operating system")),
            PT_LOAD if in_memory < in_file => return Err(LOST_ELF),
            PT_LOAD if in_memory > 0 => {
                needed = needed.max(offset + in_file);
                segments.push(Segment {
                    offset,
                    in_file,
                    address,
                    in_memory,
                });
            }
            _ => {}
        }
    }
    if needed > size {
        return Err(ImageFault::Truncated(needed));
    }
    Ok(MultibootImage {
        entry: field(header, E_ENTRY, 4),
        segments,
    })
}

/// A little-endian number of four bytes; missing bytes are 0.
fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::try_from(field(bytes, offset, 4)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
