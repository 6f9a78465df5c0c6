//! The bytes of a disk, behind one trait for each format; here the raw one.

use std::fmt::Debug;
use std::fs::File;
use std::io;

use super::super::queue::{Chain, GuestBuffer, total};
use crate::sys::disk_io::{self, Clear, Pieces, Transfer};
use crate::sys::guest_ram::GuestRam;

/// Zeros that are written where the host cannot clear a range.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The content of a disk. Offsets and lengths are bytes, within the disk, and multiples
/// of its block size.
pub(super) trait DiskImage: Send + Debug {
    /// Its size.
    fn size(&self) -> u64;

    /// The smallest unit of a transfer: a power of two, at least 512.
    fn block_size(&self) -> u32;

    /// Moves all bytes of `buffers`, from or to `offset` on.
    fn transfer(
        &mut self,
        way: Transfer,
        memory: &GuestRam,
        buffers: &[GuestBuffer],
        offset: u64,
    ) -> io::Result<()>;

    /// Makes all that was written last.
    fn flush(&mut self) -> io::Result<()>;

    /// Gives space back that the guest does not need; what is read there is not defined.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes a range read as zeros; with `punch`, it may give its space back.
    fn write_zeroes(&mut self, offset: u64, len: u64, punch: bool) -> io::Result<()>;
}

/// A file or block device whose bytes are the disk.
#[derive(Debug)]
pub(super) struct RawImage {
    file: File,
    size: u64,
    block_size: u32,
    /// Whether the host's page cache is passed by: buffers and lengths are then multiples
    /// of the block size.
    direct: bool,
    pieces: Pieces,
}

impl RawImage {
    pub(super) fn new(file: File, size: u64, block_size: u32, direct: bool) -> Self {
        Self {
            file,
            size,
            block_size,
            direct,
            pieces: Pieces::default(),
        }
    }

    fn is_aligned(&self, buffers: &[GuestBuffer]) -> bool {
        let mask = u64::from(self.block_size) - 1;
        let odd = |buffer: &GuestBuffer| (buffer.address.0 | u64::from(buffer.len)) & mask != 0;
        !buffers.iter().any(odd)
    }
}

impl DiskImage for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn transfer(
        &mut self,
        way: Transfer,
        memory: &GuestRam,
        buffers: &[GuestBuffer],
        offset: u64,
    ) -> io::Result<()> {
        if self.direct && !self.is_aligned(buffers) {
            return self.transfer_by_copy(way, memory, buffers, offset);
        }
        let buffers = buffers.iter().map(|buffer| (buffer.address, buffer.len));
        disk_io::transfer(&self.file, way, memory, buffers, offset, &mut self.pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        match disk_io::clear(&self.file, Clear::Punch, offset, len) {
            // Advice, which a host without holes need not follow.
            Err(error) if is_unsupported(&error) => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, punch: bool) -> io::Result<()> {
        let how = if punch { Clear::Punch } else { Clear::Zero };
        match disk_io::clear(&self.file, how, offset, len) {
            Err(error) if is_unsupported(&error) => self.write_all_zeroes(offset, len),
            other => other,
        }
    }
}

impl RawImage {
    fn write_all_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let aligned = Aligned::new(ZEROS.len());
        while len > 0 {
            let part = usize::try_from(len).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            let zeros = aligned.bytes().get(..part).unwrap_or(&ZEROS);
            self.file.write_all_at(zeros, offset)?;
            offset += part as u64;
            len -= part as u64;
        }
        Ok(())
    }

    /// By a buffer of the host that is aligned, for a guest whose buffers are not.
    fn transfer_by_copy(
        &self,
        way: Transfer,
        memory: &GuestRam,
        buffers: &[GuestBuffer],
        mut offset: u64,
    ) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let outside = |_| io::Error::from_raw_os_error(libc::EFAULT);
        let mut aligned = Aligned::new(ZEROS.len());
        let (mut done, all) = (0, total(buffers));
        while done < all {
            let part = usize::try_from(all - done).map_or(ZEROS.len(), |len| len.min(ZEROS.len()));
            let bytes = aligned.bytes_mut().get_mut(..part).unwrap_or_default();
            match way {
                Transfer::Read => {
                    self.file.read_exact_at(bytes, offset)?;
                    Chain::copy_to(buffers, memory, done, bytes).map_err(outside)?;
                }
                Transfer::Write => {
                    Chain::copy_from(buffers, memory, done, bytes).map_err(outside)?;
                    self.file.write_all_at(bytes, offset)?;
                }
            }
            done += part as u64;
            offset += part as u64;
        }
        Ok(())
    }
}

/// Bytes that start at a multiple of a page.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    const PAGE: usize = 4096;

    fn new(len: usize) -> Self {
        let bytes = vec![0; len + Self::PAGE];
        let start = bytes.as_ptr().align_offset(Self::PAGE);
        Self { bytes, start, len }
    }

    fn bytes(&self) -> &[u8] {
        let range = self.start..self.start + self.len;
        self.bytes.get(range).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        self.bytes.get_mut(range).unwrap_or_default()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}
