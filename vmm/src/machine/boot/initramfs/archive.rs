//! Archives of the cpio format "newc", walked from header to header; of packed
//! archives only the magic number is read, and the unpacked size where they tell it.

use std::io::{self, BufRead, SeekFrom};

use super::packed;

/// Why a file is no archive.
#[derive(Debug)]
pub(super) enum ArchiveFault {
    /// The host refused a read.
    Io(io::Error),
    /// Something else is at this byte.
    NotAnArchive(u64),
    /// Its end is missing.
    Truncated,
}

impl From<io::Error> for ArchiveFault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::Truncated
        } else {
            Self::Io(error)
        }
    }
}

/// A newc header: magic and thirteen numbers of eight hexadecimal digits.
const HEADER_LEN: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!\0";
/// The longest name that Linux takes.
const MAX_NAME: u64 = 4096;
/// The unit in which a file of the guest's root file system takes memory, in bytes.
const PAGE: u64 = 4096;
/// What a name in it takes besides: an inode and a directory entry, in bytes.
const NAME: u64 = 1024;

/// Follows archives one after the other to the end of the file. Returns the bytes
/// that the files inside will take in the guest's root file system.
pub(super) fn walk<F: BufRead + io::Seek>(file: &mut F, size: u64) -> Result<u64, ArchiveFault> {
    let (mut at, mut unpacked) = (0, 0u64);
    loop {
        at = skip_padding(file, at, size)?;
        if at == size {
            // Padding alone, from the start, is no archive.
            return Ok(unpacked);
        }
        let mut magic = [0u8; 6];
        let have = usize::try_from(size - at).unwrap_or(6).min(6);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(magic.get_mut(..have).unwrap_or_default())?;
        if let Some(format) = packed::Format::of(&magic) {
            // Its length is known only to who unpacks it: it is the last.
            let told = format.unpacked_size(file, at..size)?;
            return Ok(unpacked.saturating_add(told.unwrap_or(size - at)));
        }
        if magic != *b"070701" && magic != *b"070702" {
            return Err(if have < 6 && b"070701".starts_with(&magic[..have]) {
                ArchiveFault::Truncated
            } else {
                ArchiveFault::NotAnArchive(at)
            });
        }
        at = walk_newc(file, at, size, &mut unpacked)?;
    }
}

/// Skips zero bytes between archives; there are none before the first.
fn skip_padding<F: BufRead + io::Seek>(
    file: &mut F,
    from: u64,
    size: u64,
) -> Result<u64, ArchiveFault> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = from;
    if at == 0 {
        return Ok(at);
    }
    file.seek(SeekFrom::Start(at))?;
    while at < size {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            return Err(ArchiveFault::Truncated);
        }
        let piece = piece.get(..ZEROS.len()).unwrap_or(piece);
        // Whole pieces by one comparison: padding may be a gigabyte.
        let zeros = if ZEROS.starts_with(piece) {
            piece.len()
        } else {
            piece.iter().take_while(|byte| **byte == 0).count()
        };
        let other = zeros < piece.len();
        file.consume(zeros);
        at += zeros as u64;
        if other {
            break;
        }
    }
    Ok(at)
}

/// Follows one newc archive to the end of its trailer, and adds up what is inside.
fn walk_newc<F: BufRead + io::Seek>(
    file: &mut F,
    from: u64,
    size: u64,
    unpacked: &mut u64,
) -> Result<u64, ArchiveFault> {
    let mut at = from;
    loop {
        let mut header = [0u8; HEADER_LEN];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        if !header.starts_with(b"07070") {
            return Err(ArchiveFault::NotAnArchive(at));
        }
        let broken = ArchiveFault::NotAnArchive(at);
        let (Some(file_len), Some(name_len)) = (hex(&header, 6), hex(&header, 11)) else {
            return Err(broken);
        };
        if name_len == 0 || name_len > MAX_NAME {
            return Err(broken);
        }
        let mut name = vec![0u8; usize::try_from(name_len).unwrap_or(0)];
        file.read_exact(&mut name)?;
        let data = (at + HEADER_LEN as u64 + name_len).next_multiple_of(4);
        if name == TRAILER {
            return Ok(data.min(size));
        }
        *unpacked += file_len.next_multiple_of(PAGE) + NAME;
        at = (data + file_len).next_multiple_of(4);
        if at > size.next_multiple_of(4) {
            return Err(ArchiveFault::Truncated);
        }
    }
}

