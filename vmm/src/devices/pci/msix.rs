//! MSI-X: a table of messages in the function's memory, and which of them may be sent
//! (PCI 3.0, "MSI-X Capability and Table Structures").
//!
//! A vector is an eventfd. While the guest lets it be sent, KVM listens to that event
//! and sends the message; otherwise nobody listens and the event counts: the count is
//! the pending bit.

use std::fmt::Debug;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::kvm::{KvmError, MsiLine, MsiMessage};
use crate::rate_limit::RateLimit;

/// The most vectors that one function has.
pub const MAX_VECTORS: usize = 256;
/// The length of a vector's table entry, in bytes.
pub const VECTOR_LEN: usize = 16;

/// Bits of the message control register.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// The bit of a vector's control word.
const MASK: u32 = 1;

/// The way from an event to the vCPUs, which can be cut.
pub trait InterruptLine: Send + Debug {
    /// A write to it interrupts. It does not block.
    fn event(&self) -> &EventFd;

    /// Has each write to the event send `message`.
    ///
    /// # Errors
    /// What the host says. The line is then as before.
    fn connect(&mut self, message: MsiMessage) -> Result<(), KvmError>;

    /// Has writes to the event count, and send nothing.
    ///
    /// # Errors
    /// What the host says.
    fn disconnect(&mut self) -> Result<(), KvmError>;
}

impl InterruptLine for MsiLine {
    fn event(&self) -> &EventFd {
        MsiLine::event(self)
    }

    fn connect(&mut self, message: MsiMessage) -> Result<(), KvmError> {
        MsiLine::connect(self, message)
    }

    fn disconnect(&mut self) -> Result<(), KvmError> {
        MsiLine::disconnect(self)
    }
}

/// A vector as a snapshot has it: its entry of the table, and whether it is pending.
type SavedVector = ([u8; VECTOR_LEN], bool);

/// The vectors of a function as a snapshot has them.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedMsix {
    control: u16,
    vectors: Vec<SavedVector>,
}

#[derive(Debug)]
struct Vector {
    line: Box<dyn InterruptLine>,
    entry: [u8; VECTOR_LEN],
    /// The message that is sent now, if one may be.
    sends: Option<MsiMessage>,
}

impl Vector {
    fn message(&self) -> MsiMessage {
        let [a, b, c, d, e, f, g, h, data @ ..] = self.entry;
        let [i, j, k, l, ..] = data;
        MsiMessage {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            data: u32::from_le_bytes([i, j, k, l]),
        }
    }

    fn is_masked(&self) -> bool {
        let [.., a, b, c, d] = self.entry;
        u32::from_le_bytes([a, b, c, d]) & MASK != 0
    }

    /// Lets it be sent, or not.
    fn settle(&mut self, may_send: bool) -> Result<(), KvmError> {
        let wanted = (may_send && !self.is_masked()).then(|| self.message());
        match wanted {
            _ if wanted == self.sends => Ok(()),
            None => {
                self.line.disconnect()?;
                self.sends = None;
                Ok(())
            }
            Some(message) => {
                // What came while nobody listened: KVM would send it and keep the count.
                let is_pending = self.sends.is_none() && self.line.event().read().is_ok();
                let connected = self.line.connect(message);
                if connected.is_ok() {
                    self.sends = wanted;
                }
                if is_pending {
                    // Cannot fail: the count was not full when it was read.
                    drop(self.line.event().write(1));
                }
                connected
            }
        }
    }

    /// Whether an interrupt waits until it may be sent.
    fn is_pending(&self) -> bool {
        if self.sends.is_some() {
            return false;
        }
        let event = self.line.event();
        let is_pending = event.read().is_ok();
        if is_pending {
            drop(event.write(1));
        }
        is_pending
    }
}

/// The vectors of a function.
#[derive(Debug)]
pub struct Msix {
    vectors: Vec<Vector>,
    control: u16,
    faults: RateLimit,
}

impl Msix {
    /// A vector for each line: masked, and not enabled. At most [`MAX_VECTORS`].
    #[must_use]
    pub fn new(lines: Vec<Box<dyn InterruptLine>>) -> Self {
        let mut entry = [0; VECTOR_LEN];
        // Masked.
        entry[12] = 1;
        let vector = |line| Vector {
            line,
            entry,
            sends: None,
        };
        Self {
            vectors: lines.into_iter().map(vector).collect(),
            control: 0,
            faults: RateLimit::new(),
        }
    }

