//! The gate of #GP in a guest's interrupt table.
//!
//! SDM vol. 3A, "IDT Descriptors", "64-Bit Mode IDT".

use serde::{Deserialize, Serialize};

use super::virt::Virtual;

const GP_VECTOR: u64 = 13;
/// Bytes of a descriptor outside of long mode. In long mode it has as many more.
const DESCRIPTOR_LEN: u64 = 8;

/// A gate through which #GP comes to a handler of 64 bits, or of 32 bits outside of long
/// mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gate {
    /// Where it lies.
    at: u64,
    low: u64,
    /// The upper half of the handler's address; zero outside of long mode.
    high: u64,
}

impl Gate {
    /// The gate that the interrupt table at `idt` has for #GP, if it is a present
    /// interrupt gate or trap gate.
    pub(super) fn read(guest: Virtual<'_>, idt: u64) -> Option<Self> {
        const PRESENT: u64 = 0x80;
        const PRESENT_AND_TYPE: u64 = 0x9f;
        const INTERRUPT_GATE: u64 = PRESENT | 0xe;
        const TRAP_GATE: u64 = PRESENT | 0xf;
        let (at, low, high) = if guest.is_long() {
            let at = idt.checked_add(GP_VECTOR * 2 * DESCRIPTOR_LEN)?;
            let high = guest.word(at.checked_add(DESCRIPTOR_LEN)?)?;
            (at, guest.word(at)?, high)
        } else {
            let at = idt.checked_add(GP_VECTOR * DESCRIPTOR_LEN)?;
            (at, guest.word(at)?, 0)
        };
        let kind = low >> 40 & PRESENT_AND_TYPE;
        matches!(kind, INTERRUPT_GATE | TRAP_GATE).then_some(Self { at, low, high })
    }

    /// The address of the handler.
    pub(super) const fn handler(&self) -> u64 {
        self.low & 0xffff | (self.low >> 48) << 16 | self.high << 32
    }

    /// The selector of the handler's code segment.
    pub(super) const fn selector(&self) -> u64 {
        self.low >> 16 & 0xffff
    }

    /// Has the gate lead to `entry` in place of its handler, by one store. `None` if that
    /// cannot be: the upper halves of the addresses differ, or the gate is in no memory.
    pub(super) fn redirect(&self, guest: Virtual<'_>, entry: u64) -> Option<()> {
        (entry >> 32 == self.handler() >> 32).then_some(())?;
        guest.set_word(self.at, self.leading_to(entry))
    }

    /// Whether the gate leads to `entry` by now.
    pub(super) fn leads_to(&self, guest: Virtual<'_>, entry: u64) -> bool {
        guest.word(self.at) == Some(self.leading_to(entry))
    }

    /// The low word of the gate, with another handler in it.
    const fn leading_to(&self, entry: u64) -> u64 {
        let rest = self.low & 0x0000_ffff_ffff_0000;
        rest | entry & 0xffff | (entry >> 16 & 0xffff) << 48
    }
}
