//! The entry hook: a doorbell where the guest kernel is entered for #GP (guest-contract
//! §5.6).
//!
//! RDPMC in user mode cannot become RDMSR, which faults there. On a host whose RDPMC
//! faults, the guest enters its #GP handler instead. The doorbell is an OUT there: an
//! exit on every KVM, at which the exception frame shows the instruction that faulted.
//! There are two ways to have the guest execute one:
//!
//! ```text
//!  in the text   the first instruction of a Linux entry becomes out DOORBELL_PORT, al
//!  by the gate   the gate leads to two bytes near the handler that are an OUT by chance,
//!                such as the last of mov rdi, rsp and the first of a call
//! ```
//! The second knows nothing of the handler and changes no text. But a guest that demands
//! ENDBR64 at each target (IBT) would die of it, so Linux gets the first.

use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::virt::Virtual;
use crate::vcpu::{DOORBELL_PORT, DOORBELL_PORTS};

/// `out DOORBELL_PORT, al; nop`. A vCPU between the three one-byte NOPs that it replaces
/// executes `out 0x90, al` or the NOP, and neither means anything.
const BELL: [u8; LEN] = [OUT_AL, DOORBELL_PORT, 0x90];
const LEN: usize = 3;
/// `out imm8, al`, and the same of EAX.
const OUT_AL: u8 = 0xe6;
const OUT_EAX: u8 = 0xe7;
/// Length of the `out` alone.
const OUT_LEN: u64 = 2;

/// What Linux begins its #GP entry with, behind ENDBR64: CLAC, or as many NOPs
/// on a CPU without SMAP.
const BEGINNINGS: [[u8; LEN]; 3] = [CLAC, [0x90; LEN], [0x0f, 0x1f, 0x00]];
const CLAC: [u8; LEN] = [0x0f, 0x01, 0xca];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const ENDBR32: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfb];
const CLD: u8 = 0xfc;
const IRETQ: [u8; 2] = [0x48, 0xcf];
/// IRETD, in 32-bit code.
const IRETD: [u8; 1] = [0xcf];

const RFLAGS_AC: u64 = 1 << 18;

/// A doorbell at which a guest rings when it is entered for #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryHook {
    /// Where the doorbell is.
    bell: u64,
    /// The port that it writes to.
    port: u8,
    way: BellWay,
    /// The selector of the code segment that #GP enters.
    pub(super) selector: u64,
    /// An IRETQ near it; outside of long mode an IRETD.
    pub(super) iret: Option<u64>,
}

/// How the guest comes to the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum BellWay {
    /// It is in the place of these bytes, with which the handler begins.
    Text([u8; LEN]),
    /// The gate leads there. This is the gate as the guest had it.
    Gate(Gate),
}

impl EntryHook {
    /// Looks at the handler that the interrupt table at `idt` has for #GP; `None` if
    /// there is no way to a doorbell. `is_free` is asked whether a handler may have its
    /// doorbell at an address, where another handler's may be.
    pub(super) fn find(
        guest: Virtual<'_>,
        idt: u64,
        is_free: impl Fn(u64, u64) -> bool,
    ) -> Option<Self> {
        let gate = Gate::read(guest, idt)?;
        Self::in_text(guest, gate).or_else(|| Self::by_gate(guest, gate, is_free))
    }

    /// In the text of a Linux entry of 64 bits.
    fn in_text(guest: Virtual<'_>, gate: Gate) -> Option<Self> {
        guest.is_long().then_some(())?;
        let bell = behind_endbr64(guest, gate.handler())?;
        let original = guest.code(bell)?;
        // One store must change all three bytes.
        let in_one_word = bell % 8 + LEN as u64 <= 8;
        let is_linux = BEGINNINGS.contains(&original) && goes_on_as_linux(guest, bell).is_some();
        (in_one_word && is_linux).then_some(())?;
        Some(Self {
            bell,
            port: DOORBELL_PORT,
            way: BellWay::Text(original),
            selector: gate.selector(),
            iret: Some(find_iret(guest, bell)?),
        })
    }

    /// By the gate of any other handler. One that begins with ENDBR64 or ENDBR32 may have to.
    fn by_gate(guest: Virtual<'_>, gate: Gate, is_free: impl Fn(u64, u64) -> bool) -> Option<Self> {
        let handler = gate.handler();
        // An OUT may be a doorbell of ours that was forgotten.
        let is_bell = guest.code(handler).and_then(unused_port_of).is_some();
        let start = guest.code(handler);
        if is_bell || start == Some(ENDBR64) || start == Some(ENDBR32) {
            return None;
        }
        let (start, text) = guest.text_near(handler)?;
        let pairs = (start..).zip(text.windows(2));
        let mut outs = pairs.filter_map(|(at, bytes)| {
            let bytes = <[u8; 2]>::try_from(bytes).ok()?;
            Some((at, unused_port_of(bytes)?))
        });
        let (bell, port) = outs.find(|(at, _)| is_free(*at, handler))?;
        Some(Self {
            bell,
            port,
            way: BellWay::Gate(gate),
            selector: gate.selector(),
            iret: find_iret(guest, handler),
        })
    }