/// The `index`th number of a newc header.
fn hex(header: &[u8; HEADER_LEN], index: usize) -> Option<u64> {
    let start = 6 + index * 8;
    let text = std::str::from_utf8(header.get(start..start + 8)?).ok()?;
    u32::from_str_radix(text, 16).ok().map(u64::from)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"070701".to_vec();
        for number in [
            1,
            0o100_644,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ] {
            bytes.extend(format!("{number:08x}").bytes());
        }
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn archive() -> Vec<u8> {
        let mut bytes = member("init", b"#!/bin/sh\n");
        bytes.extend(member("etc", b""));
        bytes.extend(member("TRAILER!!!", b""));
        bytes
    }

    fn look(bytes: &[u8]) -> Result<u64, ArchiveFault> {
        walk(&mut Cursor::new(bytes), bytes.len() as u64)
    }

    #[test]
    fn whole_archives_are_taken() {
        let mut bytes = archive();
        assert!(look(&bytes).is_ok());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        assert!(look(&bytes).is_ok());
        bytes.extend(archive());
        assert!(look(&bytes).is_ok());
        bytes.extend(b"\x1f\x8b packed, whatever it holds");
        assert!(look(&bytes).is_ok());
    }

    /// Two files of one page each and three names, then a packed one that does not tell.
    #[test]
    fn the_unpacked_size_is_that_of_the_files() {
        let mut bytes = archive();
        bytes.extend(member("lib", &[1; 4096]));
        bytes.extend(member("TRAILER!!!", b""));
        // Behind the trailer of the first comes the second.
        assert_eq!(look(&bytes).unwrap(), 2 * 4096 + 3 * 1024);
        let packed = b"BZh of unknown size";
        bytes.extend(packed);
        let known = 2 * 4096 + 3 * 1024;
        assert_eq!(look(&bytes).unwrap(), known + packed.len() as u64);
    }

    /// It took 32 s when each byte was one read.
    #[test]
    fn a_gigabyte_of_padding_is_read_in_pieces() {
        let whole = archive();
        let size = 1u64 << 30;
        let mut file = std::io::BufReader::new(Padded {
            start: whole,
            size,
            at: 0,
            reads: 0,
        });
        assert!(walk(&mut file, size).is_ok());
        let reads = file.into_inner().reads;
        assert!(reads < 1 << 18, "{reads} reads");
    }

    /// Bytes, then zeros up to a size.
    struct Padded {
        start: Vec<u8>,
        size: u64,
        at: u64,
        reads: u64,
    }

    impl std::io::Read for Padded {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            let at = usize::try_from(self.at).unwrap();
            let left = usize::try_from(self.size).unwrap() - at;
            let len = buffer.len().min(left);
            buffer[..len].fill(0);
            if let Some(bytes) = self.start.get(at..) {
                let some = bytes.len().min(len);
                buffer[..some].copy_from_slice(&bytes[..some]);
            }
            self.at += len as u64;
            Ok(len)
        }
    }

    impl io::Seek for Padded {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            if let SeekFrom::Start(at) = to {
                self.at = at;
            }
            Ok(self.at)
        }
    }

    #[test]
    fn every_shorter_archive_is_refused() {
        let whole = archive();
        let name_end = whole.len() - whole.len() % 4 - 3;
        for len in 1..name_end {
            let result = look(&whole[..len]);
            assert!(
                matches!(result, Err(ArchiveFault::Truncated)),
                "{len}: {result:?}"
            );
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(
            look(b"hello there"),
            Err(ArchiveFault::NotAnArchive(0))
        ));
        let mut bytes = archive();
        bytes.extend(b"tail");
        assert!(matches!(look(&bytes), Err(ArchiveFault::NotAnArchive(_))));
        assert!(matches!(
            look(&[0; 512]),
            Err(ArchiveFault::NotAnArchive(0))
        ));
    }
}
