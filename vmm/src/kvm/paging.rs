//! A walk of the guest's page tables from the host.
//!
//! `KVM_TRANSLATE` is not enough: it reports neither the no-execute bit nor the
//! page size, and it fails where SMAP forbids the kernel's data accesses.
//!
//! SDM vol. 3A, "32-Bit Paging", "PAE Paging", "4-Level Paging and 5-Level Paging".

use crate::sys::guest_ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

/// The paging mode and the page tables of a vCPU at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR3.
    pub cr3: u64,
    /// The number of levels of page tables: four or five in long mode; outside of it three
    /// (PAE), two (32-bit paging, with pages of 4 MiB) or none (an address is a physical one).
    pub levels: u32,
}

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The guest-physical address of the page.
    pub physical: GuestAddress,
    /// Bytes: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub size: u64,
    /// No level forbids execution.
    pub executable: bool,
}

impl Page {
    /// The guest-physical address of `address`, which must lie in this page.
    #[must_use]
    pub const fn at(&self, address: u64) -> GuestAddress {
        GuestAddress(self.physical.0 + address % self.size)
    }
}

/// Bits of a paging-structure entry.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRY_BYTES: u64 = 8;
const INDEX_BITS: u32 = 9;
const PAGE_BITS: u32 = 12;
/// Levels of 32-bit paging, whose entries have half the length.
const NARROW: u32 = 2;

impl Paging {
    /// Whether the vCPU is in long mode.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.levels >= 4
    }

    /// The page that holds `address`; `None` where none is mapped, where none can
    /// be, or where the tables lie outside memory.
    pub fn page(&self, memory: &GuestRam, address: u64) -> Option<Page> {
        self.is_possible(address).then_some(())?;
        if self.levels == 0 {
            return Some(unpaged(address));
        }
        let mut table = self.first_table();
        let mut executable = true;
        for level in (0..self.levels).rev() {
            let shift = PAGE_BITS + self.index_bits() * level;
            let index = address >> shift & ((1 << self.index_bits()) - 1);
            let entry = self.entry(memory, table, index)?;
            if entry & PRESENT == 0 {
                return None;
            }
            executable &= entry & NO_EXECUTE == 0;
            let is_page = level == 0 || (level <= self.large_levels() && entry & LARGE != 0);
            if is_page {
                let size = 1 << shift;
                let physical = GuestAddress(self.physical(level, entry) & !(size - 1));
                return Some(Page {
                    physical,
                    size,
                    executable,
                });
            }
            table = entry & ADDRESS;
        }
        None
    }

    const fn index_bits(&self) -> u32 {
        if self.levels == NARROW {
            INDEX_BITS + 1
        } else {
            INDEX_BITS
        }
    }

    /// The highest level whose entries may be pages.
    const fn large_levels(&self) -> u32 {
        if self.is_long() { 2 } else { 1 }
    }

    /// The table that CR3 names: PAE's is of 32 bytes.
    const fn first_table(&self) -> u64 {
        const OF_PAE: u64 = 0xffff_ffe0;
        if self.levels == 3 {
            self.cr3 & OF_PAE
        } else {
            self.cr3 & ADDRESS
        }
    }

    fn entry(&self, memory: &GuestRam, table: u64, index: u64) -> Option<u64> {
        if self.levels == NARROW {
            let at = GuestAddress(table + index * (ENTRY_BYTES / 2));
            return memory.read_obj::<u32>(at).ok().map(u64::from);
        }
        memory
            .read_obj(GuestAddress(table + index * ENTRY_BYTES))
            .ok()
    }

    /// The address in the entry of a page. A page of 4 MiB has the bits from 32 on in
    /// bits 13 to 20 (PSE-36).
    const fn physical(&self, level: u32, entry: u64) -> u64 {
        if self.levels == NARROW && level == 1 {
            entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
        } else {
            entry & ADDRESS
        }
    }

    /// Whether the bits that no table looks at are as they must be: in long mode as the
    /// highest that one looks at, elsewhere zero.
    ///
    /// SDM vol. 1, "Canonical Addressing".
    const fn is_possible(&self, address: u64) -> bool {
        if !self.is_long() {
            return address >> u32::BITS == 0;
        }
        let unused = u64::BITS - (PAGE_BITS + INDEX_BITS * self.levels);
        let upper = address.cast_signed() >> (u64::BITS - unused - 1);
        upper == 0 || upper == -1
    }
}