    /// Puts the doorbell in.
    pub(super) fn install(&self, guest: Virtual<'_>) -> Option<()> {
        if let BellWay::Gate(gate) = self.way {
            return gate.redirect(guest, self.bell);
        }
        let word_at = self.bell & !7;
        let mut bytes = guest.word(word_at)?.to_le_bytes();
        for (byte, to) in bytes.iter_mut().skip(self.offset()).zip(BELL) {
            *byte = to;
        }
        guest.set_word(word_at, u64::from_le_bytes(bytes))
    }

    /// Whether the doorbell is where it was put.
    pub(super) fn is_in_place(&self, guest: Virtual<'_>) -> bool {
        match self.way {
            BellWay::Text(_) => guest.code(self.bell) == Some(BELL),
            BellWay::Gate(gate) => {
                let port = guest.code(self.bell).and_then(unused_port_of);
                gate.leads_to(guest, self.bell) && port == Some(self.port)
            }
        }
    }

    /// Whether its port is one that no device has.
    pub(super) fn is_possible(&self) -> bool {
        let free = DOORBELL_PORTS
            .iter()
            .any(|ports| ports.contains(&self.port));
        free || self.port == DOORBELL_PORT
    }

    /// Where the doorbell is.
    pub(super) const fn address(&self) -> u64 {
        self.bell
    }

    /// The port that it writes to.
    pub(super) const fn port(&self) -> u8 {
        self.port
    }

    /// Whether this is the doorbell of the handler.
    pub(super) fn is_of(&self, handler: u64) -> bool {
        matches!(self.way, BellWay::Gate(gate) if gate.handler() == handler)
    }

    fn offset(&self) -> usize {
        usize::try_from(self.bell % 8).unwrap_or(0)
    }

    /// Whether a vCPU at `rip` has just rung; some hosts show the instruction,
    /// others the one behind it.
    pub(super) const fn rings_at(&self, rip: u64) -> bool {
        rip == self.bell || rip == self.bell.wrapping_add(OUT_LEN)
    }

    /// RIP and RFLAGS with which the guest's own handler goes on (G-507).
    pub(super) fn forward(&self, rflags: u64) -> (u64, u64) {
        match self.way {
            BellWay::Text(original) => {
                let rflags = if original == CLAC {
                    rflags & !RFLAGS_AC
                } else {
                    rflags
                };
                (self.bell + LEN as u64, rflags)
            }
            BellWay::Gate(gate) => (gate.handler(), rflags),
        }
    }
}

/// The port of an OUT that reaches no device.
fn unused_port_of(code: [u8; 2]) -> Option<u8> {
    let [OUT_AL | OUT_EAX, port] = code else {
        return None;
    };
    let is_unused = DOORBELL_PORTS.iter().any(|ports| ports.contains(&port));
    is_unused.then_some(port)
}

/// Where the doorbell of the interrupt table at `idt` is or belongs: the begin of the
/// text that it leads to, behind ENDBR64.
pub(super) fn bell(guest: Virtual<'_>, idt: u64) -> Option<u64> {
    behind_endbr64(guest, Gate::read(guest, idt)?.handler())
}

