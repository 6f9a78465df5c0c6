//! The Linux x86 boot protocol ("The Linux/x86 Boot Protocol", kernel
//! documentation): `boot_params` for the 64-bit entry.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::{BootError, BootInputs, Ramdisk, write};
use crate::kvm::layout;
use crate::sys::guest_ram::GuestRam;

/// The 64-bit entry of a bzImage, from where its protected-mode part lies.
pub(super) const ENTRY_64_OFFSET: u64 = 0x200;
/// "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// A loader without an id of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// The header for a kernel that brings none.
pub(super) fn elf_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: 0x20_0000,
        ..setup_header::default()
    }
}

pub(super) fn write_boot_params(
    memory: &GuestRam,
    header: setup_header,
    inputs: &BootInputs<'_>,
    ramdisk: Ramdisk,
) -> Result<(), BootError> {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: layout::ACPI,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(layout::CMDLINE);
    params.hdr.cmdline_size = u32::try_from(inputs.cmdline.len()).unwrap_or(0);
    (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(ramdisk.start);
    (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(ramdisk.size);
    let mut entries = 0;
    for (slot, range) in params.e820_table.iter_mut().zip(inputs.map) {
        *slot = boot_e820_entry {
            addr: range.start,
            size: range.size,
            r#type: range.kind as u32,
        };
        entries += 1;
    }
    params.e820_entries = entries;
    write(
        memory,
        "boot parameters",
        layout::BOOT_PARAMS,
        params.as_slice(),
    )
}

/// The low and the high half of a number, as the protocol splits them.
#[expect(clippy::cast_possible_truncation, reason = "each half is cut out")]
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
