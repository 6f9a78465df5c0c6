//! A vCPU that has rung at its #GP entry.

use std::sync::Arc;

use super::Sites;
use super::frame::Frame;
use super::gate::Gate;
use super::user_access::UserAccess;
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
        let gate = known.gates.iter().find(|g| g.rings_at(registers.rip));
        let Some(gate) = gate else {
            return Ok(Ring::NotOurs);
        };
        let caught = vcpu.controls().and_then(|controls| {
            let guest = self.rewriter.memory(controls.paging);
            Caught::of(guest, controls, gate, registers)
        });
        let served = caught.as_ref().and_then(|caught| {
            let after = caught.serve(self.rewriter.access, counter)?;
            if !caught.frame.is_user() {
                self.rewriter.rewrite_missed(caught.guest, caught.frame.rip);
            }
            Some(after)
        });
        let (ring, after) = match served {
            Some(after) => (Ring::Served, after),
            None => (Ring::Forwarded, forwarded(gate, registers)),
        };
        vcpu.set_registers(after)?;
        Ok(ring)
    }
}

fn forwarded(gate: &Gate, registers: Registers) -> Registers {
    let (rip, rflags) = gate.forward(registers.rflags);
    Registers {
        rip,
        rflags,
        ..registers
    }
}

/// A fault whose frame could be read.
struct Caught<'a> {
    guest: Virtual<'a>,
    controls: Controls,
    gate: &'a Gate,
    registers: Registers,
    frame: Frame,
}

impl<'a> Caught<'a> {
    fn of(
        guest: Virtual<'a>,
        controls: Controls,
        gate: &'a Gate,
        registers: Registers,
    ) -> Option<Self> {
        Some(Self {
            guest,
            controls,
            gate,
            registers,
            frame: Frame::read(guest, registers.rsp)?,
        })
    }

    /// The registers behind the RDPMC; `None` if it is none, or is to fault.
    fn serve(
        &self,
        access: UserAccess,
        counter: impl FnOnce(u32) -> Option<u64>,
    ) -> Option<Registers> {
        let permitted = !self.frame.is_user() || access.is_granted(self.controls.cr4);
        (permitted && self.frame.is_rdpmc(self.guest)).then_some(())?;
        let [ecx, _] = halves(self.registers.rcx);
        let value = counter(ecx)?;
        self.frame
            .skip(self.guest, self.gate, self.registers, value)
    }
}

/// The low and the high half.
#[expect(clippy::cast_possible_truncation, reason = "each half is cut out")]
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}
