//! The stack frame that the CPU pushes for a #GP, and the emulation of an RDPMC that
//! faulted.
//!
//! SDM vol. 3A, "64-Bit Mode Stack Frame", and "Exception- or Interrupt-Handler Procedures"
//! for a guest outside of long mode.

use super::entry_hook::{EntryHook, is_iret};
use super::pattern::RDPMC;
use super::virt::Virtual;
use crate::kvm::Registers;

const RFLAGS_RF: u64 = 1 << 16;
/// Virtual-8086 mode.
const RFLAGS_VM: u64 = 1 << 17;
/// The bit of a selector that names the LDT (SDM vol. 3A, "Segment Selectors").
const LOCAL_TABLE: u64 = 1 << 2;

/// The frame of an exception with an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Where it lies.
    at: u64,
    error: u64,
    /// The instruction that faulted.
    pub(super) rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Frame {
    /// The frame on top of the stack.
    pub(super) fn read(guest: Virtual<'_>, rsp: u64) -> Option<Self> {
        rsp.is_multiple_of(guest.slot()).then_some(())?;
        let [error, rip, cs, rflags] = guest.slots(rsp)?;
        let behind = rsp.checked_add(4 * guest.slot())?;
        let [old_rsp, ss] = if guest.is_long() || cs & 3 != 0 {
            guest.slots(behind)?
        } else {
            // Outside of long mode a handler has the stack of the kernel that it interrupts.
            [u32::try_from(behind).ok()?.into(), 0]
        };
        Some(Self {
            at: rsp,
            error,
            rip,
            cs,
            rflags,
            rsp: old_rsp,
            ss,
        })
    }

    /// Whether user code faulted.
    pub(super) const fn is_user(&self) -> bool {
        self.cs & 3 != 0
    }

    /// The instruction, if its fault may be that of a RDPMC, which has no selector
    /// to tell.
    ///
    /// Code or a stack in a segment of the program's own (of its LDT) is the guest's
    /// affair: such code may have a base, and a 16-bit stack gets the low half of RSP
    /// from IRETQ and keeps the kernel's upper half, which Linux hides by a way of its
    /// own (espfix64). Its RDPMC faults. So does that of virtual-8086 mode, whose code has a
    /// base.
    pub(super) fn instruction(&self, guest: Virtual<'_>) -> Option<[u8; RDPMC.len()]> {
        let is_flat = (self.cs | self.ss) & LOCAL_TABLE == 0 && self.rflags & RFLAGS_VM == 0;
        (self.error == 0 && is_flat).then(|| guest.code(self.rip))?
    }

    /// The registers with which the guest goes on behind the instruction, whose result
    /// is `value` (G-506). `None` if it cannot: nothing is changed then.
    ///
    /// User code is gone back to by an IRET of the kernel's, as its stack and
    /// its privilege are the CPU's business. So is kernel code of another segment than
    /// the handler's, such as 32-bit code. Other kernel code is gone back to without: an
    /// IRET would end the blocking of NMIs in an NMI handler.
    pub(super) fn skip(
        &self,
        guest: Virtual<'_>,
        hook: &EntryHook,
        registers: Registers,
        value: u64,
    ) -> Option<Registers> {
        let (rip, rflags) = (
            self.rip.checked_add(RDPMC.len() as u64)?,
            self.rflags & !RFLAGS_RF,
        );
        (guest.is_long() || u32::try_from(rip).is_ok()).then_some(())?;
        let result = Registers {
            rax: value & 0xffff_ffff,
            rdx: value >> 32,
            ..registers
        };
        if self.cs & 0xffff == hook.selector {
            return Some(Registers {
                rip,
                rflags,
                rsp: self.rsp,
                ..result
            });
        }
        let iret = hook.iret?;
        is_iret(guest, iret).then_some(())?;
        let at = |n: u64| self.at.checked_add(n * guest.slot());
        guest.set_slots([(at(1)?, rip), (at(3)?, rflags)])?;
        Some(Registers {
            rip: iret,
            rsp: at(1)?,
            ..result
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::entry_hook::tests::{IDT, guest, virt};
    use super::*;
    use crate::kvm::paging::tests::Guest;

    const LINUX: [u8; 8] = [0x0f, 0x01, 0xca, 0xfc, 0xe8, 1, 2, 3];
    pub(in super::super) const STACK: u64 = 0xffff_fe00_0001_0000;
    pub(in super::super) const USER: u64 = 0x40_0ffe;
    pub(in super::super) const KERNEL: u64 = 0xffff_ffff_8100_0100;
    const USER_STACK: u64 = 0x7fff_0000_1238;

    /// RDPMC at the end of a page of user text and in the kernel's, and a frame
    /// on the stack.
    pub(in super::super) fn with_frame(frame: [u64; 6]) -> (Guest, EntryHook) {
        let mut guest = guest(&LINUX);
        guest.map(STACK, 0x40_1000, 0, true);
        guest.map(USER & !0xfff, 0x40_2000, 0, false);
        for at in [0x40_2ffe, 0x20_0100] {
            guest.memory.write_obj(RDPMC, GuestAddress(at)).unwrap();
        }
        for (word, at) in frame.iter().zip((0x40_1f00..).step_by(8)) {
            guest.memory.write_obj(*word, GuestAddress(at)).unwrap();
        }
        let hook = EntryHook::find(virt(&guest), IDT, |_, _| true).unwrap();
        (guest, hook)
    }

    pub(in super::super) fn registers() -> Registers {
        Registers {
            rax: u64::MAX,
            rcx: 0x4000_0001,
            rdx: u64::MAX,
            rsp: STACK + 0xf00,
            rip: 1,
            rflags: 2,
        }
    }

    const VALUE: u64 = 0x1234_89ab_cdef;

    /// G-506, CPL 3.
    #[test]
    fn user_code_goes_on_behind_it_by_iretq() {
        let (guest, hook) = with_frame([0, USER, 0x33, 0x1_0246, USER_STACK, 0x2b]);
        let frame = Frame::read(virt(&guest), STACK + 0xf00).unwrap();
        assert!(frame.is_user() && frame.instruction(virt(&guest)) == Some(RDPMC));
        let after = frame.skip(virt(&guest), &hook, registers(), VALUE).unwrap();
        let expected = Registers {
            rax: 0x89ab_cdef,
            rcx: 0x4000_0001,
            rdx: 0x1234,
            rsp: STACK + 0xf08,
            rip: hook.iret.unwrap(),
            rflags: 2,
        };
        assert_eq!(after, expected);
        let left = [0, 1, 2, 3, 4, 5].map(|n| virt(&guest).word(STACK + 0xf00 + n * 8).unwrap());
        assert_eq!(left, [0, USER + 2, 0x33, 0x246, USER_STACK, 0x2b]);
    }

    /// G-506, CPL 0: no IRET, and the frame is popped.
    #[test]
    fn kernel_code_goes_on_behind_it_at_once() {
        let stack = STACK + 0xf38;
        let (guest, hook) = with_frame([0, KERNEL, 0x10, 0x1_0046, stack, 0x18]);
        let frame = Frame::read(virt(&guest), STACK + 0xf00).unwrap();
        assert!(!frame.is_user() && frame.instruction(virt(&guest)) == Some(RDPMC));
        let after = frame.skip(virt(&guest), &hook, registers(), VALUE).unwrap();
        assert_eq!(
            (after.rip, after.rsp, after.rflags),
            (KERNEL + 2, stack, 0x46)
        );
        assert_eq!((after.rax, after.rdx), (0x89ab_cdef, 0x1234));
    }

    /// 32-bit code of the kernel's: the handler's segment would make 64-bit code of it.
    #[test]
    fn kernel_code_of_another_segment_goes_on_by_iretq() {
        let (guest, hook) = with_frame([0, KERNEL, 0x38, 0x1_0046, STACK + 0xf38, 0x10]);
        let frame = Frame::read(virt(&guest), STACK + 0xf00).unwrap();
        let after = frame.skip(virt(&guest), &hook, registers(), VALUE).unwrap();
        assert_eq!(Some(after.rip), hook.iret);
        assert_eq!(virt(&guest).word(STACK + 0xf08), Some(KERNEL + 2));
    }

    #[test]
    fn another_fault_is_none_of_it() {
        for frame in [
            [8, USER, 0x33, 0, 0, 0],        // an error code
            [0, USER, 0x37, 0, 0, 0x2b],     // code in the LDT
            [0, USER, 0x33, 0, 0, 0x0f],     // a stack in the LDT: it may be one of 16 bits
            [0, USER + 1, 0x33, 0, 0, 0],    // another instruction, and no page behind
            [0, 0x1234_5678, 0x33, 0, 0, 0], // no page
            [0, u64::MAX, 0x33, 0, 0, 0],
        ] {
            let (guest, _) = with_frame(frame);
            let frame = Frame::read(virt(&guest), STACK + 0xf00).unwrap();
            assert!(frame.instruction(virt(&guest)) != Some(RDPMC), "{frame:x?}");
        }
    }

    #[test]
    fn a_wild_stack_pointer_has_no_frame() {
        let (guest, _) = with_frame([0; 6]);
        for rsp in [0, 4, u64::MAX - 7, STACK + 0xf01, STACK + 0xfe8] {
            assert_eq!(Frame::read(virt(&guest), rsp), None, "{rsp:#x}");
        }
    }

    /// With page tables of its own for user mode, a guest may not map it there.
    #[test]
    fn without_the_iretq_nothing_is_changed() {
        let (mut guest, hook) = with_frame([0, USER, 0x33, 0x1_0246, USER_STACK, 0x2b]);
        guest.map(hook.iret.unwrap() & !0x1f_ffff, 0x20_0000, 1, true);
        let frame = Frame::read(virt(&guest), STACK + 0xf00).unwrap();
        assert_eq!(frame.skip(virt(&guest), &hook, registers(), VALUE), None);
        assert_eq!(virt(&guest).word(STACK + 0xf08), Some(USER));
    }
}