    /// How many vectors.
    #[must_use]
    pub fn len(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The event of a vector, if there is such a vector.
    #[must_use]
    pub fn event(&self, vector: u16) -> Option<&EventFd> {
        let vector = self.vectors.get(usize::from(vector))?;
        Some(vector.line.event())
    }

    /// Takes what the guest wrote to the message control register.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & (ENABLE | FUNCTION_MASK);
        for number in 0..self.vectors.len() {
            self.settle(number);
        }
    }

    /// Fills `data` from the table; zeroes beyond its end.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in positions(offset, data.len()).zip(data) {
            let vector = self.vectors.get(at / VECTOR_LEN);
            *byte = vector.map_or(0, |vector| vector.entry[at % VECTOR_LEN]);
        }
    }

    /// Takes what the guest wrote to the table.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let bytes = positions(offset, data.len());
        for (at, byte) in bytes.clone().zip(data) {
            if let Some(vector) = self.vectors.get_mut(at / VECTOR_LEN) {
                vector.entry[at % VECTOR_LEN] = *byte;
            }
        }
        for number in bytes.start / VECTOR_LEN..bytes.end.div_ceil(VECTOR_LEN) {
            self.settle(number);
        }
    }

    /// Fills `data` from the pending bits; zeroes beyond their end.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in positions(offset, data.len()).zip(data) {
            let first = at.saturating_mul(8);
            let vectors = self.vectors.iter().skip(first).take(8).enumerate();
            let bits = vectors.map(|(bit, vector)| u8::from(vector.is_pending()) << bit);
            *byte = bits.fold(0, |all, bit| all | bit);
        }
    }

    /// Forgets the interrupts that wait. The function has been reset.
    pub fn forget_pending(&self) {
        for vector in self.vectors.iter().filter(|vector| vector.sends.is_none()) {
            // Empty is as good.
            drop(vector.line.event().read());
        }
    }

    /// What a snapshot has of them.
    #[must_use]
    pub fn saved(&self) -> SavedMsix {
        let vectors = self.vectors.iter();
        SavedMsix {
            control: self.control,
            vectors: { vectors }
                .map(|vector| (vector.entry, vector.is_pending()))
                .collect(),
        }
    }

    /// Takes that back, when the guest has its interrupt controllers. Returns whether it is
    /// of as many vectors; if not, nothing has changed.
    pub fn restore(&mut self, saved: &SavedMsix) -> bool {
        if saved.vectors.len() != self.vectors.len() {
            return false;
        }
        for (vector, (entry, is_pending)) in self.vectors.iter_mut().zip(&saved.vectors) {
            vector.entry = *entry;
            if *is_pending {
                // Full means that an interrupt waits.
                drop(vector.line.event().write(1));
            }
        }
        self.set_control(saved.control);
        true
    }

    fn settle(&mut self, number: usize) {
        let may_send = self.control & (ENABLE | FUNCTION_MASK) == ENABLE;
        let Some(vector) = self.vectors.get_mut(number) else {
            return;
        };
        if let Err(error) = vector.settle(may_send)
            && let Some(swallowed) = self.faults.allow()
        {
            log::warn!("MSI-X vector {number} does not interrupt: {error}{swallowed}");
        }
    }
}

