//! The saved state of a vCPU's PMU, as bytes.
//!
//! ```text
//!  0  magic "vpmustat"     16  checksum, CRC-32 of all other bytes
//!  8  version, u32         20  body: model, rules, registers, interrupt,
//! 12  length of the body       totals, turn, events
//! ```
//! Numbers are little-endian and have no padding between them; a flag is a byte, 0
//! or 1. The body is, in this order:
//!
//! | | |
//! |---|---|
//! | model | vendor u8 (1 Intel, 2 AMD), version u8, width u8, metrics flag, events u8, counters u64, shown counters u64 |
//! | rules | policy u8 (0 flexible, 1 pinned), vendor of event codes u8 (0: none), their CPU's signature u32, its type u8 (0 none, 1 core, 2 atom), checksum of the filter u32 |
//! | registers | how many u8; of each: index u32, value u64 |
//! | interrupt | wraps that a PMI tells of u64, armed flag, PMI flag |
//! | totals | twelve u64 of [`Totals`](crate::Totals): the first six in its order, then `scaled_reads`, `pinned_errors`, `starved`, `rotations`, `host_revocations`, `estimated` |
//! | turn | flag, nanoseconds that are left of it u64 |
//! | samples of levels | flag, user mode's share of 65536 u32, dice u32, nanoseconds to the next u64 |
//! | events | how many u8; of each, in the order of turns: slot of its counter u8, state u8 (0 off, 1 on, 2 in error), kind u8 (0 architectural, 1 raw, 2 standard), event u64, levels u8 (1 user, 2 kernel), count u64, nanoseconds enabled u64, running u64, what of the estimate was handed on u64, starved flag |
//!
//! Sets of counters have a bit for each, fixed ones from bit 32 on; slots are
//! general-purpose counters, then fixed ones from 8 on. What a flag says is not
//! there is 0. A test has every number in its place.
//!
//! **Versions.** A release writes the newest version that it knows, and reads
//! that and every earlier one, for ever: each has its golden files in
//! `tests/data/state`. A state of a later version is refused by its number. The
//! first 20 bytes stay as they are in all versions. Whatever changes the body, a
//! register that a model gains among it, is a new version; only before the first
//! release that writes a version may it change in place.
//!
//! **What is no part of it.** Host events and what was found of the host's
//! counters are made anew. The owner saves what it holds: a PMI that it has taken
//! and not delivered, LVTPC, the guest's CPUID, and the DEBUGCTL of AMD guests,
//! which stays with KVM.

mod body;
mod error;
mod event;
#[cfg(test)]
mod tests;
mod wire;

use alloc::vec::Vec;

use crate::crc;
use crate::guest::Identity;

pub(crate) use body::{Saved, SavedRules};
pub use error::RestoreError;
pub(crate) use event::{Carried, SavedEvent};

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

/// Whose state the bytes are: the model that [`VcpuPmu::restore`] takes them
/// with has this identity.
///
/// # Errors
/// [`RestoreError`] if they hold no state that this release reads.
///
/// [`VcpuPmu::restore`]: crate::VcpuPmu::restore
pub fn identity(bytes: &[u8]) -> Result<Identity, RestoreError> {
    decode(bytes).map(|saved| saved.model)
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
