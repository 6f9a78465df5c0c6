//! PCI from the driver's side: configuration space by ports and by memory, and any
//! register of a device (PCI Local Bus 3.0, "Configuration Space").
#![expect(unsafe_code, reason = "ports and registers of devices")]

use core::arch::asm;
use core::ptr;

/// Where the VMM has the configuration space of bus 0 in memory: 4 KiB a function.
pub const ECAM: u64 = 0xe000_0000;
/// Its length: one bus.
pub const ECAM_LEN: u64 = 1 << 20;
/// The port that chooses a register of a function, and the port of its value.
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// In the address: an access is one to the configuration space.
const ENABLE: u32 = 1 << 31;

/// The vendor of a function that is not there.
pub const NOBODY: u16 = 0xffff;
/// The command register.
pub const COMMAND: u16 = 0x04;
/// The first BAR.
pub const BAR: u16 = 0x10;
/// The most devices of a bus.
pub const DEVICES: u8 = 32;

/// An access of 1, 2 or 4 bytes, with the value of a write.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// One byte.
    Byte(u8),
    /// Two bytes.
    Word(u16),
    /// Four bytes.
    Long(u32),
}

/// Writes a register in memory, of a device and not of RAM.
pub fn write_mmio(address: u64, value: Access) {
    let at = usize::try_from(address).unwrap_or(0);
    match value {
        // SAFETY: the caller's address is one of a device, which no Rust object has.
        Access::Byte(value) => unsafe {
            ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(value)
        },
        // SAFETY: as above; the CPU splits what is not aligned.
        Access::Word(value) => unsafe {
            asm!("mov word ptr [{at}], {value:x}", at = in(reg) at, value = in(reg) value, options(nostack, preserves_flags));
        },
        // SAFETY: as above.
        Access::Long(value) => unsafe {
            asm!("mov dword ptr [{at}], {value:e}", at = in(reg) at, value = in(reg) value, options(nostack, preserves_flags));
        },
    }
}

/// Reads four bytes in memory, of a device and not of RAM.
#[must_use]
pub fn read_mmio(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller's address is one of a device, whose registers are no Rust object.
    unsafe {
        asm!("mov {value:e}, dword ptr [{at}]", at = in(reg) address, value = out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// Writes to the ports of the configuration space, at any of their eight bytes.
pub fn write_port(offset: u16, value: Access) {
    let port = ADDRESS_PORT + offset % 8;
    match value {
        Access::Byte(value) => crate::cpu::outb(port, value),
        // SAFETY: the ports of this machine touch no guest memory.
        Access::Word(value) => unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
        },
        Access::Long(value) => out_long(port, value),
    }
}

fn out_long(port: u16, value: u32) {
    // SAFETY: the ports of this machine touch no guest memory.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads a register by the ports.
#[must_use]
pub fn read_config(device: u8, register: u16) -> u32 {
    out_long(
        ADDRESS_PORT,
        ENABLE | u32::from(device) << 11 | u32::from(register & 0xfc),
    );
    let value: u32;
    // SAFETY: the ports of this machine touch no guest memory.
    unsafe {
        asm!("in eax, dx", in("dx") DATA_PORT, out("eax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Where a register of a device is in memory.
#[must_use]
pub const fn in_memory(device: u8, register: u16) -> u64 {
    ECAM + ((device as u64) << 15) + register as u64
}
