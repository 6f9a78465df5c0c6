//! The entry hook: a doorbell in the guest kernel's entry for #GP (guest-contract
//! §5.6).
//!
//! RDPMC in user mode cannot become RDMSR, which faults there. On a host whose
//! RDPMC faults, the guest enters its #GP handler instead, whose first
//! instruction becomes `out DOORBELL_PORT, al`: an exit on every KVM, at which the
//! exception frame shows the instruction that faulted.

use super::virt::Virtual;
use crate::vcpu::DOORBELL_PORT;

/// `out DOORBELL_PORT, al; nop`. A vCPU between the three one-byte NOPs that it replaces
/// executes `out 0x90, al` or the NOP, and neither means anything.
const BELL: [u8; LEN] = [0xe6, DOORBELL_PORT, 0x90];
const LEN: usize = 3;
/// Length of the `out` alone.
const OUT_LEN: u64 = 2;

/// What Linux begins its #GP entry with, behind ENDBR64: CLAC, or as many NOPs
/// on a CPU without SMAP.
const BEGINNINGS: [[u8; LEN]; 3] = [CLAC, [0x90; LEN], [0x0f, 0x1f, 0x00]];
const CLAC: [u8; LEN] = [0x0f, 0x01, 0xca];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const CLD: u8 = 0xfc;
pub(super) const IRETQ: [u8; 2] = [0x48, 0xcf];

const GP_VECTOR: u64 = 13;
const DESCRIPTOR_LEN: u64 = 16;
const PAGE: u64 = 4096;
const RFLAGS_AC: u64 = 1 << 18;

/// A hook in the #GP entry of a guest kernel: the doorbell in place of its first
/// instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHook {
    /// Where the doorbell is.
    bell: u64,
    original: [u8; LEN],
    /// An IRETQ near it.
    pub(super) iretq: u64,
}

impl EntryHook {
    /// Looks at the entry that the interrupt table at `idt` has for #GP; `None`
    /// if it is not Linux's.
    pub(super) fn find(guest: Virtual<'_>, idt: u64) -> Option<Self> {
        let bell = bell(guest, idt)?;
        let original = guest.code(bell)?;
        // One store must change all three bytes.
        let in_one_word = bell % 8 + LEN as u64 <= 8;
        let is_linux = BEGINNINGS.contains(&original) && goes_on_as_linux(guest, bell).is_some();
        (in_one_word && is_linux).then_some(())?;
        Some(Self {
            bell,
            original,
            iretq: find_iretq(guest, bell)?,
        })
    }

    /// Puts the doorbell in.
    pub(super) fn install(&self, guest: Virtual<'_>) -> Option<()> {
        let word_at = self.bell & !7;
        let mut bytes = guest.word(word_at)?.to_le_bytes();
        for (byte, to) in bytes.iter_mut().skip(self.offset()).zip(BELL) {
            *byte = to;
        }
        guest.set_word(word_at, u64::from_le_bytes(bytes))
    }

    /// Whether the doorbell is where it was put.
    pub(super) fn is_in_place(&self, guest: Virtual<'_>) -> bool {
        guest.code(self.bell) == Some(BELL)
    }

    /// Where the doorbell is.
    pub(super) const fn address(&self) -> u64 {
        self.bell
    }

    fn offset(&self) -> usize {
        usize::try_from(self.bell % 8).unwrap_or(0)
    }

    /// Whether a vCPU at `rip` has just rung; some hosts show the instruction,
    /// others the one behind it.
    pub(super) const fn rings_at(&self, rip: u64) -> bool {
        rip == self.bell || rip == self.bell + OUT_LEN
    }

    /// RIP and RFLAGS with which the guest's own handler goes on (G-507).
    pub(super) fn forward(&self, rflags: u64) -> (u64, u64) {
        let rflags = if self.original == CLAC {
            rflags & !RFLAGS_AC
        } else {
            rflags
        };
        (self.bell + LEN as u64, rflags)
    }
}