/// The positions of an access's bytes; behind every table if `offset` is.
fn positions(offset: u64, len: usize) -> Range<usize> {
    let from = usize::try_from(offset.min(1 << 16)).unwrap_or(1 << 16);
    from..from + len
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::testing::FakeLine;
    use super::*;

    fn msix(count: usize) -> (Msix, Vec<Arc<Mutex<Option<MsiMessage>>>>) {
        let lines: Vec<_> = (0..count).map(|_| FakeLine::new().unwrap()).collect();
        let messages = lines.iter().map(|line| Arc::clone(&line.message)).collect();
        let lines = lines.into_iter().map(|line| Box::new(line) as _).collect();
        (Msix::new(lines), messages)
    }

    fn set_vector(msix: &mut Msix, number: u64, data: u32, mask: u32) {
        let at = number * 16;
        msix.write_table(at, &0xfee0_0000u64.to_le_bytes());
        msix.write_table(at + 8, &data.to_le_bytes());
        msix.write_table(at + 12, &mask.to_le_bytes());
    }

    fn pending(msix: &Msix) -> u8 {
        let mut bits = [0xff; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits[1..], [0; 7]);
        bits[0]
    }

    #[test]
    fn a_vector_is_sent_only_if_nothing_masks_it() {
        let (mut msix, lines) = msix(2);
        let sent = |n: usize| lines[n].lock().unwrap().map(|message| message.data);
        set_vector(&mut msix, 1, 0x31, 0);
        assert_eq!(sent(1), None, "MSI-X is off");
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert_eq!(sent(1), None, "all are masked");
        msix.set_control(ENABLE);
        assert_eq!((sent(0), sent(1)), (None, Some(0x31)));
        set_vector(&mut msix, 1, 0x32, 0);
        assert_eq!(sent(1), Some(0x32), "a message that changes");
        set_vector(&mut msix, 1, 0x33, 1);
        assert_eq!(sent(1), None);
        msix.set_control(0);
        set_vector(&mut msix, 1, 0x34, 0);
        assert_eq!(sent(1), None);
    }

    #[test]
    fn what_comes_while_it_is_masked_is_pending_and_sent_once() {
        let (mut msix, _lines) = msix(3);
        msix.set_control(ENABLE);
        set_vector(&mut msix, 2, 0x31, 1);
        let event = msix.event(2).unwrap().try_clone().unwrap();
        assert_eq!(pending(&msix), 0);
        event.write(1).unwrap();
        event.write(1).unwrap();
        assert_eq!(pending(&msix), 0b100);
        assert_eq!(pending(&msix), 0b100, "a look changes nothing");
        set_vector(&mut msix, 2, 0x31, 0);
        assert_eq!(pending(&msix), 0, "KVM has it now");
        assert_eq!(event.read().unwrap(), 1);
        set_vector(&mut msix, 2, 0x31, 1);
        assert_eq!(pending(&msix), 0);
        event.write(1).unwrap();
        msix.forget_pending();
        assert_eq!(pending(&msix), 0);
    }

    #[test]
    fn a_snapshot_has_the_table_and_what_is_pending() {
        let (mut msix, _lines) = msix(2);
        msix.set_control(ENABLE);
        set_vector(&mut msix, 0, 0x30, 0);
        set_vector(&mut msix, 1, 0x31, 1);
        msix.event(1).unwrap().write(1).unwrap();
        let bytes = postcard::to_allocvec(&msix.saved()).unwrap();
        let saved: SavedMsix = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(pending(&msix), 0b10, "the look changes nothing");
        let (mut other, lines) = self::msix(2);
        assert!(other.restore(&saved));
        assert_eq!(lines[0].lock().unwrap().unwrap().data, 0x30);
        assert_eq!(*lines[1].lock().unwrap(), None);
        assert_eq!(pending(&other), 0b10);
        let (mut more, _lines) = self::msix(3);
        assert!(!more.restore(&saved), "of another number of vectors");
    }

    #[test]
    fn the_table_has_an_end_and_takes_any_bytes() {
        let (mut msix, lines) = msix(2);
        msix.set_control(0xffff);
        for offset in (0..100).chain([u64::MAX - 2, u64::MAX]) {
            for len in 0..=8 {
                msix.write_table(offset, &vec![0xff; len]);
                let mut data = vec![0xaa; len];
                msix.read_table(offset, &mut data);
                for (n, byte) in data.into_iter().enumerate() {
                    let is_in = offset.saturating_add(n as u64) < 32;
                    assert_eq!(byte, if is_in { 0xff } else { 0 }, "{offset:#x}");
                }
                let mut data = vec![0xaa; len];
                msix.read_pending(offset, &mut data);
                assert!(data.iter().all(|&byte| byte == 0));
            }
        }
        assert!(msix.event(2).is_none() && msix.event(0xffff).is_none());
        // A message that the host refuses sends nothing.
        msix.set_control(ENABLE);
        msix.write_table(12, &[0]);
        assert!(lines[0].lock().unwrap().is_none());
    }
}
