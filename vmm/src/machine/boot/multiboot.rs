//! The machine state of multiboot-1: the information structure and the modules
//! ("Multiboot Specification version 0.6.96", "Boot information format").

use std::fs::File;
use std::io::{Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::image::{MultibootImage, Segment};
use super::{BootError, BootInputs, Ramdisk, write};
use crate::kvm::layout;
use crate::sys::guest_ram::GuestRam;

/// Flags of the information structure: `mem_*`, the command line, the modules,
/// `mmap_*`, the loader's name.
const MEMORY: u32 = 1 << 0;
const CMDLINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;
/// Its length, up to and with the loader's name, in words.
const INFO_WORDS: usize = 17;
/// A module: start, end, no string, reserved.
const MODULE_LEN: usize = 16;
/// The length of an entry of the memory map, without this very field.
const MAP_ENTRY_LEN: u32 = 20;
const NAME: &[u8] = b"Perfvisor\0";
const KIB: u64 = 1024;

/// Copies the parts of the image to where they belong, in zeroed memory.
pub(super) fn load(
    memory: &GuestRam,
    file: &mut File,
    image: &MultibootImage,
) -> Result<u64, BootError> {
    for segment in &image.segments {
        load_segment(memory, file, segment)?;
    }
    Ok(image.entry)
}

fn load_segment(memory: &GuestRam, file: &mut File, segment: &Segment) -> Result<(), BootError> {
    let len = usize::try_from(segment.in_file).unwrap_or(usize::MAX);
    file.seek(SeekFrom::Start(segment.offset))
        .map_err(BootError::Read)?;
    memory
        .read_exact_volatile_from(GuestAddress(segment.address), file, len)
        .map_err(|source| BootError::Memory {
            what: "kernel",
            source,
        })
}

/// Writes the information structure, to which EBX points.
pub(super) fn write_info(
    memory: &GuestRam,
    inputs: &BootInputs<'_>,
    ramdisk: Ramdisk,
) -> Result<(), BootError> {
    write(memory, "loader name", layout::MULTIBOOT_NAME, NAME)?;
    let modules = write_modules(memory, inputs, ramdisk)?;
    let map_len = write_memory_map(memory, inputs)?;
    let mut info = [0u32; INFO_WORDS];
    for (at, value) in [
        (0, MEMORY | CMDLINE | MODULES | MEMORY_MAP | LOADER_NAME),
        (1, low_word(layout::LOW_RAM_END / KIB)),
        (
            2,
            low_word(inputs.low_ram.saturating_sub(layout::HIGH_RAM) / KIB),
        ),
        (4, low_word(layout::CMDLINE)),
        (5, modules),
        (6, low_word(layout::MULTIBOOT_MODULES)),
        (11, map_len),
        (12, low_word(layout::MULTIBOOT_MEMORY_MAP)),
        (16, low_word(layout::MULTIBOOT_NAME)),
    ] {
        if let Some(word) = info.get_mut(at) {
            *word = value;
        }
    }
    write_words(
        memory,
        "multiboot information",
        layout::MULTIBOOT_INFO,
        &info,
    )
}

/// Returns how many there are.
fn write_modules(
    memory: &GuestRam,
    inputs: &BootInputs<'_>,
    ramdisk: Ramdisk,
) -> Result<u32, BootError> {
    let max = (layout::MULTIBOOT_MODULES_END - layout::MULTIBOOT_MODULES) / MODULE_LEN as u64;
    let places = inputs.initramfs.places(ramdisk.start);
    if places.len() as u64 > max {
        return Err(BootError::TooManyModules {
            asked: places.len(),
            max,
        });
    }
    for (at, place) in (layout::MULTIBOOT_MODULES..)
        .step_by(MODULE_LEN)
        .zip(&places)
    {
        let module = [low_word(place.start), low_word(place.end), 0, 0];
        write_words(memory, "multiboot modules", at, &module)?;
    }
    Ok(u32::try_from(places.len()).unwrap_or(0))
}

/// Returns its length in bytes.
fn write_memory_map(memory: &GuestRam, inputs: &BootInputs<'_>) -> Result<u32, BootError> {
    let mut bytes = Vec::new();
    for range in inputs.map {
        bytes.extend(MAP_ENTRY_LEN.to_le_bytes());
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.size.to_le_bytes());
        bytes.extend((range.kind as u32).to_le_bytes());
    }
    let place = layout::MULTIBOOT_MEMORY_MAP;
    write(memory, "multiboot memory map", place, &bytes)?;
    Ok(u32::try_from(bytes.len()).unwrap_or(0))
}

fn write_words(
    memory: &GuestRam,
    what: &'static str,
    address: u64,
    words: &[u32],
) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(memory, what, address, &bytes)
}

/// An address or a length of multiboot, all of which lie below 4 GiB.
fn low_word(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
