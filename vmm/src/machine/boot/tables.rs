//! Descriptor and page tables for the first instructions.

use super::{BootError, write};
use crate::devices::power;
use crate::kvm::layout;
use crate::sys::guest_ram::GuestRam;

/// Present, writable.
const TABLE: u64 = 0x3;
/// Present, writable, a page of its own size (2 MiB).
const LARGE_PAGE: u64 = 0x83;
const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Flat descriptors: null, null, code, data, busy TSS. The boot CPU's segment
/// registers already hold the same.
const GDT_64: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008b_0000_0067,
];
const GDT_32: [u64; 5] = [
    0,
    0,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008b_0000_0067,
];

/// GDT, and the first 4 GiB mapped to themselves.
pub(super) fn write_long_mode_tables(memory: &GuestRam) -> Result<(), BootError> {
    write_words(memory, layout::GDT, &GDT_64)?;
    write_words(memory, layout::PML4, &[layout::PDPT | TABLE])?;
    let directories: Vec<u64> = (0..4)
        .map(|n| (layout::PAGE_DIRECTORIES + n * 4096) | TABLE)
        .collect();
    write_words(memory, layout::PDPT, &directories)?;
    let pages: Vec<u64> = (0..4 * 512)
        .map(|n| (n * LARGE_PAGE_SIZE) | LARGE_PAGE)
        .collect();
    write_words(memory, layout::PAGE_DIRECTORIES, &pages)
}

pub(super) fn write_protected_mode_gdt(memory: &GuestRam) -> Result<(), BootError> {
    write_words(memory, layout::GDT, &GDT_32)
}

/// The firmware's reset entry, in real mode: ask the reset register for it.
///
/// A Linux guest of a hardware-reduced platform tries to restart by EFI, which
/// it has not, and then by this entry; never by the ACPI reset register or the
/// keyboard controller, unless `reboot=` says so (Linux: `reboot_init`,
/// `native_machine_emergency_restart`).
pub(super) fn write_reset_entry(memory: &GuestRam) -> Result<(), BootError> {
    let [low, high] = power::CONTROL_PORT.to_le_bytes();
    let code = [
        // mov dx, port
        0xba,
        low,
        high,
        // mov al, value
        0xb0,
        power::RESET_VALUE,
        // out dx, al
        0xee,
        // hlt; jmp to the hlt
        0xf4,
        0xeb,
        0xfd,
    ];
    write(memory, "reset entry", layout::RESET_VECTOR, &code)
}

fn write_words(memory: &GuestRam, address: u64, words: &[u64]) -> Result<(), BootError> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(memory, "boot tables", address, &bytes)
}
