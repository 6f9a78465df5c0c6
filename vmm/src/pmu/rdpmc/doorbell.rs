//! Serves a vCPU that rang the doorbell at its #GP entry.

use std::sync::Arc;

use super::Sites;
use super::entry_hook::EntryHook;
use super::frame::Frame;
use super::pattern::{RDMSR, RDPMC};
use super::rewriter::Rewriter;
use super::virt::Virtual;
use crate::kvm::{Controls, KvmError, Registers, Vcpu};

/// Who rang, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pmu) enum Ring {
    /// Not a doorbell: the guest wrote to the port by itself.
    NotOurs,
    /// Another fault, or a RDPMC without permission: the guest's handler has it.
    Forwarded,
    /// A RDPMC, done.
    Served,
}

impl Sites {
    /// Answers a write to the doorbell's port. `counter` reads a counter by
    /// RDPMC's ECX.
    ///
    /// # Errors
    /// What KVM says to the new registers.
    pub(in crate::pmu) fn ring(
        &mut self,
        vcpu: &mut Vcpu,
        counter: impl FnOnce(u32) -> Option<u64>,
    ) -> Result<Ring, KvmError> {
        let registers = vcpu.registers()?;
        self.refresh();
        let known = Arc::clone(&self.known);
        let Some(hook) = known.rung_at(registers.rip) else {
            return Ok(Ring::NotOurs);
        };
        let caught = vcpu.controls().and_then(|controls| {
            let guest = self.rewriter.memory(controls.paging);
            Caught::of(guest, controls, hook, registers)
        });
        let served = caught.and_then(|caught| caught.serve(&self.rewriter, counter));
        let (ring, after) = match served {
            Some(after) => (Ring::Served, after),
            None => (Ring::Forwarded, forwarded(hook, registers)),
        };
        vcpu.set_registers(after)?;
        Ok(ring)
    }
}

fn forwarded(hook: &EntryHook, registers: Registers) -> Registers {
    let (rip, rflags) = hook.forward(registers.rflags);
    Registers {
        rip,
        rflags,
        ..registers
    }
}

/// A fault whose frame could be read.
pub(super) struct Caught<'a> {
    guest: Virtual<'a>,
    controls: Controls,
    hook: &'a EntryHook,
    registers: Registers,
    frame: Frame,
}

impl<'a> Caught<'a> {
    pub(super) fn of(
        guest: Virtual<'a>,
        controls: Controls,
        hook: &'a EntryHook,
        registers: Registers,
    ) -> Option<Self> {
        Some(Self {
            guest,
            controls,
            hook,
            registers,
            frame: Frame::read(guest, registers.rsp)?,
        })
    }

    /// The frame.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) const fn frame(&self) -> Frame {
        self.frame
    }

    /// The registers behind the RDPMC; `None` if it is none, or is to fault. One of
    /// the kernel's is rewritten.
    pub(super) fn serve(
        &self,
        rewriter: &Rewriter,
        counter: impl FnOnce(u32) -> Option<u64>,
    ) -> Option<Registers> {
        let (frame, is_user) = (&self.frame, self.frame.is_user());
        let instruction = frame.instruction(self.guest)?;
        let is_ours = match instruction {
            RDPMC => !is_user || rewriter.access.is_granted(self.controls.cr4),
            // Another vCPU has rewritten it since it faulted here.
            RDMSR => !is_user && rewriter.is_site(frame.rip),
            _ => false,
        };
        is_ours.then_some(())?;
        let [ecx, _] = halves(self.registers.rcx);
        let value = counter(ecx)?;
        let after = frame.skip(self.guest, self.hook, self.registers, value)?;
        if !is_user && instruction == RDPMC {
            rewriter.rewrite_missed(self.guest, frame.rip);
        }
        Some(after)
    }
}

/// The low and the high half.
#[expect(clippy::cast_possible_truncation, reason = "each half is cut out")]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::entry_hook::tests::{IDT, virt};
    use super::super::frame::tests::{KERNEL, STACK, USER, registers, with_frame};
    use super::super::user_access::UserAccess::Faults;
    use super::*;
    use crate::kvm::paging::tests::{Guest, PAGING};

    const PCE: u64 = 1 << 8;
    const VALUE: u64 = 0x1234_5678_9abc;

    fn caught<'a>(guest: &'a Guest, hook: &'a EntryHook) -> Caught<'a> {
        let controls = Controls {
            paging: PAGING,
            idt: IDT,
            cr4: PCE,
        };
        Caught::of(virt(guest), controls, hook, registers()).unwrap()
    }

    /// Two vCPUs fault at a site that was missed, and the first has it rewritten
    /// before the second's exit.
    #[test]
    fn a_vcpu_that_comes_second_to_a_missed_site_is_served_as_well() {
        let (guest, hook) = with_frame([0, KERNEL, 0x10, 0x1_0046, STACK + 0xf38, 0x18]);
        let rewriter = Rewriter::new(guest.memory.clone(), Faults);
        let caught = caught(&guest, &hook);
        let first = caught.serve(&rewriter, |_| Some(VALUE));
        assert_eq!(virt(&guest).code(KERNEL), Some(RDMSR), "rewritten");
        let second = caught.serve(&rewriter, |_| Some(VALUE));
        assert!(second.is_some_and(|after| after.rip == KERNEL + 2));
        assert_eq!(second, first);
        assert_eq!(caught.serve(&rewriter, |_| None), None, "no such counter");
    }

    #[test]
    fn a_rdmsr_that_was_none_is_the_guests() {
        for rip in [KERNEL, USER] {
            let cs = if rip == USER { 0x33 } else { 0x10 };
            let (guest, hook) = with_frame([0, rip, cs, 0x1_0046, STACK + 0xf38, 0x18]);
            let rewriter = Rewriter::new(guest.memory.clone(), Faults);
            // Known in user mode, where nothing is ever rewritten.
            rewriter.rewrite_missed(virt(&guest), USER);
            for at in [0x40_2ffe, 0x20_0100] {
                guest.memory.write_obj(RDMSR, GuestAddress(at)).unwrap();
            }
            let caught = caught(&guest, &hook);
            assert_eq!(caught.serve(&rewriter, |_| Some(VALUE)), None, "{rip:#x}");
        }
    }

    #[test]
    fn a_missed_site_is_rewritten_once_it_is_served() {
        let (guest, hook) = with_frame([0, KERNEL, 0x10, 0x1_0046, STACK + 0xf38, 0x18]);
        let rewriter = Rewriter::new(guest.memory.clone(), Faults);
        let caught = caught(&guest, &hook);
        assert_eq!(caught.serve(&rewriter, |_| None), None);
        assert_eq!(virt(&guest).code(KERNEL), Some(RDPMC), "not served");
        assert!(!rewriter.is_site(KERNEL));
        caught.serve(&rewriter, |_| Some(VALUE)).unwrap();
        assert!(rewriter.is_site(KERNEL));
        // Put back, and no driver's test has told.
        let place = GuestAddress(0x20_0100);
        guest.memory.write_obj(RDPMC, place).unwrap();
        caught.serve(&rewriter, |_| Some(VALUE)).unwrap();
        assert_eq!(virt(&guest).code(KERNEL), Some(RDMSR));
    }
}