fn behind_endbr64(guest: Virtual<'_>, entry: u64) -> Option<u64> {
    if guest.code(entry) == Some(ENDBR64) {
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

/// An IRET in the page of the entry, or in the next: user page tables, if the
/// guest has its own for user mode, map those as well.
fn find_iret(guest: Virtual<'_>, entry: u64) -> Option<u64> {
    let (start, text) = guest.text_near(entry)?;
    let iret = if guest.is_long() { &IRETQ[..] } else { &IRETD };
    let at = memmem::find(&text, iret)?;
    start.checked_add(at as u64)
}

/// Whether there is one at the address.
pub(super) fn is_iret(guest: Virtual<'_>, at: u64) -> bool {
    if guest.is_long() {
        guest.code(at) == Some(IRETQ)
    } else {
        guest.code(at) == Some(IRETD)
    }
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

    fn find(guest: &Guest) -> Option<EntryHook> {
        EntryHook::find(virt(guest), IDT, |_, _| true)
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
            let hook = find(&guest).unwrap();
            assert_eq!((hook.bell, hook.iret), (ENTRY + offset, Some(IRETQ_AT)));
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
            assert_eq!(find(&guest), None, "not twice");
        }
    }

    const LINUX: [u8; 8] = [0x0f, 0x01, 0xca, 0xfc, 0xe8, 1, 2, 3];
    /// The begin of the gate, in guest-physical memory.
    const GATE: u64 = 0x40_00d0;

    #[test]
    fn entries_without_an_out_near_them_are_left_alone() {
        for code in [
            // A call of what is no text.
            [0x0f, 0x01, 0xca, 0xe8, 0xfc, 1, 2, 3],
            [0x0f, 0x01, 0xca, 0xe9, 0, 4, 0, 0],
            [0x50, 0x51, 0x52, 0xfc, 0xe8, 1, 2, 3],
            [0xe6, 0xe6, 0x90, 0xfc, 0xe8, 1, 2, 3],
        ] {
            assert_eq!(find(&guest(&code)), None, "{code:x?}");
        }
        let broken = |address: u64, byte: u8| {
            let guest = guest(&LINUX);
            guest.memory.write_obj(byte, GuestAddress(address)).unwrap();
            find(&guest)
        };
        assert!(broken(GATE + 4, 0).is_some(), "the control");
        assert!(broken(GATE + 4, 1).is_some(), "a stack of its own");
        assert!(broken(GATE + 5, 0x8f).is_some(), "a trap gate");
        assert_eq!(broken(GATE + 5, 0x0e), None, "no gate");
        assert_eq!(broken(GATE + 5, 0x8c), None, "a call gate");
        assert_eq!(broken(0x20_2234, 0), None, "no IRETQ");
        assert_eq!(broken(GATE + 9, 0x12), None, "an address without a page");
        for idt in [0, u64::MAX, u64::MAX - 15 * 16] {
            assert_eq!(
                EntryHook::find(virt(&guest(&LINUX)), idt, |_, _| true),
                None
            );
        }
    }

    /// `push rax; mov rdi, rsp; call`, and the port that lies in it.
    const OTHER: [u8; 9] = [0x50, 0x48, 0x89, 0xe7, 0xe8, 1, 2, 3, 0];
    const PORT: u8 = 0xe8;

    #[test]
    fn any_other_entry_gets_a_doorbell_by_the_gate_and_keeps_its_text() {
        let guest = guest(&OTHER);
        let gate = || virt(&guest).word(IDT + 13 * 16).unwrap();
        let before = gate();
        let hook = find(&guest).unwrap();
        assert_eq!(
            (hook.bell, hook.port(), hook.iret),
            (ENTRY + 3, PORT, Some(IRETQ_AT))
        );
        assert_eq!(
            hook.forward(0x4_0002),
            (ENTRY, 0x4_0002),
            "as the CPU enters it"
        );
        assert!(!hook.is_in_place(virt(&guest)));
        hook.install(virt(&guest)).unwrap();
        assert!(hook.is_in_place(virt(&guest)));
        assert_eq!(virt(&guest).code(ENTRY), Some(OTHER));
        assert_eq!(
            gate(),
            before + 3,
            "the address, and nothing else of the gate"
        );
        assert_eq!(bell(virt(&guest), IDT), Some(ENTRY + 3));
        assert_eq!(find(&guest), None, "no doorbell at a doorbell");
        // Its bytes are others by now.
        guest
            .memory
            .write_obj(0x90_u8, GuestAddress(0x20_1003))
            .unwrap();
        assert!(!hook.is_in_place(virt(&guest)));
    }

    #[test]
    fn an_out_that_is_anothers_or_reaches_a_device_is_no_doorbell() {
        let two = [&OTHER[..], &[0x40, 0x80, 0xe7, 0x48]].concat();
        let guest = guest(&two);
        let second = EntryHook::find(virt(&guest), IDT, |at, _| at != ENTRY + 3).unwrap();
        assert_eq!((second.bell, second.port()), (ENTRY + 11, 0x48));
        assert!(second.is_of(ENTRY) && !second.is_of(ENTRY + 1));
        for port in [
            0x00, 0x20, 0x40, 0x43, 0x61, 0x70, 0x80, 0x92, 0xa1, 0xfd, 0xff,
        ] {
            let code = [0x50, 0x48, 0x89, 0xe7, port];
            assert_eq!(find(&super::tests::guest(&code)), None, "{port:#x}");
        }
    }

    /// With IBT, such a CPU takes no other way in.
    #[test]
    fn an_entry_that_begins_with_endbr64_keeps_its_gate() {
        let code = [&ENDBR64[..], &OTHER].concat();
        assert_eq!(find(&guest(&code)), None);
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
        assert_eq!(find(&guest), None);
    }
}
