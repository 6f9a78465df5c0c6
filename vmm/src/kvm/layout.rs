//! The layout of guest-physical memory.
//!
//! ```text
//!  0x0000_0500  GDT, IDT              0x0002_0000  command line
//!  0x0000_6000  PVH or multiboot      0x0009_fc00  end of low RAM
//!  0x0000_7000  boot_params           0x000e_0000  ACPI tables, generation id, reset entry
//!  0x0000_8ff0  boot stack (down)     0x0010_0000  RAM: kernel … initramfs
//!  0x0000_9000  page tables           0xc000_0000  devices (up to 4 GiB)
//!                                     0x1_0000_0000 RAM again
//! ```

/// The boot GDT.
pub const GDT: u64 = 0x500;
/// The limit of the GDT: null, null, code, data, TSS.
pub const GDT_LIMIT: u16 = 5 * 8 - 1;
/// The boot IDT: one null entry.
pub const IDT: u64 = 0x560;
/// The limit of the IDT.
pub const IDT_LIMIT: u16 = 7;
/// PVH `hvm_start_info`; the EBX of a PVH kernel.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH module list.
pub const PVH_MODULES: u64 = 0x6100;
/// PVH memory map.
pub const PVH_MEMORY_MAP: u64 = 0x6200;
/// Multiboot information; the EBX of a multiboot kernel. The same pages as
/// PVH's: a kernel is one or the other.
pub const MULTIBOOT_INFO: u64 = 0x6000;
/// The loader's name.
pub const MULTIBOOT_NAME: u64 = 0x6100;
/// Multiboot memory map.
pub const MULTIBOOT_MEMORY_MAP: u64 = 0x6200;
/// Multiboot module list.
pub const MULTIBOOT_MODULES: u64 = 0x6800;
/// The end of the multiboot module list.
pub const MULTIBOOT_MODULES_END: u64 = 0x7000;
/// Linux `boot_params` (the "zero page").
pub const BOOT_PARAMS: u64 = 0x7000;
/// The stack at the first instruction.
pub const BOOT_STACK: u64 = 0x8ff0;
/// The top page table; the others follow it.
pub const PML4: u64 = 0x9000;
/// The second level.
pub const PDPT: u64 = 0xa000;
/// Four page directories: 4 GiB of 2 MiB pages.
pub const PAGE_DIRECTORIES: u64 = 0xb000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// End of the RAM below the legacy hole.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI root pointer; the tables follow it.
pub const ACPI: u64 = 0xe_0000;
/// End of the ACPI area.
pub const ACPI_END: u64 = 0xf_f000;
/// The number of the guest's life: `devices::generation`.
pub const GENERATION_ID: u64 = 0xf_f000;
/// Where a real-mode jump to FFFF:0000 lands: the firmware's reset entry.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// RAM above the legacy hole.
pub const HIGH_RAM: u64 = 0x10_0000;
/// Devices start here; RAM goes on at [`ABOVE_4G`].
pub const DEVICE_GAP: u64 = 3 << 30;
/// The rest of the RAM.
pub const ABOVE_4G: u64 = 4 << 30;
/// The registers of PCI functions, by their BARs.
pub const PCI_WINDOW: u64 = DEVICE_GAP;
/// The size of that window in bytes.
pub const PCI_WINDOW_LEN: u64 = 256 << 20;
/// PCI's configuration space (ECAM): bus 0.
pub const PCI_ECAM: u64 = 0xe000_0000;
/// The size of one bus's configuration space in bytes.
pub const PCI_ECAM_LEN: u64 = 1 << 20;
/// The registers of vCPU hot-plug.
pub const CPU_HOTPLUG: u32 = 0xfd00_0000;
/// The I/O APIC (where KVM puts it).
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page for KVM's real-mode identity map, on Intel hosts.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's real-mode TSS, on Intel hosts.
pub const TSS: usize = 0xfffb_d000;
