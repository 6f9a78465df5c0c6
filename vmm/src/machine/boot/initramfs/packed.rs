//! Packed archives: the formats that Linux unpacks, and the unpacked size where a
//! file states it. Nothing is unpacked here.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

/// A format of packed archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    Lzma,
    Xz,
    Zstd,
    /// bzip2, lzo, lz4: their files do not state the unpacked size.
    Silent,
}

/// First bytes of the formats that Linux unpacks.
const MAGIC: [(&[u8], Format); 8] = [
    (b"\x1f\x8b", Format::Gzip),
    (b"\x1f\x9e", Format::Gzip),
    (b"BZh", Format::Silent),
    (b"\x5d\x00\x00", Format::Lzma),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"\x89LZO", Format::Silent),
    (b"\x02\x21\x4c\x18", Format::Silent),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
];

/// The most by which gzip makes anything smaller (zlib's technical details).
const GZIP_RATIO: u64 = 1032;
/// The longest index of an xz file that is read, in bytes.
const XZ_INDEX: u64 = 1 << 16;

impl Format {
    /// The format of a file that begins so.
    pub(super) fn of(magic: &[u8]) -> Option<Self> {
        let known = MAGIC.iter().find(|(first, _)| magic.starts_with(first));
        known.map(|(_, format)| *format)
    }

    /// The unpacked size in bytes of the archive that lies at `place`, if it states it
    /// and the statement is possible.
    pub(super) fn unpacked_size<F: Read + Seek>(
        self,
        file: &mut F,
        place: Range<u64>,
    ) -> io::Result<Option<u64>> {
        let packed = place.end - place.start;
        match self {
            Self::Silent => Ok(None),
            // RFC 1952: the last four bytes.
            Self::Gzip => {
                let size = from_end(file, &place, 4)?.map(|tail| little_endian(&tail));
                Ok(size.filter(|size| *size != 0 && size / GZIP_RATIO <= packed))
            }
            // Properties, the size of the dictionary, and the size or all ones.
            Self::Lzma => {
                let head = from_start(file, &place, 13)?;
                let size = head.get(5..13).map(little_endian);
                Ok(size.filter(|size| *size != u64::MAX))
            }
            Self::Zstd => Ok(zstd_size(&from_start(file, &place, 18)?)),
            Self::Xz => xz_size(file, &place),
        }
    }
}

/// RFC 8878, "Frame Header": the content's size, behind a window and a dictionary that
/// may be absent.
fn zstd_size(head: &[u8]) -> Option<u64> {
    let descriptor = head.get(4)?;
    let single_segment = descriptor >> 5 & 1 != 0;
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let (len, base) = match descriptor >> 6 {
        0 if !single_segment => return None,
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let at = 5 + window + dictionary;
    head.get(at..at + len)
        .map(|size| little_endian(size) + base)
}

/// The .xz file format, "Stream Footer" and "Index": the sum of all blocks.
fn xz_size<F: Read + Seek>(file: &mut F, place: &Range<u64>) -> io::Result<Option<u64>> {
    const FOOTER: u64 = 12;
    let Some(footer) = from_end(file, place, FOOTER)? else {
        return Ok(None);
    };
    let stored = footer.get(4..8).map_or(0, little_endian);
    let len = (stored + 1) * 4;
    if !footer.ends_with(b"YZ") || len > XZ_INDEX || len + FOOTER > place.end - place.start {
        return Ok(None);
    }
    let index = place.start..place.end - FOOTER;
    let index = from_end(file, &index, len)?;
    Ok(index.and_then(|index| xz_blocks(&index)))
}

fn xz_blocks(index: &[u8]) -> Option<u64> {
    let mut numbers = index.strip_prefix(&[0])?.iter().copied();
    let mut next = || xz_number(&mut numbers);
    let mut size = 0u64;
    for _ in 0..next()? {
        let _packed = next()?;
        size = size.checked_add(next()?)?;
    }
    Some(size)
}

/// Seven bits in each byte, the lowest first; the highest bit says that more follow.
fn xz_number(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = bytes.next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The first bytes of `place`, up to `len`.
fn from_start<F: Read + Seek>(file: &mut F, place: &Range<u64>, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(place.start))?;
    let len = len.min(place.end - place.start);
    file.by_ref().take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last `len` bytes of `place`.
fn from_end<F: Read + Seek>(
    file: &mut F,
    place: &Range<u64>,
    len: u64,
) -> io::Result<Option<Vec<u8>>> {
    match place.end.checked_sub(len) {
        Some(start) if start >= place.start => from_start(file, &(start..place.end), len).map(Some),
        _ => Ok(None),
    }
}

/// A little-endian number of up to eight bytes.
fn little_endian(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn size_of(bytes: &[u8]) -> Option<u64> {
        let format = Format::of(bytes).unwrap();
        let mut behind_another = vec![0; 512];
        behind_another.extend(bytes);
        let place = 512..behind_another.len() as u64;
        format
            .unpacked_size(&mut Cursor::new(behind_another), place)
            .unwrap()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        hex.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    /// 100,000 zeros, packed by the tools of Debian 12 with their default settings;
    /// the middle of gzip's and lzma's is left out.
    #[test]
    fn the_size_is_where_the_tools_write_it() {
        let gzip = bytes("1f8b0800000000000203edc1 000000 0d37037d9511d4a0860100");
        // The ratio is that of the whole file.
        let mut whole = gzip[..12].to_vec();
        whole.resize(110, 0);
        whole.extend(&gzip[12..]);
        assert_eq!(size_of(&whole), Some(100_000));
        assert_eq!(size_of(&gzip), None, "more than gzip can pack");
        let xz = "fd377a585a000004e6d6b4460200210116000000742fe5a3e1869f00535d00006ffdffffa3b7ff47 \
            3e481572396151b89228e6a38607f9eee41e82d32fc53a3c014bb17ec98a8a4d2fa30dd97fa6e38c \
            231153e05918c5758ae277f8b6947f0c6ac0de744964e2e95c53b204d6b1f597000000008fc694a2 \
            18e370f100016fa08d06000090e46e51b1c467fb020000000004595a";
        assert_eq!(size_of(&bytes(xz)), Some(100_000));
        let lzma = "5d00008000 a086010000000000 006ffdffffa3b7ff47";
        assert_eq!(size_of(&bytes(lzma)), Some(100_000));
        let unknown = "5d00008000 ffffffffffffffff 006ffdffffa3b7ff47";
        assert_eq!(size_of(&bytes(unknown)), None);
        let zstd = "28b52ffda4a086010055000010000001009b8639c002db234ef3";
        assert_eq!(size_of(&bytes(zstd)), Some(100_000));
        let piped = "28b52ffd045855000010000001009b8639c002db234ef3";
        assert_eq!(size_of(&bytes(piped)), None);
        let short = "28b52ffd642c004d00001000000100272ac00290ea003a";
        assert_eq!(size_of(&bytes(short)), Some(300));
        assert_eq!(size_of(b"BZh91AY of any size"), None);
    }

    #[test]
    fn what_is_cut_off_states_nothing() {
        for (magic, format) in MAGIC {
            for more in 0..24 {
                let mut short = magic.to_vec();
                short.resize(magic.len() + more, 0xff);
                let place = 0..short.len() as u64;
                assert!(format.unpacked_size(&mut Cursor::new(short), place).is_ok());
            }
        }
    }
}
