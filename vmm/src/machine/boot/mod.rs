//! Getting a kernel to its first instruction.
//!
//! ```text
//!  file ─ image::inspect ─┬─ bzImage ──────────────┐
//!                         ├─ ELF with a PVH note ──┼─▶ start info ─▶ 32-bit entry
//!                         ├─ ELF without ──────────┴─▶ boot_params ▶ 64-bit entry
//!                         └─ multiboot ──────────────▶ information ▶ 32-bit entry
//! ```
//! Files are inspected before KVM is used, so a bad file is refused before
//! anything has started.

mod image;
mod initramfs;
mod linux;
mod multiboot;
mod pvh;
mod room;
mod tables;

use std::io;
use std::ops::Range;

use linux_loader::loader::{BzImage, Elf, KernelLoader, PvhBootCapability};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

pub use image::{ImageError, ImageKind, KernelImage, MultibootImage};
pub use initramfs::{Initramfs, InitramfsError, RamdiskForm};
pub use room::check_room;

use super::memory::{MapRange, RangeKind, provide};
use crate::kvm::BootState;
use crate::kvm::layout;
use crate::sys::guest_ram::GuestRam;

/// Something about the boot that cannot be.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel needs more memory than there is.
    #[error(
        "--memory: {have} MiB are too little for this kernel and initramfs; expected: at least {need} MiB"
    )]
    TooSmall {
        /// RAM in MiB.
        have: u64,
        /// The smallest RAM that works, in MiB.
        need: u64,
    },
    /// The kernel lies where the firmware tables do.
    #[error(
        "--kernel: a segment at {start:#x} is below 1 MiB; expected: segments at 0x100000 or above"
    )]
    TooLow {
        /// Where the segment starts.
        start: u64,
    },
    /// The loader refused the image.
    #[error("--kernel: the image cannot be loaded")]
    Load(#[source] linux_loader::loader::Error),
    /// The image cannot be read any more.
    #[error("--kernel: the image cannot be read")]
    Read(#[source] io::Error),
    /// More modules than the multiboot tables hold.
    #[error("--initramfs: {asked} multiboot modules are too many; expected: at most {max}")]
    TooManyModules {
        /// The number of modules that the command line names.
        asked: usize,
        /// The largest number that fits.
        max: u64,
    },
    /// An initramfs changed or failed while it was read.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// Guest memory refused a table, which the checks before exclude.
    #[error("cannot write the {what} to guest memory")]
    Memory {
        /// The name of the table.
        what: &'static str,
        /// The error of the guest's memory.
        source: vm_memory::GuestMemoryError,
    },
}

/// The kernel, the archives and the command line that a guest starts with.
#[derive(Debug)]
pub struct BootInputs<'a> {
    /// The kernel.
    pub kernel: &'a mut KernelImage,
    /// The initramfs archives.
    pub initramfs: &'a mut Initramfs,
    /// The command line.
    pub cmdline: &'a str,
    /// The memory map.
    pub map: &'a [MapRange],
    /// Bytes of RAM from 0 on.
    pub low_ram: u64,
}

/// The place of the initramfs in guest memory.
#[derive(Clone, Copy, Debug, Default)]
struct Ramdisk {
    start: u64,
    size: u64,
}

/// Loads everything and says how the boot CPU starts.
///
/// # Errors
/// If it does not fit, or a file cannot be read.
pub fn load(memory: &GuestRam, inputs: BootInputs<'_>) -> Result<BootState, BootError> {
    let (span_start, span_end) = inputs.kernel.span();
    if span_start < layout::HIGH_RAM {
        return Err(BootError::TooLow { start: span_start });
    }
    let ramdisk = place_ramdisk(&inputs, span_end)?;
    if let ImageKind::BzImage { .. } = inputs.kernel.parts().1 {
        provide(memory, &(span_start..span_end));
        provide(memory, &handed_out_first(inputs.map, span_end));
        provide(memory, &top_of_memory(inputs.map, ramdisk));
    }
    inputs.initramfs.load(memory, ramdisk.start)?;
    write_cmdline(memory, &inputs)?;
    tables::write_reset_entry(memory)?;
    let (file, kind) = inputs.kernel.parts();
    match kind {
        ImageKind::BzImage { .. } => {
            let start = Some(GuestAddress(layout::HIGH_RAM));
            let loaded = BzImage::load(memory, start, file, None).map_err(BootError::Load)?;
            let header = loaded.setup_header.unwrap_or_default();
            linux::write_boot_params(memory, header, &inputs, ramdisk)?;
            tables::write_long_mode_tables(memory)?;
            Ok(BootState::Long {
                entry: layout::HIGH_RAM + linux::ENTRY_64_OFFSET,
            })
        }
        ImageKind::Elf => {
            let loaded = Elf::load(memory, None, file, None).map_err(BootError::Load)?;
            if let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap {
                pvh::write_start_info(memory, &inputs, ramdisk)?;
                tables::write_protected_mode_gdt(memory)?;
                return Ok(BootState::Pvh { entry: entry.0 });
            }
            linux::write_boot_params(memory, linux::elf_header(), &inputs, ramdisk)?;
            tables::write_long_mode_tables(memory)?;
            Ok(BootState::Long {
                entry: loaded.kernel_load.0,
            })
        }
        ImageKind::Multiboot(image) => {
            let entry = multiboot::load(memory, file, image)?;
            multiboot::write_info(memory, &inputs, ramdisk)?;
            tables::write_protected_mode_gdt(memory)?;
            Ok(BootState::Multiboot { entry })
        }
    }
}

