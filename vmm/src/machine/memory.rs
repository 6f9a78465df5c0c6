//! The guest's memory.

use vm_memory::mmap::FromRangesError;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::kvm::layout::{ABOVE_4G, ACPI, DEVICE_GAP, HIGH_RAM, LOW_RAM_END};
use crate::sys::core_dump;

/// The kind of a range of the memory map, with the numbers of "INT 15h E820".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable RAM.
    Ram = 1,
    /// Not usable: our ACPI tables and reset entry.
    Reserved = 2,
}

/// A range of the memory map that the guest is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// The address of the first byte.
    pub start: u64,
    /// The size in bytes.
    pub size: u64,
    /// The kind of the range.
    pub kind: RangeKind,
}

/// The places of the guest's RAM: below the device gap, then above 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamLayout {
    /// The number of bytes from address 0.
    pub low: u64,
    /// The number of bytes from address 4 GiB.
    pub high: u64,
}

impl RamLayout {
    /// Divides `size` bytes between the two places.
    #[must_use]
    pub fn of(size: u64) -> Self {
        let low = size.min(DEVICE_GAP);
        Self {
            low,
            high: size - low,
        }
    }

    /// Maps it, lazily backed by the host.
    ///
    /// # Errors
    /// If the host gives no such mapping.
    pub fn allocate(self) -> Result<GuestMemoryMmap, FromRangesError> {
        let len = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut ranges = vec![(GuestAddress(0), len(self.low))];
        if self.high > 0 {
            ranges.push((GuestAddress(ABOVE_4G), len(self.high)));
        }
        let memory = GuestMemoryMmap::from_ranges(&ranges)?;
        for region in memory.iter() {
            // A guest's secrets have no place in a core dump of the VMM.
            let len = usize::try_from(region.len()).unwrap_or_default();
            if let Err(error) = core_dump::leave_out(region.as_ptr(), len) {
                log::warn!("guest memory will be part of core dumps: {error}");
            }
        }
        Ok(memory)
    }

    /// The memory map for the guest.
    #[must_use]
    pub fn map(self) -> Vec<MapRange> {
        let range = |start, end, kind| MapRange {
            start,
            size: end - start,
            kind,
        };
        let mut map = vec![
            range(0, LOW_RAM_END, RangeKind::Ram),
            range(ACPI, HIGH_RAM, RangeKind::Reserved),
            range(HIGH_RAM, self.low, RangeKind::Ram),
        ];
        if self.high > 0 {
            map.push(range(ABOVE_4G, ABOVE_4G + self.high, RangeKind::Ram));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping are in `/proc/self/smaps`: "dd" is "do not dump".
    #[test]
    fn guest_memory_is_in_no_core_dump() {
        let memory = RamLayout::of((3 << 30) + (1 << 20)).allocate().unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        for region in memory.iter() {
            let start = format!("{:x}-", region.as_ptr().addr());
            let entry = maps.split_once(&format!("\n{start}")).unwrap().1;
            let flags = entry.lines().find(|line| line.starts_with("VmFlags:"));
            assert!(
                flags.unwrap().split(' ').any(|flag| flag == "dd"),
                "{start}"
            );
        }
    }

    #[test]
    fn the_gap_below_4g_stays_free() {
        let small = RamLayout::of(512 << 20);
        assert_eq!((small.low, small.high), (512 << 20, 0));
        let large = RamLayout::of(5 << 30);
        assert_eq!((large.low, large.high), (3 << 30, 2 << 30));
        let last = *large.map().last().unwrap();
        assert_eq!((last.start, last.size), (4 << 30, 2 << 30));
    }
}
