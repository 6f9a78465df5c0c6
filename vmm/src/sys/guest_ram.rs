//! The guest's memory, and which pages of it this process has written.
//!
//! KVM notes what the guest writes, and knows nothing of our own writes: of devices, of the
//! RDPMC rewriter, of the boot loader. All of them go through this type, which notes them
//! while somebody asks.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestMemoryMmap, GuestRegionMmap, VolatileSlice};

/// The bytes of a page, of the guest and of what is noted.
pub const PAGE: usize = 4096;
const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(PAGE).expect("it is not zero");

/// The guest's memory.
pub type GuestRam = GuestMemoryMmap<WrittenPages>;
/// A mapping of this process for it.
pub type GuestMapping = MmapRegion<WrittenPages>;
/// A region of it.
pub type GuestRamRegion = GuestRegionMmap<WrittenPages>;
/// A piece of it.
pub type GuestRamSlice<'a> = VolatileSlice<'a, RefSlice<'a, WrittenPages>>;

/// The pages of a region that this process has written while they were noted. Until then a
/// write costs one look at a flag, and there is no memory for the notes.
#[derive(Debug, Default)]
pub struct WrittenPages {
    bytes: usize,
    notes: AtomicBool,
    pages: OnceLock<AtomicBitmap>,
}

impl WrittenPages {
    /// Begins to note them, with none. No thread that writes runs meanwhile, or what it
    /// writes may be missing.
    pub fn start(&self) {
        self.pages().reset();
        self.notes.store(true, Ordering::SeqCst);
    }

    /// Notes no more.
    pub fn stop(&self) {
        self.notes.store(false, Ordering::SeqCst);
    }

    /// The pages since the last time, one bit for each, the first in bit 0.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        match self.pages.get() {
            Some(pages) => pages.get_and_reset(),
            None => Vec::new(),
        }
    }

    fn pages(&self) -> &AtomicBitmap {
        self.pages
            .get_or_init(|| AtomicBitmap::new(self.bytes, PAGE_SIZE))
    }
}

impl<'a> WithBitmapSlice<'a> for WrittenPages {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WrittenPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if self.notes.load(Ordering::Relaxed)
            && let Some(pages) = self.pages.get()
        {
            pages.set_addr_range(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let pages = self.pages.get();
        pages.is_some_and(|pages| pages.is_addr_set(offset))
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WrittenPages {
    fn with_len(bytes: usize) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;

    #[test]
    fn writes_are_noted_from_the_start_to_the_stop() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let region: &GuestMapping = ram.find_region(GuestAddress(0)).unwrap();
        let pages = region.bitmap();
        let write = |at| ram.write_obj(1u64, GuestAddress(at)).unwrap();
        write(0);
        assert!(pages.pages.get().is_none());
        pages.start();
        write(0x3ffc);
        write(0x4_1000);
        let taken = pages.take();
        assert_eq!((taken.len(), taken[0], taken[1]), (4, 0b11000, 2));
        assert_eq!(pages.take(), [0; 4]);
        pages.stop();
        write(0);
        assert_eq!(pages.take(), [0; 4]);
        ram.read_obj::<u64>(GuestAddress(0)).unwrap();
        pages.start();
        assert_eq!(pages.take(), [0; 4]);
    }
}