/// What stands for a page where there is no paging.
const fn unpaged(address: u64) -> Page {
    const SIZE: u64 = 2 << 20;
    Page {
        physical: GuestAddress(address & !(SIZE - 1)),
        size: SIZE,
        executable: true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Guest memory with page tables at 1 MiB that map what the test says.
    pub(crate) struct Guest {
        pub(crate) memory: GuestRam,
        next_table: u64,
    }

    pub(crate) const PAGING: Paging = Paging {
        cr3: 0x10_0000,
        levels: 4,
    };

    impl Guest {
        pub(crate) fn new() -> Self {
            let memory = GuestRam::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
            Self {
                memory,
                next_table: 0x10_1000,
            }
        }

        /// Maps a page of 2 MiB (`level` 1) or 4 KiB (0).
        pub(crate) fn map(&mut self, address: u64, physical: u64, level: u32, nx: bool) {
            let mut table = PAGING.cr3;
            for at in (level + 1..PAGING.levels).rev() {
                let slot = GuestAddress(table + (address >> (12 + 9 * at) & 0x1ff) * 8);
                let entry: u64 = self.memory.read_obj(slot).unwrap();
                table = if entry == 0 {
                    let new = self.next_table;
                    self.next_table += 0x1000;
                    self.memory.write_obj(new | PRESENT, slot).unwrap();
                    new
                } else {
                    entry & ADDRESS
                };
            }
            let slot = GuestAddress(table + (address >> (12 + 9 * level) & 0x1ff) * 8);
            let large = if level == 0 { 0 } else { LARGE };
            let nx = if nx { NO_EXECUTE } else { 0 };
            self.memory
                .write_obj(physical | PRESENT | large | nx, slot)
                .unwrap();
        }
    }

    #[test]
    fn pages_of_both_sizes_with_and_without_nx() {
        let mut guest = Guest::new();
        let text = 0xffff_ffff_8100_0000;
        guest.map(text, 0x20_0000, 1, false);
        guest.map(text + 0x20_0000, 0x40_0000, 0, true);
        let page = |address| PAGING.page(&guest.memory, address);
        assert_eq!(
            page(text + 0x1234),
            Some(Page {
                physical: GuestAddress(0x20_0000),
                size: 2 << 20,
                executable: true
            })
        );
        assert_eq!(
            page(text + 0x20_0fff),
            Some(Page {
                physical: GuestAddress(0x40_0000),
                size: 4096,
                executable: false
            })
        );
        assert_eq!(page(text + 0x20_1000), None);
    }

    #[test]
    fn an_address_that_is_not_canonical_is_no_other() {
        let mut guest = Guest::new();
        let page = |guest: &Guest, address| PAGING.page(&guest.memory, address).is_some();
        for (address, alias) in [
            (0xffff_8000_0000_0000, 0x8000_0000_0000),
            (0x7fff_ffff_f000, 0xffff_7fff_ffff_f000),
        ] {
            guest.map(address, 0x20_0000, 0, false);
            assert!(page(&guest, address) && !page(&guest, alias), "{alias:#x}");
        }
    }

    #[test]
    fn tables_outside_memory_map_nothing() {
        let guest = Guest::new();
        let paging = Paging {
            cr3: 1 << 40,
            levels: 5,
        };
        assert_eq!(paging.page(&guest.memory, 0), None);
    }

    /// Tables of 32-bit paging: a page of 4 MiB above 4 GiB, a table with one of 4 KiB.
    #[test]
    fn the_tables_of_32_bit_paging() {
        let guest = Guest::new();
        let paging = Paging {
            cr3: 0x10_0018,
            levels: 2,
        };
        let put = |at, entry: u32| guest.memory.write_obj(entry, GuestAddress(at)).unwrap();
        // The last entry; bit 13 of it is bit 32 of the address.
        put(0x10_0ffc, 0x0180_0000 | 1 << 13 | 0x80 | 1);
        put(0x10_0004, 0x10_1000 | 1);
        put(0x10_1000 + 0x3ff * 4, 0x7f_f000 | 1);
        let page = |address| paging.page(&guest.memory, address);
        let page_of = |physical, size| {
            Some(Page {
                physical: GuestAddress(physical),
                size,
                executable: true,
            })
        };
        assert_eq!(page(0xffc1_2345), page_of(0x1_0180_0000, 4 << 20));
        assert_eq!(page(0x7f_ffff), page_of(0x7f_f000, 4096));
        for address in [0x7f_efff, 0x80_0000, 0, 1 << 32, u64::MAX] {
            assert_eq!(page(address), None, "{address:#x}");
        }
    }

    /// A table of four entries that lies anywhere, of which none is a page, and NX.
    #[test]
    fn the_tables_of_pae_paging() {
        let guest = Guest::new();
        let paging = Paging {
            cr3: 0x10_0020,
            levels: 3,
        };
        let put = |at, entry: u64| guest.memory.write_obj(entry, GuestAddress(at)).unwrap();
        put(0x10_0038, 0x10_1000 | LARGE | PRESENT);
        put(0x10_1ff8, 0x40_0000 | LARGE | PRESENT | NO_EXECUTE);
        let page = |address| paging.page(&guest.memory, address);
        let last = page(0xffff_ffff).unwrap();
        assert_eq!((last.physical.0, last.size), (0x40_0000, 2 << 20));
        assert!(!last.executable);
        for address in [0, 0xffdf_ffff, 0x1_c000_0000] {
            assert_eq!(page(address), None, "{address:#x}");
        }
    }

    #[test]
    fn without_paging_an_address_is_a_physical_one() {
        let guest = Guest::new();
        let paging = Paging {
            cr3: u64::MAX,
            levels: 0,
        };
        let page = paging.page(&guest.memory, 0x32_3456).unwrap();
        assert_eq!(page.at(0x32_3456), GuestAddress(0x32_3456));
        assert!(page.executable);
        assert_eq!(paging.page(&guest.memory, 1 << 32), None);
    }
}