/// Where Linux, which allocates from the top down as it starts, puts 64 bytes for each page of
/// 4 KiB (`struct page`), below its initramfs. Large guests take their time for that, and use
/// it page by page.
fn top_of_memory(map: &[MapRange], ramdisk: Ramdisk) -> Range<u64> {
    const MOST: u64 = 64 << 20;
    let ram = || map.iter().filter(|range| range.kind == RangeKind::Ram);
    let size: u64 = ram().map(|range| range.size).sum();
    let end = ram().map(|range| range.start + range.size).max();
    let end = end.unwrap_or_default();
    end.saturating_sub((size / 64).min(MOST) + ramdisk.size)..end
}

/// What Linux's page allocator hands out first: it begins with the lowest free addresses of the
/// highest zone. That is the memory above 4 GiB, if there is some, and otherwise what is behind
/// the kernel. A boot takes some 20 MiB, for modules, programs and what they read.
fn handed_out_first(map: &[MapRange], kernel_end: u64) -> Range<u64> {
    const LEN: u64 = 20 << 20;
    let above = map
        .iter()
        .find(|range| range.kind == RangeKind::Ram && range.start >= layout::ABOVE_4G);
    let start = above.map_or(kernel_end, |range| range.start);
    start..start + LEN
}

/// The command line with a NUL behind it.
fn write_cmdline(memory: &GuestRam, inputs: &BootInputs<'_>) -> Result<(), BootError> {
    let cmdline = match inputs.kernel.ramdisk_form() {
        RamdiskForm::Archives => format!("{}\0", inputs.cmdline),
        // Loaders of multiboot kernels put the kernel's name first.
        RamdiskForm::Modules => {
            format!(
                "{} {}\0",
                inputs.kernel.path().to_string_lossy(),
                inputs.cmdline
            )
        }
    };
    write(memory, "command line", layout::CMDLINE, cmdline.as_bytes())
}

/// The initramfs goes to the top of the RAM below the device gap, out of the
/// way of a kernel that moves itself.
fn place_ramdisk(inputs: &BootInputs<'_>, kernel_end: u64) -> Result<Ramdisk, BootError> {
    const PAGE: u64 = 4096;
    let size = inputs.initramfs.size();
    let limit = inputs.low_ram.min(inputs.kernel.ramdisk_limit());
    let start = limit.saturating_sub(size) / PAGE * PAGE;
    if kernel_end > inputs.low_ram || (size > 0 && start < kernel_end) {
        let need = kernel_end.saturating_add(size);
        return Err(room::too_small(inputs.low_ram, need));
    }
    Ok(if size == 0 {
        Ramdisk::default()
    } else {
        Ramdisk { start, size }
    })
}

fn write(
    memory: &GuestRam,
    what: &'static str,
    address: u64,
    bytes: &[u8],
) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|source| BootError::Memory { what, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::RamLayout;

    /// Linux, Documentation/mm/memory-model.rst: a `struct page` for each page.
    #[test]
    fn a_64th_of_the_memory_and_the_initramfs_are_at_its_top() {
        let ramdisk = Ramdisk {
            start: 0,
            size: 3 << 20,
        };
        let top = |mib: u64| top_of_memory(&RamLayout::of(mib << 20).map(), ramdisk);
        let mib = |range: Range<u64>| (range.start >> 20, range.end >> 20);
        // The first MiB is not all RAM.
        assert_eq!(mib(top(1024)), (1005, 1024));
        assert_eq!(mib(top(8 << 10)), ((9 << 10) - 67, 9 << 10));
        assert_eq!(top_of_memory(&[], ramdisk), 0..0);
    }

    /// Linux, mm/page_alloc.c: the zones are tried from the highest one down (`zonelist`).
    #[test]
    fn the_first_pages_are_behind_the_kernel_or_above_4_gib() {
        let first = |mib: u64| handed_out_first(&RamLayout::of(mib << 20).map(), 67 << 20);
        assert_eq!(first(1024), 67 << 20..87 << 20);
        assert_eq!(first(3 << 10), 67 << 20..87 << 20);
        assert_eq!(first(4 << 10), 4 << 30..(4 << 30) + (20 << 20));
    }
}
