//! Reads and writes between a disk of the host and the guest's memory, without a copy.
#![expect(
    unsafe_code,
    reason = "preadv, pwritev and fallocate on guest memory have no safe binding"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::guest_ram::GuestRam;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

/// The most pieces that one call takes (`IOV_MAX`).
const MAX_PIECES: usize = 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write,
}

/// Room for the pieces of one transfer, for use again.
#[derive(Debug, Default)]
pub struct Pieces(Vec<libc::iovec>);

// SAFETY: the pointers are only there during `transfer`; between calls it is empty.
unsafe impl Send for Pieces {}

/// Moves all bytes of `buffers`, from or to `offset` of the file on.
///
/// # Errors
/// What `preadv` or `pwritev` says; `UnexpectedEof` behind the end of the file; `EFAULT`
/// if a buffer is not in the guest's memory.
pub fn transfer(
    file: &File,
    way: Transfer,
    memory: &GuestRam,
    buffers: impl Iterator<Item = (GuestAddress, u32)> + Clone,
    offset: u64,
    pieces: &mut Pieces,
) -> io::Result<()> {
    let Pieces(pieces) = pieces;
    let access = match way {
        Transfer::Read => Permissions::Write,
        Transfer::Write => Permissions::Read,
    };
    let outside = |_| io::Error::from_raw_os_error(libc::EFAULT);
    pieces.clear();
    for (address, len) in buffers.clone() {
        let slices = memory.get_slices(address, len as usize, access);
        for slice in slices.map_err(outside)? {
            let slice = slice.map_err(outside)?;
            pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    let result = move_all(file, way, pieces, offset);
    pieces.clear();
    // Behind the last byte: whoever takes the notes sees either them or the bytes.
    if way == Transfer::Read {
        for (address, len) in buffers {
            note_written(memory, address, len);
        }
    }
    result
}

/// Notes a range that the host wrote by a pointer.
fn note_written(memory: &GuestRam, address: GuestAddress, len: u32) {
    let slices = memory.get_slices(address, len as usize, Permissions::Write);
    for slice in slices.into_iter().flatten().flatten() {
        slice.bitmap().mark_dirty(0, slice.len());
    }
}

fn move_all(
    file: &File,
    way: Transfer,
    pieces: &mut [libc::iovec],
    mut offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    while let Some(left) = pieces.get_mut(done..).filter(|left| !left.is_empty()) {
        let moved = match move_some(file, way, left, offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset = offset.saturating_add(moved as u64);
        done += advance(left, moved);
    }
    Ok(())
}

/// Takes `moved` bytes off the front; returns how many pieces are done.
fn advance(pieces: &mut [libc::iovec], mut moved: usize) -> usize {
    let mut done = 0;
    for piece in pieces {
        if moved < piece.iov_len {
            piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(moved).cast();
            piece.iov_len -= moved;
            break;
        }
        moved -= piece.iov_len;
        done += 1;
    }
    done
}

fn move_some(file: &File, way: Transfer, pieces: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let pieces = pieces.get(..MAX_PIECES).unwrap_or(pieces);
    let (fd, start) = (file.as_raw_fd(), pieces.as_ptr());
    // At most MAX_PIECES.
    let count = i32::try_from(pieces.len()).unwrap_or_default();
    let offset = libc::off_t::try_from(offset);
    let offset = offset.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let result = match way {
        // SAFETY: each piece is a slice of the guest's memory, which stays mapped as long
        // as `transfer` borrows it. The guest changes it at any time, and nobody holds a
        // reference into it.
        Transfer::Read => unsafe { libc::preadv(fd, start, count, offset) },
        // SAFETY: as above.
        Transfer::Write => unsafe { libc::pwritev(fd, start, count, offset) },
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What becomes of a range that the guest does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clear {
    /// It reads as zeros, and the host has its space back.
    Punch,
    /// It reads as zeros, and keeps its space.
    Zero,
}

/// Clears a range of a file or block device (fallocate(2)).
///
/// # Errors
/// What `fallocate` says; `EOPNOTSUPP` where the file system cannot.
pub fn clear(file: &File, how: Clear, offset: u64, len: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let offset = libc::off_t::try_from(offset).map_err(invalid)?;
    let len = libc::off_t::try_from(len).map_err(invalid)?;
    let mode = match how {
        Clear::Punch => libc::FALLOC_FL_PUNCH_HOLE,
        Clear::Zero => libc::FALLOC_FL_ZERO_RANGE,
    };
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open, and the call takes numbers.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;
    use crate::sys::guest_ram::WrittenPages;
    use crate::sys::scratch::Scratch;

    /// Two regions side by side, as below and above a border of RAM.
    fn memory() -> GuestRam {
        let (low, high) = (GuestAddress(0), GuestAddress(0x2000));
        GuestRam::from_ranges(&[(low, 0x2000), (high, 0x2000)]).unwrap()
    }

    #[test]
    fn bytes_move_through_many_pieces_and_across_regions() {
        let scratch = Scratch::new("disk-io");
        let path = scratch.0.join("disk");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let memory = memory();
        let bytes: Vec<u8> = (0..4096_u32).map(|i| (i % 251) as u8).collect();
        memory.write_slice(&bytes, GuestAddress(0x1800)).unwrap();
        let mut pieces = Pieces::default();
        let small = (0..2048_u64).map(|i| (GuestAddress(0x1800 + 2 * i), 2));
        transfer(&file, Transfer::Write, &memory, small, 1024, &mut pieces).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[1024..5120], bytes);
        let whole = [(GuestAddress(0x1000), 4096)].into_iter();
        transfer(&file, Transfer::Read, &memory, whole, 1024, &mut pieces).unwrap();
        let mut back = vec![0; 4096];
        memory.read_slice(&mut back, GuestAddress(0x1000)).unwrap();
        assert_eq!(back, bytes);
    }

    /// The host writes by pointers, of which nobody knows but us.
    #[test]
    fn what_was_read_from_the_disk_is_noted_as_written() {
        let scratch = Scratch::new("disk-io-noted");
        let path = scratch.0.join("disk");
        std::fs::write(&path, vec![1; 8192]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let (file, memory, mut pieces) = (file.unwrap(), memory(), Pieces::default());
        let notes = || memory.iter().map(|region| (**region).bitmap());
        notes().for_each(WrittenPages::start);
        let mut pages = |way, address, len| {
            let buffers = [(GuestAddress(address), len)].into_iter();
            transfer(&file, way, &memory, buffers, 0, &mut pieces).unwrap();
            notes().map(|notes| notes.take()[0]).collect::<Vec<_>>()
        };
        assert_eq!(pages(Transfer::Read, 0x1ffe, 4), [2, 1]);
        assert_eq!(pages(Transfer::Write, 0, 0x4000), [0, 0]);
        assert_eq!(pages(Transfer::Read, 0x1000, 0x1000), [2, 0]);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let scratch = Scratch::new("disk-io-end");
        let path = scratch.0.join("disk");
        std::fs::write(&path, vec![1; 512]).unwrap();
        let file = File::open(&path).unwrap();
        let mut pieces = Pieces::default();
        let mut read = |address, offset| {
            let buffers = [(GuestAddress(address), 1024)].into_iter();
            transfer(
                &file,
                Transfer::Read,
                &memory(),
                buffers,
                offset,
                &mut pieces,
            )
        };
        let end = read(0, 0).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        let outside = read(0x3f00, 0).unwrap_err();
        assert_eq!(outside.raw_os_error(), Some(libc::EFAULT));
        assert!(read(0, u64::MAX).is_err());
    }

    #[test]
    fn a_cleared_range_reads_as_zeros() {
        let scratch = Scratch::new("disk-io-clear");
        let path = scratch.0.join("disk");
        for how in [Clear::Punch, Clear::Zero] {
            std::fs::write(&path, vec![1; 8192]).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            match clear(&file, how, 512, 4096) {
                Ok(()) => {}
                // A file system of the host may not have it.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP)),
            }
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len(), 8192);
            assert!(bytes[..512].iter().all(|&byte| byte == 1));
        }
    }
}
