//! Page tables of a payload that needs its data not executable.
#![expect(unsafe_code, reason = "page tables and CR3")]

use core::arch::asm;

use crate::cpu;

const EFER: u32 = 0xc000_0080;
const EFER_NXE: u64 = 1 << 11;
const PRESENT_WRITABLE: u64 = 0b11;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// The 2 MiB page that holds the code, see payload.ld.
const CODE_PAGE: usize = 1;

/// One page of table entries.
#[repr(C, align(4096))]
struct Table([u64; 512]);

static mut LEVEL4: Table = Table([0; 512]);
static mut LEVEL3: Table = Table([0; 512]);
static mut LEVEL2: Table = Table([0; 512]);
static mut LEVEL1: Table = Table([0; 512]);

/// Maps the first 1 GiB one to one, in pages of 2 MiB of which only that of the
/// code may be executed, and nothing else. False if there is no EFER.NXE.
/// The local APIC's page is gone afterwards.
pub fn data_not_executable() -> bool {
    map(PRESENT_WRITABLE)
}

/// The same, of pages that ring 3 may use as well.
pub fn open_to_ring_3() -> bool {
    map(PRESENT_WRITABLE | USER)
}

/// A page of data that is executable in the midst of data that is not: such as what a
/// kernel makes of a program's filter.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Island([u8; 4096]);

impl Island {
    /// A page with these bytes at its begin.
    #[must_use]
    pub const fn new<const LEN: usize>(bytes: [u8; LEN]) -> Self {
        let mut page = [0xcc; 4096];
        let mut at = 0;
        while at < LEN {
            page[at] = bytes[at];
            at += 1;
        }
        Self(page)
    }

    /// The bytes at its begin, as they are now.
    #[must_use]
    pub fn bytes<const LEN: usize>(&self) -> [u8; LEN] {
        let first = (&raw const self.0).cast::<[u8; LEN]>();
        // SAFETY: a valid static; volatile, because the VMM may change it.
        unsafe { first.read_volatile() }
    }

    /// Makes it executable. Needs [`data_not_executable`] before. False if it does not lie
    /// in the 2 MiB of the data.
    #[must_use]
    pub fn raise(&self) -> bool {
        let at = (&raw const self.0).addr();
        let (large, small) = (at >> 21, at >> 12 & 0x1ff);
        let level1 = (&raw mut LEVEL1).cast::<u64>();
        for page in 0..512 {
            let no_execute = if page == small { 0 } else { NO_EXECUTE };
            let entry = (large as u64) << 21 | (page as u64) << 12 | PRESENT_WRITABLE | no_execute;
            // SAFETY: a table has 512 entries; it is not in use yet.
            unsafe { level1.wrapping_add(page).write(entry) };
        }
        let level2 = (&raw mut LEVEL2).cast::<u64>();
        // SAFETY: one entry of a table that only this vCPU uses; the new table maps the
        // same memory to the same addresses.
        unsafe {
            level2
                .wrapping_add(large)
                .write(level1.addr() as u64 | PRESENT_WRITABLE);
        }
        let level4 = (&raw mut LEVEL4).cast::<u64>();
        // SAFETY: the tables that are in use, loaded again.
        unsafe { asm!("mov cr3, {}", in(reg) level4, options(nostack, preserves_flags)) };
        large == CODE_PAGE + 1
    }
}

fn map(rights: u64) -> bool {
    if cpu::wrmsr_checked(EFER, cpu::rdmsr(EFER) | EFER_NXE).is_err() {
        return false;
    }
    let level2 = (&raw mut LEVEL2).cast::<u64>();
    for page in 0..512 {
        let no_execute = if page == CODE_PAGE { 0 } else { NO_EXECUTE };
        let entry = (page as u64) << 21 | LARGE | rights | no_execute;
        // SAFETY: a table has 512 entries, and no one else uses it: one vCPU, not in CR3 yet.
        unsafe { level2.wrapping_add(page).write(entry) };
    }
    let level3 = (&raw mut LEVEL3).cast::<u64>();
    // SAFETY: the first entry of a table that is not in use yet.
    unsafe { level3.write(level2.addr() as u64 | rights) };
    let level4 = (&raw mut LEVEL4).cast::<u64>();
    // SAFETY: as above.
    unsafe { level4.write(level3.addr() as u64 | rights) };
    // SAFETY: the new tables map code, data and stacks where they are.
    unsafe { asm!("mov cr3, {}", in(reg) level4, options(nostack, preserves_flags)) };
    true
}