/// Where the doorbell of the interrupt table at `idt` belongs: the begin of its
/// #GP entry, behind ENDBR64.
pub(super) fn bell(guest: Virtual<'_>, idt: u64) -> Option<u64> {
    let entry = entry(guest, idt)?;
    if guest.code(entry)? == ENDBR64 {
        entry.checked_add(ENDBR64.len() as u64)
    } else {
        Some(entry)
    }
}

/// CLD, or, in kernels whose `error_entry` has that, the call of it: neither asks
/// for more of the bytes before it than RFLAGS.AC.
fn goes_on_as_linux(guest: Virtual<'_>, bell: u64) -> Option<()> {
    const CALL: u8 = 0xe8;
    const CALL_LEN: u64 = 5;
    let next = bell.checked_add(LEN as u64)?;
    match guest.code(next)? {
        [CLD] => Some(()),
        [CALL] => {
            let distance = i32::from_le_bytes(guest.code(next.checked_add(1)?)?);
            let behind = next.checked_add(CALL_LEN)?;
            let [_] = guest.code(behind.wrapping_add_signed(distance.into()))?;
            Some(())
        }
        [_] => None,
    }
}

/// The handler of a 64-bit interrupt gate without a stack of its own.
///
/// SDM vol. 3A, "64-Bit Mode IDT".
fn entry(guest: Virtual<'_>, idt: u64) -> Option<u64> {
    const INTERRUPT_GATE: u64 = 0x8e;
    let at = idt.checked_add(GP_VECTOR * DESCRIPTOR_LEN)?;
    let (low, high) = (guest.word(at)?, guest.word(at.checked_add(8)?)?);
    let (stack, kind) = (low >> 32 & 0x7, low >> 40 & 0xff);
    let address = low & 0xffff | (low >> 48) << 16 | high << 32;
    (kind == INTERRUPT_GATE && stack == 0).then_some(address)
}

/// An IRETQ in the page of the entry, or in the next: user page tables, if the
/// guest has its own for user mode, map those as well.
fn find_iretq(guest: Virtual<'_>, bell: u64) -> Option<u64> {
    let page = bell & !(PAGE - 1);
    let end = page.checked_add(2 * PAGE)?;
    (page..end - 1).find(|at| guest.code(*at) == Some(IRETQ))
}

