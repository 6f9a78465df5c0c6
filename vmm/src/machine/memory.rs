//! The guest's memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::{FromRangesError, MmapRegion, MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
};

use crate::config::MemoryConfig;
use crate::kvm::layout::{
    ABOVE_4G, ACPI, DEVICE_GAP, HIGH_RAM, LOW_RAM_END, PCI_ECAM, PCI_ECAM_LEN,
};
use crate::sys::core_dump;
use crate::sys::guest_ram::{GuestMapping, GuestRam, GuestRamRegion, WrittenPages};
use crate::sys::memory_file::{self, HUGE_PAGE, PageSize};

/// The reason why the guest cannot have its memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The limit of file sizes (`RLIMIT_FSIZE`), and a device whose process maps the memory.
    #[error(
        "--memory: the limit of file sizes (ulimit -f) is below {mib} MiB, and memory that virtiofsd, passt or another process maps is a file; raise the limit, or start without --fs, --net user and other devices of a socket"
    )]
    FileLimit {
        /// The requested size in MiB.
        mib: u64,
    },
    /// The host makes no file of this size.
    #[error("--memory: the host cannot provide {mib} MiB; use a smaller size")]
    File {
        /// The requested size in MiB.
        mib: u64,
        /// The host's error.
        source: io::Error,
    },
    /// The host cannot map it.
    #[error("--memory: the host cannot map {mib} MiB; use a smaller size")]
    Map {
        /// The requested size in MiB.
        mib: u64,
        /// The host's error.
        source: FromRangesError,
    },
    /// The pool of huge pages is too small.
    #[error(
        "--memory: hugepages=on: the host has too few free huge pages for {mib} MiB; write {pages} or more to /proc/sys/vm/nr_hugepages, or use hugepages=off"
    )]
    HugePages {
        /// The requested size in MiB.
        mib: u64,
        /// How many pages of 2 MiB these are.
        pages: u64,
        /// The host's error.
        source: io::Error,
    },
    /// The host has less memory, and is to provide all of it now.
    #[error(
        "--memory: prefault=on: {mib} MiB are more than the host's {host_mib} MiB of memory and swap; use a smaller size, or prefault=off"
    )]
    Prefault {
        /// The requested size in MiB.
        mib: u64,
        /// The host's memory and swap in MiB.
        host_mib: u64,
    },
    /// The host did not provide all of it.
    #[error(
        "--memory: prefault=on: the host cannot provide {mib} MiB now; use a smaller size, or prefault=off"
    )]
    Populate {
        /// The requested size in MiB.
        mib: u64,
        /// The host's error.
        source: io::Error,
    },
}

