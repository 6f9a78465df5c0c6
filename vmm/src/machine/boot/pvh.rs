//! The PVH boot ABI (Xen documentation, "x86/HVM direct boot ABI").

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::{BootError, BootInputs, Ramdisk, write};
use crate::kvm::layout;
use crate::sys::guest_ram::GuestRam;

const MAGIC: u32 = 0x336e_c578;
/// The version with the memory map.
const VERSION: u32 = 1;

pub(super) fn write_start_info(
    memory: &GuestRam,
    inputs: &BootInputs<'_>,
    ramdisk: Ramdisk,
) -> Result<(), BootError> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(inputs.map.len()).unwrap_or(0),
        ..hvm_start_info::default()
    };
    if ramdisk.size > 0 {
        info.nr_modules = 1;
        info.modlist_paddr = layout::PVH_MODULES;
        let module = hvm_modlist_entry {
            paddr: ramdisk.start,
            size: ramdisk.size,
            ..hvm_modlist_entry::default()
        };
        write(
            memory,
            "PVH modules",
            layout::PVH_MODULES,
            module.as_slice(),
        )?;
    }
    for (address, range) in (layout::PVH_MEMORY_MAP..)
        .step_by(size_of::<hvm_memmap_table_entry>())
        .zip(inputs.map)
    {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        };
        write(memory, "PVH memory map", address, entry.as_slice())?;
    }
    write(
        memory,
        "PVH start info",
        layout::PVH_START_INFO,
        info.as_slice(),
    )
}