#[cfg(test)]
pub(super) mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::paging::tests::{Guest, PAGING};

    pub(in super::super) const IDT: u64 = 0xffff_fe00_0000_0000;
    pub(in super::super) const ENTRY: u64 = 0xffff_ffff_8100_1000;
    const IRETQ_AT: u64 = ENTRY + 0x1234;

    /// A guest whose #GP entry, at 2 MiB + 4 KiB, begins with `code`.
    pub(in super::super) fn guest(code: &[u8]) -> Guest {
        let mut guest = Guest::new();
        guest.map(ENTRY & !0x1f_ffff, 0x20_0000, 1, false);
        guest.map(IDT, 0x40_0000, 0, true);
        let low = ENTRY & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (ENTRY >> 16 & 0xffff) << 48;
        for (bytes, at) in [
            (&low.to_le_bytes()[..], 0x40_00d0),
            (&(ENTRY >> 32).to_le_bytes(), 0x40_00d8),
            (code, 0x20_1000),
            (&IRETQ, 0x20_2234),
        ] {
            guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        }
        guest
    }

    pub(in super::super) fn virt(guest: &Guest) -> Virtual<'_> {
        Virtual {
            memory: &guest.memory,
            paging: PAGING,
        }
    }

    /// The entries of both kernels, with SMAP and without (guest-contract §5.6), and
    /// that of a kernel whose `error_entry` has the CLD.
    #[test]
    fn linux_entries_get_a_doorbell_and_keep_the_rest() {
        const AC_AND_MORE: u64 = RFLAGS_AC | 0x10002;
        for (code, offset, rflags) in [
            (&[0x0f, 0x01, 0xca, 0xfc, 0xe8, 1, 2, 3][..], 0, 0x10002),
            (&[0x90, 0x90, 0x90, 0xfc, 0xe8, 1, 2, 3], 0, AC_AND_MORE),
            (&[0x0f, 0x1f, 0x00, 0xfc, 0xe8, 1, 2, 3], 0, AC_AND_MORE),
            (&[0x0f, 0x01, 0xca, 0xe8, 0, 4, 0, 0], 0, 0x10002),
            (
                &[0x90, 0x90, 0x90, 0xe8, 0, 0xf8, 0xff, 0xff],
                0,
                AC_AND_MORE,
            ),
            (
                &[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xca, 0xfc],
                4,
                0x10002,
            ),
        ] {
            let guest = guest(code);
            let hook = EntryHook::find(virt(&guest), IDT).unwrap();
            assert_eq!((hook.bell, hook.iretq), (ENTRY + offset, IRETQ_AT));
            assert_eq!(
                hook.forward(AC_AND_MORE),
                (ENTRY + offset + 3, rflags),
                "{code:x?}"
            );
            hook.install(virt(&guest)).unwrap();
            let mut expected = code.to_vec();
            let at = usize::try_from(offset).unwrap();
            expected[at..at + 3].copy_from_slice(&[0xe6, 0xe6, 0x90]);
            let now: [u8; 8] = virt(&guest).code(ENTRY).unwrap();
            assert_eq!(now[..], expected[..]);
            assert!(hook.is_in_place(virt(&guest)));
            assert!(hook.rings_at(hook.bell) && hook.rings_at(hook.bell + 2));
            assert!(!hook.rings_at(hook.bell + 1) && !hook.rings_at(hook.bell + 3));
            assert_eq!(EntryHook::find(virt(&guest), IDT), None, "not twice");
        }
    }

    #[test]
    fn other_entries_are_left_alone() {
        const LINUX: [u8; 8] = [0x0f, 0x01, 0xca, 0xfc, 0xe8, 1, 2, 3];
        for code in [
            // A call of what is no text.
            [0x0f, 0x01, 0xca, 0xe8, 0xfc, 1, 2, 3],
            [0x0f, 0x01, 0xca, 0xe9, 0, 4, 0, 0],
            [0x50, 0x51, 0x52, 0xfc, 0xe8, 1, 2, 3],
            [0xe6, 0xe6, 0x90, 0xfc, 0xe8, 1, 2, 3],
        ] {
            assert_eq!(EntryHook::find(virt(&guest(&code)), IDT), None, "{code:x?}");
        }
        let broken = |address: u64, byte: u8| {
            let guest = guest(&LINUX);
            guest.memory.write_obj(byte, GuestAddress(address)).unwrap();
            EntryHook::find(virt(&guest), IDT)
        };
        assert!(broken(0x40_00d4, 0).is_some(), "the control");
        assert_eq!(broken(0x40_00d4, 1), None, "a stack of its own");
        assert_eq!(broken(0x40_00d5, 0x8f), None, "a trap gate");
        assert_eq!(broken(0x20_2234, 0), None, "no IRETQ");
        assert_eq!(broken(0x40_00d9, 0x12), None, "an address without a page");
        for idt in [0, u64::MAX, u64::MAX - 15 * 16] {
            assert_eq!(EntryHook::find(virt(&guest(&LINUX)), idt), None);
        }
    }

    #[test]
    fn a_hook_that_no_single_store_changes_is_none() {
        let guest = guest(&[0; 8]);
        let code = [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xca, 0xfc];
        guest
            .memory
            .write_slice(&code, GuestAddress(0x20_1002))
            .unwrap();
        guest
            .memory
            .write_obj(2_u8, GuestAddress(0x40_00d0))
            .unwrap();
        assert_eq!(EntryHook::find(virt(&guest), IDT), None);
    }
}