/// The kind of a range of the memory map, with the numbers of "INT 15h E820".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    /// Usable RAM.
    Ram = 1,
    /// Not usable: our ACPI tables and reset entry, PCI's configuration space.
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

    /// Maps it, lazily backed by the host unless `config` says otherwise. `shared`: other
    /// processes map it too, so it is one memory file.
    ///
    /// # Errors
    /// If the host gives no such file or mapping.
    pub fn allocate(self, config: MemoryConfig, shared: bool) -> Result<GuestRam, MemoryError> {
        let size = self.low + self.high;
        let mib = size >> 20;
        check_against_host(config)?;
        // The pool of huge pages is one of files as well.
        let file = (shared || config.hugepages)
            .then(|| memory_file(config, size).map(Arc::new))
            .transpose()?;
        let map_error = |source| MemoryError::Map { mib, source };
        let mut regions = Vec::new();
        for (start, offset, len) in [(0, 0, self.low), (ABOVE_4G, self.low, self.high)] {
            if len == 0 {
                continue;
            }
            // Huge pages are reserved here: a pool that is too small would end the VMM
            // at the guest's first use of a page.
            let reserve = if config.hugepages {
                0
            } else {
                libc::MAP_NORESERVE
            };
            let bytes = usize::try_from(len).unwrap_or(usize::MAX);
            let builder = || {
                let builder =
                    MmapRegionBuilder::new_with_bitmap(bytes, WrittenPages::with_len(bytes))
                        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                        .with_hugetlbfs(config.hugepages);
                match &file {
                    Some(file) => builder
                        .with_mmap_flags(libc::MAP_SHARED | reserve)
                        .with_file_offset(FileOffset::from_arc(Arc::clone(file), offset)),
                    None => {
                        builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | reserve)
                    }
                }
            };
            let region = match builder().build() {
                Ok(region) if file.is_some() => aligned(region, || builder().build()),
                Ok(region) => region,
                Err(MmapRegionError::Mmap(source)) if config.hugepages => {
                    return Err(no_huge_pages(size, source));
                }
                Err(error) => return Err(map_error(error.into())),
            };
            let region = GuestRamRegion::new(region, GuestAddress(start));
            regions.push(region.ok_or_else(|| map_error(FromRangesError::InvalidGuestRegion))?);
        }
        let memory = GuestRam::from_regions(regions).map_err(|e| map_error(e.into()))?;
        for region in memory.iter() {
            let len = usize::try_from(region.len()).unwrap_or_default();
            if let Err(error) = memory_file::prefer_huge_pages(region.as_ptr(), len) {
                log::debug!("guest memory has no huge pages: {error}");
            }
        }
        made_ready(memory, config)
    }

    /// Maps it from the file of a snapshot: what the guest writes stays its own.
    ///
    /// # Errors
    /// If the host gives no such mapping.
    pub fn map_saved(self, config: MemoryConfig, file: File) -> Result<GuestRam, MemoryError> {
        let mib = (self.low + self.high) >> 20;
        if config.hugepages {
            log::warn!("--memory: hugepages=on: the memory of a snapshot has normal pages");
        }
        let map_error = |source| MemoryError::Map { mib, source };
        let file = Arc::new(file);
        let mut regions = Vec::new();
        for (start, offset, len) in [(0, 0, self.low), (ABOVE_4G, self.low, self.high)] {
            if len == 0 {
                continue;
            }
            let bytes = usize::try_from(len).unwrap_or(usize::MAX);
            let region = MmapRegionBuilder::new_with_bitmap(bytes, WrittenPages::with_len(bytes))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .with_file_offset(FileOffset::from_arc(Arc::clone(&file), offset))
                .build()
                .map_err(|error| map_error(error.into()))?;
            let region = GuestRamRegion::new(region, GuestAddress(start));
            regions.push(region.ok_or_else(|| map_error(FromRangesError::InvalidGuestRegion))?);
        }
        let memory = GuestRam::from_regions(regions).map_err(|e| map_error(e.into()))?;
        made_ready(memory, config)
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
        // Linux believes the table of PCI's configuration space only if no RAM can be there.
        map.push(range(
            PCI_ECAM,
            PCI_ECAM + PCI_ECAM_LEN,
            RangeKind::Reserved,
        ));
        if self.high > 0 {
            map.push(range(ABOVE_4G, ABOVE_4G + self.high, RangeKind::Ram));
        }
        map
    }
}

/// Memory that is no part of core dumps, and is there if it is to be.
fn made_ready(memory: GuestRam, config: MemoryConfig) -> Result<GuestRam, MemoryError> {
    for region in memory.iter() {
        // A guest's secrets have no place in a core dump of the VMM.
        let len = usize::try_from(region.len()).unwrap_or_default();
        if let Err(error) = core_dump::leave_out(region.as_ptr(), len) {
            log::warn!("guest memory will be part of core dumps: {error}");
        }
        if config.prefault {
            let mib = config.size >> 20;
            memory_file::populate(region.as_ptr(), len)
                .map_err(|source| MemoryError::Populate { mib, source })?;
        }
    }
    Ok(memory)
}

