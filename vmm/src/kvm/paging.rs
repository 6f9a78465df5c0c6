//! A walk of the guest's page tables from the host.
//!
//! `KVM_TRANSLATE` is not enough: it reports neither the no-execute bit nor the
//! page size, and it fails where SMAP forbids the kernel's data accesses.
//!
//! SDM vol. 3A, "4-Level Paging and 5-Level Paging".

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The paging mode and the page tables of a vCPU at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// CR3.
    pub cr3: u64,
    /// The number of levels of page tables: four or five.
    pub levels: u32,
}

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The guest-physical address of the page.
    pub physical: GuestAddress,
    /// Bytes: 4 KiB, 2 MiB or 1 GiB.
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

impl Paging {
    /// The page that holds `address`; `None` where none is mapped, where none can
    /// be, or where the tables lie outside memory.
    pub fn page(&self, memory: &GuestMemoryMmap, address: u64) -> Option<Page> {
        self.is_canonical(address).then_some(())?;
        let mut table = self.cr3 & ADDRESS;
        let mut executable = true;
        for level in (0..self.levels).rev() {
            let shift = PAGE_BITS + INDEX_BITS * level;
            let index = address >> shift & ((1 << INDEX_BITS) - 1);
            let entry: u64 = memory
                .read_obj(GuestAddress(table + index * ENTRY_BYTES))
                .ok()?;
            if entry & PRESENT == 0 {
                return None;
            }
            executable &= entry & NO_EXECUTE == 0;
            let is_page = level == 0 || (level <= 2 && entry & LARGE != 0);
            if is_page {
                let size = 1 << shift;
                let physical = GuestAddress(entry & ADDRESS & !(size - 1));
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

    /// Whether the bits that no table looks at are as the highest that one does.
    ///
    /// SDM vol. 1, "Canonical Addressing".
    const fn is_canonical(&self, address: u64) -> bool {
        let unused = u64::BITS - (PAGE_BITS + INDEX_BITS * self.levels);
        let upper = address.cast_signed() >> (u64::BITS - unused - 1);
        upper == 0 || upper == -1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Guest memory with page tables at 1 MiB that map what the test says.
    pub(crate) struct Guest {
        pub(crate) memory: GuestMemoryMmap,
        next_table: u64,
    }

    pub(crate) const PAGING: Paging = Paging {
        cr3: 0x10_0000,
        levels: 4,
    };

    impl Guest {
        pub(crate) fn new() -> Self {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
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
}
