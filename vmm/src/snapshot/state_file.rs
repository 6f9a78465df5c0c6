//! The file of a state.
//!
//! ```text
//!  0  magic "pvsnapst"          16  length of what follows, u64
//!  8  version, u32              24  how many sections, u32; of each: length of its name
//! 12  CRC-32 of what is behind      u8, name, length u32, bytes
//! ```
//! Numbers are little-endian. A release reads the versions that it knows, and refuses a
//! later one by its number; the first 24 bytes stay as they are in all versions.

use thiserror::Error;

use super::{SectionError, Sections};

/// The version that is written.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"pvsnapst";
/// The largest file that is read: 255 vCPUs have 5 MiB.
pub(super) const MOST_BYTES: u64 = 64 << 20;
pub(super) const BODY_AT: usize = 24;
const CRC_AT: usize = 12;

/// The reason why a file is no state.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StateFileError {
    /// It begins otherwise.
    #[error("it is no state of a VM")]
    Foreign,
    /// A later release wrote it.
    #[error(
        "it has version {version}, and this perfvisor reads up to {VERSION}; use the perfvisor that wrote it, or a later one"
    )]
    Version {
        /// Its version.
        version: u32,
    },
    /// It is shorter than it says.
    #[error("it is cut off: {is} bytes of {should}")]
    CutOff {
        /// Its length.
        is: u64,
        /// The length that it should have.
        should: u64,
    },
    /// Its checksum is another.
    #[error("it is damaged: its checksum is wrong")]
    Checksum,
    /// No VM has so much state.
    #[error("it is larger than {} MiB, the most that a VM has", MOST_BYTES >> 20)]
    Large,
    /// A section cannot be used.
    #[error(transparent)]
    Section(#[from] SectionError),
}

/// The file of these sections.
pub(super) fn encode(sections: &Sections) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(len_of(sections.iter().len()));
    for (name, bytes) in sections.iter() {
        // Names are ours, and short.
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        body.extend(name);
        body.extend(len_of(bytes.len()));
        body.extend(bytes);
    }
    around(&body)
}

/// The file with this body.
pub(super) fn around(body: &[u8]) -> Vec<u8> {
    let mut checked = (body.len() as u64).to_le_bytes().to_vec();
    checked.extend(body);
    let mut file = MAGIC.to_vec();
    file.extend(VERSION.to_le_bytes());
    file.extend(crc32fast::hash(&checked).to_le_bytes());
    file.append(&mut checked);
    file
}

fn len_of(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

/// The sections of a file.
pub(super) fn decode(file: &[u8]) -> Result<Sections, StateFileError> {
    let (magic, rest) = file
        .split_first_chunk::<8>()
        .ok_or(StateFileError::Foreign)?;
    if *magic != MAGIC {
        return Err(StateFileError::Foreign);
    }
    let cut_off = |should| StateFileError::CutOff {
        is: file.len() as u64,
        should,
    };
    let header = || cut_off(BODY_AT as u64);
    let (version, rest) = rest.split_first_chunk().ok_or_else(header)?;
    let version = u32::from_le_bytes(*version);
    if version == 0 || version > VERSION {
        return Err(StateFileError::Version { version });
    }
    let (crc, rest) = rest.split_first_chunk().ok_or_else(header)?;
    let (len, body) = rest.split_first_chunk().ok_or_else(header)?;
    let len = u64::from_le_bytes(*len);
    if body.len() as u64 != len {
        return Err(cut_off(len.saturating_add(BODY_AT as u64)));
    }
    let checked = file.get(CRC_AT + 4..).unwrap_or_default();
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return Err(StateFileError::Checksum);
    }
    sections(body).ok_or(StateFileError::Checksum)
}

/// The sections of a body whose checksum is right; `None` if no perfvisor wrote it.
fn sections(body: &[u8]) -> Option<Sections> {
    let mut sections = Sections::default();
    let (count, mut rest) = body.split_first_chunk()?;
    for _ in 0..u32::from_le_bytes(*count) {
        let (name_len, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(*name_len))?;
        let (len, after) = after.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (bytes, after) = after.split_at_checked(len)?;
        sections.put_bytes(std::str::from_utf8(name).ok()?, bytes.to_vec());
        rest = after;
    }
    rest.is_empty().then_some(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Sections {
        let mut sections = Sections::default();
        sections.put("a", &(1u8, 2u16)).unwrap();
        sections.put("serial", &[7u8; 300].as_slice()).unwrap();
        sections.put_bytes("empty", Vec::new());
        sections
    }

    /// What this release writes, every later one reads.
    #[test]
    fn the_form_is_this_one() {
        let mut sections = Sections::default();
        sections.put_bytes("ab", vec![9]);
        let body = [1, 0, 0, 0, 2, b'a', b'b', 1, 0, 0, 0, 9];
        let checked = [&[12, 0, 0, 0, 0, 0, 0, 0][..], &body].concat();
        let crc = crc32fast::hash(&checked).to_le_bytes();
        let file = [&b"pvsnapst\x01\0\0\0"[..], &crc, &checked].concat();
        assert_eq!(encode(&sections), file);
        assert_eq!(decode(&encode(&some())), Ok(some()));
        assert_eq!(
            decode(&encode(&Sections::default())),
            Ok(Sections::default())
        );
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_found() {
        let file = encode(&some());
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&file[..at]).is_err(), "cut at {at}");
        }
        let longer = [&file[..], &[0]].concat();
        assert!(matches!(
            decode(&longer),
            Err(StateFileError::CutOff { .. })
        ));
    }

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        let mut file = encode(&some());
        file[8] = 2;
        assert_eq!(decode(&file), Err(StateFileError::Version { version: 2 }));
        assert_eq!(decode(b"#!/bin/sh\n"), Err(StateFileError::Foreign));
        assert_eq!(decode(b""), Err(StateFileError::Foreign));
    }

    /// A checksum is no signature: lengths that do not fit are found all the same.
    #[test]
    fn lengths_beyond_the_file_are_refused_before_anything_is_allocated() {
        for body in [
            &[][..],
            &[255, 255, 255, 255],
            &[1, 0, 0, 0, 200, b'a'],
            &[1, 0, 0, 0, 1, b'a', 255, 255, 255, 255, 0],
            &[1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0],
        ] {
            let checked = [&(body.len() as u64).to_le_bytes()[..], body].concat();
            let crc = crc32fast::hash(&checked).to_le_bytes();
            let file = [&MAGIC[..], &1u32.to_le_bytes(), &crc, &checked].concat();
            assert_eq!(decode(&file), Err(StateFileError::Checksum), "{body:?}");
        }
    }
}
