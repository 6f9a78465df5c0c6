//! Numbers into bytes and back.

use alloc::vec::Vec;

use super::RestoreError;

/// Bytes that grow.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn half(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn word(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// How many follow: a state has fewer than 256 of anything.
    pub(super) fn count(&mut self, len: usize) {
        self.byte(u8::try_from(len).unwrap_or(u8::MAX));
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Bytes that are used up.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], RestoreError> {
        let (first, rest) = self
            .0
            .split_first_chunk()
            .ok_or(RestoreError::Impossible("the length of its body"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RestoreError> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn half(&mut self) -> Result<u32, RestoreError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn word(&mut self) -> Result<u64, RestoreError> {
        self.take().map(u64::from_le_bytes)
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, RestoreError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RestoreError::Impossible(what)),
        }
    }

    /// All bytes must have been used.
    pub(super) fn end(self) -> Result<(), RestoreError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RestoreError::Impossible("the length of its body"))
        }
    }
}