/// The mapping again, at an address where the host can back it with huge pages; or the first
/// one, if there is no such address. Linux aligns mappings of nothing, and places a mapping of
/// a file right below the last one: so mappings of nothing go before it.
fn aligned<E>(first: GuestMapping, again: impl Fn() -> Result<GuestMapping, E>) -> GuestMapping {
    let is_aligned = |region: &GuestMapping| region.as_ptr().addr().is_multiple_of(HUGE_PAGE);
    if is_aligned(&first) || first.size() < HUGE_PAGE {
        return first;
    }
    // As large as the other, so that they take no smaller gap elsewhere.
    let size = first.size().next_multiple_of(HUGE_PAGE);
    let nothing = |more| {
        MmapRegionBuilder::<()>::new(size + more)
            .with_mmap_prot(libc::PROT_NONE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
    };
    let below = |region: &MmapRegion| region.as_ptr().addr().wrapping_sub(first.size()) % HUGE_PAGE;
    let Ok(above) = nothing(0) else {
        return first;
    };
    // Linux before 6.7 aligns nothing.
    let _second = match below(&above) {
        0 => None,
        astray => nothing(astray).ok(),
    };
    again().ok().filter(is_aligned).unwrap_or(first)
}

/// Has the host provide huge pages for memory that the guest uses in any case, where it is a
/// file of normal pages. One by one, each page of 4 KiB costs an exit of the guest. The host's
/// kernel may be too old (before 6.1), or have no huge page: the guest's use then provides
/// normal ones.
pub fn provide(memory: &GuestRam, addresses: &Range<u64>) {
    for region in memory.iter() {
        if region.file_offset().is_none() || region.is_hugetlbfs() == Some(true) {
            continue;
        }
        let first = region.start_addr().0;
        let start = addresses.start.saturating_sub(first) / HUGE_PAGE as u64 * HUGE_PAGE as u64;
        let end = addresses.end.saturating_sub(first);
        let end = end.next_multiple_of(HUGE_PAGE as u64).min(region.len());
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or_default();
        let Ok(at) = region.get_host_address(MemoryRegionAddress(start)) else {
            continue;
        };
        if let Err(error) = memory_file::collapse(at, len) {
            log::debug!("the kernel's memory has no huge pages: {error}");
        }
    }
}

/// The file that is the guest's memory.
fn memory_file(config: MemoryConfig, size: u64) -> Result<File, MemoryError> {
    let pages = if config.hugepages {
        PageSize::Huge2M
    } else {
        PageSize::Normal
    };
    let mib = size >> 20;
    memory_file::create(c"guest-memory", size, pages).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::EFBIG) => MemoryError::FileLimit { mib },
            _ if config.hugepages => no_huge_pages(size, source),
            _ => MemoryError::File { mib, source },
        }
    })
}

fn no_huge_pages(size: u64, source: io::Error) -> MemoryError {
    MemoryError::HugePages {
        mib: size >> 20,
        pages: size >> 21,
        source,
    }
}

/// A size beyond the host's memory and swap is an error if the host is to provide it
/// all, and worth a warning otherwise.
fn check_against_host(config: MemoryConfig) -> Result<(), MemoryError> {
    let Some(host) = host_memory() else {
        return Ok(());
    };
    let (mib, host_mib) = (config.size >> 20, host >> 20);
    if config.size <= host {
        return Ok(());
    }
    if config.prefault {
        return Err(MemoryError::Prefault { mib, host_mib });
    }
    log::warn!(
        "--memory: {mib} MiB are more than the host's {host_mib} MiB of memory and swap: if the guest uses them, the host ends the VM"
    );
    Ok(())
}

