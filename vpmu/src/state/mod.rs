//! The saved state of a vCPU's PMU, as bytes.
//!
//! ```text
//!  0  magic "vpmustat"     16  checksum, CRC-32 of all other bytes
//!  8  version, u32         20  body: model, rules, registers, interrupt,
//! 12  length of the body       totals, turn, events
//! ```
//! Numbers are little-endian and have no padding between them.
//!
//! **Versions.** A release writes the newest version that it knows, and reads
//! that and every earlier one, for ever: each has its golden files in
//! `tests/data/state`. A state of a later version is refused by its number. The
//! first 20 bytes stay as they are in all versions. Whatever changes the body, a
//! register that a model gains among it, is a new version.
//!
//! **What is no part of it.** Host events and what was found of the host's
//! counters are made anew. A PMI that the owner has taken and not delivered is
//! the owner's to save, as are LVTPC and the guest's CPUID.

mod body;
pub(crate) mod crc;
mod error;
#[cfg(test)]
mod tests;
mod wire;

use alloc::vec::Vec;

pub(crate) use body::{Saved, SavedEvent, SavedRules};
pub use error::RestoreError;

use wire::{Reader, Writer};

/// The version that this release writes, and the last that it reads.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"vpmustat";
const CHECKSUM_AT: usize = 16;
const BODY_AT: usize = 20;

/// The bytes of a state.
pub(crate) fn encode(saved: &Saved) -> Vec<u8> {
    let mut body = Writer::default();
    saved.write(&mut body);
    let body = body.into_bytes();
    let mut bytes = Vec::with_capacity(BODY_AT + body.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let checksum = crc::of(&[&bytes, &body]);
    bytes.extend(checksum.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// The state that the bytes hold.
///
/// # Errors
/// [`RestoreError`] if they hold none that this release reads.
pub(crate) fn decode(bytes: &[u8]) -> Result<Saved, RestoreError> {
    let short = RestoreError::Truncated {
        have: bytes.len(),
        need: BODY_AT,
    };
    if !bytes.starts_with(&MAGIC) {
        let begins = bytes.is_empty() || MAGIC.starts_with(bytes);
        return Err(if begins { short } else { RestoreError::Foreign });
    }
    let Some((header, body)) = bytes.split_at_checked(BODY_AT) else {
        return Err(short);
    };
    let word = |at: usize| {
        let word = header.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    };
    let version = word(8);
    if version != VERSION {
        return Err(RestoreError::Version { found: version });
    }
    let need = usize::try_from(word(12)).unwrap_or(usize::MAX);
    if body.len() < need {
        return Err(RestoreError::Truncated {
            have: bytes.len(),
            need: need.saturating_add(BODY_AT),
        });
    }
    if body.len() > need {
        return Err(RestoreError::Tail {
            extra: body.len() - need,
        });
    }
    let covered = header.get(..CHECKSUM_AT).unwrap_or_default();
    if crc::of(&[covered, body]) != word(CHECKSUM_AT) {
        return Err(RestoreError::Corrupted);
    }
    let mut reader = Reader::new(body);
    let saved = Saved::read(&mut reader)?;
    reader.end()?;
    Ok(saved)
}
