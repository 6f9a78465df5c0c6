//! The memory of a VM in the file of a snapshot: one region behind the other, and where it
//! is zero the file has a hole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::sys::guest_ram::{GuestRam, GuestRamRegion, PAGE};

/// The bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// How many pages it has.
pub(super) fn pages_of(memory: &GuestRam) -> u64 {
    let bytes: u64 = memory.iter().map(GuestMemoryRegion::len).sum();
    bytes / PAGE as u64
}

/// A piece of memory: its region, where it begins there and in the file, and its length.
struct Piece<'a> {
    region: &'a GuestRamRegion,
    at: MemoryRegionAddress,
    offset: u64,
    len: usize,
}

/// The memory of some pages, in pieces that are not too long.
fn pieces<'a>(memory: &'a GuestRam, pages: &[Range<u64>]) -> impl Iterator<Item = Piece<'a>> {
    let mut regions = Vec::new();
    let mut base = 0;
    for region in memory.iter() {
        regions.push((base, region));
        base += region.len();
    }
    pages.iter().cloned().flat_map(move |pages| {
        let (start, end) = (pages.start * PAGE as u64, pages.end * PAGE as u64);
        regions.clone().into_iter().flat_map(move |(base, region)| {
            let (first, end) = (start.max(base), end.min(base + region.len()));
            (first..end).step_by(PIECE).map(move |offset| Piece {
                region,
                at: MemoryRegionAddress(offset - base),
                offset,
                len: usize::try_from(end - offset).map_or(PIECE, |left| left.min(PIECE)),
            })
        })
    })
}

/// Writes pages of the memory to their places in a file, which is new.
pub(super) fn write_pages(memory: &GuestRam, pages: &[Range<u64>], file: &File) -> io::Result<()> {
    each_piece(memory, pages, |first, bytes| {
        write_non_zero(file, bytes, first * PAGE as u64)
    })?;
    file.set_len(pages_of(memory) * PAGE as u64)
}

/// Reads pages of a file to their places in the memory.
pub(super) fn read_pages(memory: &GuestRam, pages: &[Range<u64>], file: &File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    for piece in pieces(memory, pages) {
        let bytes = &mut buffer[..piece.len];
        file.read_exact_at(bytes, piece.offset)?;
        let written = piece.region.write_slice(bytes, piece.at);
        written.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Gives the pages of some ranges to `to`, in pieces: the number of the first, and bytes.
pub(super) fn each_piece<E: From<io::Error>>(
    memory: &GuestRam,
    pages: &[Range<u64>],
    mut to: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; PIECE];
    for piece in pieces(memory, pages) {
        let bytes = &mut buffer[..piece.len];
        let read = piece.region.read_slice(bytes, piece.at);
        read.map_err(io::Error::other)?;
        to(piece.offset / PAGE as u64, bytes)?;
    }
    Ok(())
}

/// Writes bytes to the memory from a page on.
pub(super) fn put(memory: &GuestRam, first: u64, bytes: &[u8]) -> io::Result<()> {
    let pages = first..first + (bytes.len() / PAGE) as u64;
    for piece in pieces(memory, std::slice::from_ref(&pages)) {
        let start = usize::try_from(piece.offset - first * PAGE as u64).unwrap_or(usize::MAX);
        let part = bytes.get(start..).and_then(|rest| rest.get(..piece.len));
        let written = piece.region.write_slice(part.unwrap_or_default(), piece.at);
        written.map_err(io::Error::other)?;
    }
    Ok(())
}

/// Clears pages of the memory. One that is zero already is not touched: it may have no page
/// of the host.
pub(super) fn clear(memory: &GuestRam, pages: &Range<u64>) -> io::Result<()> {
    let (mut buffer, zeros) = (vec![0; PIECE], vec![0; PIECE]);
    for piece in pieces(memory, std::slice::from_ref(pages)) {
        let bytes = &mut buffer[..piece.len];
        let read = piece.region.read_slice(bytes, piece.at);
        read.map_err(io::Error::other)?;
        if !bytes.iter().all(|byte| *byte == 0) {
            let written = piece.region.write_slice(&zeros[..piece.len], piece.at);
            written.map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Writes the pages that are not zero, neighbours at once.
fn write_non_zero(file: &File, piece: &[u8], at: u64) -> io::Result<()> {
    let mut start = None;
    for (number, bytes) in piece.chunks(PAGE).enumerate() {
        let offset = number * PAGE;
        match (is_zero(bytes), start) {
            (false, None) => start = Some(offset),
            (true, Some(first)) => {
                file.write_all_at(&piece[first..offset], at + first as u64)?;
                start = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
    match start {
        Some(first) => file.write_all_at(&piece[first..], at + first as u64),
        None => Ok(()),
    }
}

/// Whether a page, or less, is zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; PAGE] = [0; PAGE];
    ZEROS.starts_with(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::sys::scratch::Scratch;

    fn new_file(dir: &Path) -> File {
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        options.open(dir.join("m")).unwrap()
    }

    #[test]
    fn memory_is_written_in_its_order_and_zeros_are_holes() {
        let Scratch(dir) = &Scratch::new("write-memory");
        let file = new_file(dir);
        let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 2 << 20)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let places = [
            (0, 0usize),
            (4095, 4095),
            (0x8_0000, 0x8_0000),
            (4 << 30, 1 << 20),
        ];
        let last = ((4u64 << 30) + (2 << 20) - 1, (3 << 20) - 1);
        for (address, _) in places.into_iter().chain([last]) {
            memory.write_obj(0x5au8, GuestAddress(address)).unwrap();
        }
        let all = 0..pages_of(&memory);
        write_pages(&memory, std::slice::from_ref(&all), &file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 3 << 20);
        assert!(metadata.blocks() * 512 < 64 << 10, "{}", metadata.blocks());
        let mut all = vec![0; 3 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        let set: Vec<_> = (0..all.len()).filter(|&at| all[at] != 0).collect();
        let expected = places.into_iter().chain([last]).map(|(_, at)| at);
        assert_eq!(set, expected.collect::<Vec<_>>());
    }

    /// Of two ranges of 1 MiB, the second at 4 GiB.
    fn address_of(page: u64) -> u64 {
        if page < 256 {
            page << 12
        } else {
            (4 << 30) + ((page - 256) << 12)
        }
    }

    /// Snapshots, DESIGN.md: what a base has on a page that was written since is not seen.
    #[test]
    fn pages_of_zeros_are_read_like_others_and_other_pages_stay() {
        let Scratch(dir) = &Scratch::new("read-memory");
        let file = new_file(dir);
        let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 1 << 20)];
        let memory = || GuestRam::from_ranges(&ranges).unwrap();
        let (later, base) = (memory(), memory());
        for page in 0..512u64 {
            let at = address_of(page);
            base.write_obj(1u8, GuestAddress(at)).unwrap();
            later
                .write_obj(u8::from(page % 2 == 0) * 2, GuestAddress(at))
                .unwrap();
        }
        let pages = [3..5, 255..258, 511..512];
        write_pages(&later, &pages, &file).unwrap();
        read_pages(&base, &pages, &file).unwrap();
        for page in 0..512u64 {
            let at = address_of(page);
            let is: u8 = base.read_obj(GuestAddress(at)).unwrap();
            let written = pages.iter().any(|range| range.contains(&page));
            let expected = if written {
                u8::from(page % 2 == 0) * 2
            } else {
                1
            };
            assert_eq!(is, expected, "page {page}");
        }
    }
}