/// The host's memory and swap in bytes, if it tells.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    Some((kib("MemTotal:")? + kib("SwapTotal:")?) << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: MemoryConfig = MemoryConfig {
        size: 0,
        hugepages: false,
        prefault: false,
    };

    /// A backend maps the file that it gets at these offsets.
    #[test]
    fn every_region_is_a_part_of_one_shared_file() {
        let layout = RamLayout::of((3 << 30) + (1 << 20));
        let memory = layout.allocate(PLAIN, true).unwrap();
        let files: Vec<_> = memory.iter().map(|r| r.file_offset().unwrap()).collect();
        assert_eq!(files.len(), 2);
        assert!(std::ptr::eq(files[0].file(), files[1].file()));
        assert_eq!((files[0].start(), files[1].start()), (0, 3 << 30));
        assert!(memory.iter().all(|r| r.flags() & libc::MAP_SHARED != 0));
        let len = files[0].file().metadata().unwrap().len();
        assert_eq!(len, (3 << 30) + (1 << 20));
    }

    /// The host gives huge pages unasked to such memory alone, without which a guest's boot
    /// takes half as many instructions more.
    #[test]
    fn memory_that_nobody_else_maps_is_no_file() {
        let memory = RamLayout::of(8 << 20).allocate(PLAIN, false).unwrap();
        let region = memory.iter().next().unwrap();
        assert!(region.file_offset().is_none());
        assert_ne!(region.flags() & libc::MAP_PRIVATE, 0);
    }

    #[test]
    fn more_than_the_host_has_is_not_provided_at_once() {
        let host = host_memory().unwrap();
        let config = MemoryConfig {
            size: host + (1 << 20),
            prefault: true,
            ..PLAIN
        };
        let error = check_against_host(config).unwrap_err().to_string();
        assert!(
            error.contains("prefault=on") && error.contains("host's"),
            "{error}"
        );
        let lazily = MemoryConfig {
            prefault: false,
            ..config
        };
        check_against_host(lazily).unwrap();
    }

    /// What `/proc/self/smaps` tells of a mapping: "Rss:" is what is there of it.
    fn tells(memory: &GuestRam, of: &str) -> String {
        let start = format!("\n{:x}-", memory.iter().next().unwrap().as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let entry = maps.split_once(&start).unwrap().1;
        let rss = entry.lines().find_map(|line| line.strip_prefix(of));
        rss.unwrap().trim().into()
    }

    #[test]
    fn prefault_provides_every_page() {
        for (prefault, kib) in [(false, "0 kB"), (true, "8192 kB")] {
            let config = MemoryConfig { prefault, ..PLAIN };
            let memory = RamLayout::of(8 << 20).allocate(config, true).unwrap();
            assert_eq!(tells(&memory, "Rss:"), kib);
        }
    }

    /// Memory that starts at a huge page. Linux maps below what was mapped last, so what is
    /// not aligned is kept, and a filler below it; another thread's mapping may come between.
    fn aligned(allocate: impl Fn() -> GuestRam, start: impl Fn(&GuestRam) -> usize) -> GuestRam {
        const TRIES: u32 = 20;
        let mut kept = Vec::new();
        for _ in 0..TRIES {
            let memory = allocate();
            let beyond = start(&memory) % HUGE_PAGE;
            if beyond == 0 {
                return memory;
            }
            let filler = RamLayout::of(beyond as u64).allocate(PLAIN, true).unwrap();
            kept.push([memory, filler]);
        }
        panic!("no mapping is aligned");
    }

    /// DESIGN.md, "When is the guest's memory a file?": what the kernel uses has huge pages,
    /// and the rest is provided as it is used.
    #[test]
    fn what_the_kernel_uses_has_huge_pages_in_a_file() {
        let allocate = |shared| RamLayout::of(8 << 20).allocate(PLAIN, shared).unwrap();
        let start = |memory: &GuestRam| memory.iter().next().unwrap().as_ptr();
        let memory = aligned(|| allocate(true), |memory| start(memory).addr());
        if let Err(error) = memory_file::collapse(start(&memory), HUGE_PAGE) {
            println!("skipped: the host makes no huge pages of a file: {error}");
            return;
        }
        assert_eq!(tells(&memory, "ShmemPmdMapped:"), "2048 kB");
        provide(&memory, &(1 << 20..3 << 20));
        assert_eq!(tells(&memory, "ShmemPmdMapped:"), "4096 kB");
        provide(&memory, &(1 << 40..2 << 40));
        assert_eq!(tells(&memory, "Rss:"), "4096 kB");
        let memory = allocate(false);
        provide(&memory, &(1 << 20..3 << 20));
        assert_eq!(tells(&memory, "Rss:"), "0 kB");
    }

    /// The flags of the mapping are in `/proc/self/smaps`: "dd" is "do not dump".
    #[test]
    fn guest_memory_is_in_no_core_dump() {
        let memory = RamLayout::of((3 << 30) + (1 << 20))
            .allocate(PLAIN, false)
            .unwrap();
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
