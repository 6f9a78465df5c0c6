//! A disk that boots a Linux kernel in Bochs: a boot sector, and behind it what the memory
//! is to hold, the kernel's ELF file and the initramfs in their places. The kernel starts
//! by its PVH entry, so that nothing is unpacked and no boot loader is needed.
//!
//! ```text
//! sector 0      resources/host/boot.s
//! sector 8 ─▶   memory from BASE on: start info ─ kernel ─ initramfs
//! ```

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{Elf, KernelLoader, PvhBootCapability};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::{cmd, paths};

const SECTOR: u64 = 512;
/// Where the memory's contents begin on the disk: a page, for they are mapped to be written.
const CONTENTS: u64 = 4096;
/// The first address that they have; Debian's kernels begin at 16 MiB.
const BASE: u64 = 0xff_0000;
const MODULES: u64 = BASE + 0x1000;
const MEMORY_MAP: u64 = BASE + 0x2000;
const COMMAND_LINE: u64 = BASE + 0x3000;
/// Where the initramfs may begin.
const ALIGNMENT: u64 = 2 << 20;
/// For the kernel's memory that is not in its file.
const BSS: u64 = 32 << 20;
/// A cylinder of the disk, of which it has whole ones.
const CYLINDER: u64 = 16 * 63 * SECTOR;

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;
/// At the end of the memory Bochs' BIOS has its ACPI tables.
const TABLES: u64 = 0x1_0000;

/// The memory as Bochs' BIOS leaves it: address, size, kind.
fn map(memory: u64) -> [(u64, u64, u32); 4] {
    let tables = memory - TABLES;
    [
        (0, 0x9_f000, RAM),
        (0xf_0000, 0x1_0000, RESERVED),
        (0x10_0000, tables - 0x10_0000, RAM),
        (tables, TABLES, ACPI),
    ]
}

/// Makes the disk, for a machine with `memory` bytes.
///
/// # Errors
/// If a file cannot be read or written, or the kernel has no PVH entry.
pub(super) fn make(
    (kernel, initrd, command_line): (&Path, &Path, &str),
    memory: u64,
    to: &Path,
) -> Result<()> {
    let read = |path: &Path| format!("cannot read {}", path.display());
    let mut elf = File::open(kernel).with_context(|| read(kernel))?;
    let archive = fs::read(initrd).with_context(|| read(initrd))?;
    let archive_size = u64::try_from(archive.len())?;
    let most = BSS + elf.metadata()?.len() + archive_size + 2 * ALIGNMENT;
    let disk = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(to)
        .with_context(|| format!("cannot write {}", to.display()))?;
    disk.set_len(CONTENTS + most)?;
    let contents = FileOffset::new(disk.try_clone()?, CONTENTS);
    let region = (GuestAddress(BASE), usize::try_from(most)?, Some(contents));
    let ram: GuestMemoryMmap = GuestMemoryMmap::from_ranges_with_files([region])
        .with_context(|| format!("cannot map {}", to.display()))?;

    let loaded = Elf::load(&ram, None, &mut elf, None)
        .with_context(|| format!("cannot load {}", kernel.display()))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        bail!("{} has no PVH entry", kernel.display());
    };
    let start = loaded.kernel_end.next_multiple_of(ALIGNMENT);
    let placed = ram.write_slice(&archive, GuestAddress(start));
    placed.context("the initramfs does not fit")?;
    ram.write_slice(
        &[command_line.as_bytes(), b"\0"].concat(),
        GuestAddress(COMMAND_LINE),
    )
    .context("the command line does not fit")?;
    start_info(&ram, memory, (start, archive_size))?;
    drop(ram);

    let used = start + archive_size - BASE;
    let sectors = used.div_ceil(SECTOR);
    // A command reads so many sectors, and the last one too.
    const AT_ONCE: u64 = 256;
    let size = CONTENTS + sectors.next_multiple_of(AT_ONCE) * SECTOR;
    disk.set_len(size.next_multiple_of(CYLINDER))?;
    let code = boot_sector(&[
        ("first_sector", CONTENTS / SECTOR),
        ("sectors", sectors),
        ("memory", BASE),
        ("start_info", BASE),
        ("entry", entry.0),
    ])?;
    let written = std::os::unix::fs::FileExt::write_all_at(&disk, &code, 0);
    written.with_context(|| format!("cannot write {}", to.display()))
}

fn start_info(ram: &GuestMemoryMmap, memory: u64, (start, size): (u64, u64)) -> Result<()> {
    let map = map(memory).map(|(addr, size, type_)| hvm_memmap_table_entry {
        addr,
        size,
        type_,
        reserved: 0,
    });
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: 1,
        modlist_paddr: MODULES,
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len())?,
        ..hvm_start_info::default()
    };
    let module = hvm_modlist_entry {
        paddr: start,
        size,
        ..hvm_modlist_entry::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(BASE));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    params.set_modules(&[module], GuestAddress(MODULES));
    PvhBootConfigurator::write_bootparams(&params, ram).context("the start info does not fit")
}

/// The boot sector, with these symbols.
fn boot_sector(symbols: &[(&str, u64)]) -> Result<Vec<u8>> {
    let to = paths::cache("run")?.join(format!("boot-{}", std::process::id()));
    let mut gcc = Command::new("gcc");
    gcc.args(["-m32", "-nostdlib", "-static", "-Wl,--build-id=none"])
        .args(["-Wl,-Ttext=0x7c00", "-Wl,--oformat=binary"]);
    for (name, value) in symbols {
        gcc.arg(format!("-Wl,--defsym={name}={value:#x}"));
    }
    gcc.arg("-o").arg(&to).arg(paths::resource("host/boot.s"));
    cmd::output(&mut gcc).context("the boot sector does not build")?;
    let code = fs::read(&to).with_context(|| format!("cannot read {}", to.display()))?;
    let _removed = fs::remove_file(&to);
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A boot sector is 512 bytes with its mark (the PC BIOS' convention), and has the
    /// values in it.
    #[test]
    fn the_boot_sector_is_one() {
        let symbols = ["first_sector", "sectors", "memory", "start_info", "entry"];
        let values: [u64; 5] = [8, 0x1234_5678, 0xff_0000, 0xfe_0000, 0x0100_0a30];
        let symbols: Vec<_> = symbols.into_iter().zip(values).collect();
        let code = boot_sector(&symbols).unwrap();
        assert_eq!((code.len(), &code[510..]), (512, &[0x55, 0xaa][..]));
        for value in values {
            let bytes = u32::try_from(value).unwrap().to_le_bytes();
            assert!(code.windows(4).any(|w| w == bytes), "{value:#x}");
        }
    }

    #[test]
    fn the_map_has_no_gap_above_the_first_mebibyte() {
        let [low, bios, high, tables] = map(2 << 30);
        assert!(low.0 + low.1 <= 0xa_0000 && bios.0 + bios.1 == high.0);
        assert_eq!(high.0 + high.1, tables.0);
        assert_eq!(tables.0 + tables.1, 2 << 30);
    }
}
