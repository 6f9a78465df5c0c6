//! The registers of a vCPU at an exit.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::SyncReg;

use super::{KvmError, Paging, Vcpu, ioctl};

/// Long mode is active.
const EFER_LMA: u64 = 1 << 10;
const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;

/// The general registers that an instruction emulated by us touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX.
    pub rax: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSP.
    pub rsp: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// The system registers that tell how code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// How addresses are translated.
    pub paging: Paging,
    /// Where the interrupt descriptor table lies.
    pub idt: u64,
    /// CR4.
    pub cr4: u64,
}

impl Vcpu {
    /// The general registers at the last exit.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn registers(&mut self) -> Result<Registers, KvmError> {
        let regs = self.all_registers()?;
        Ok(Registers {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsp: regs.rsp,
            rip: regs.rip,
            rflags: regs.rflags,
        })
    }

    /// Changes them, at the next entry. A changed RIP also tells KVM that the instruction
    /// of a port exit is dealt with.
    ///
    /// # Errors
    /// What the ioctls say, on a KVM that needs them.
    pub fn set_registers(&mut self, registers: Registers) -> Result<(), KvmError> {
        let regs = kvm_regs {
            rax: registers.rax,
            rcx: registers.rcx,
            rdx: registers.rdx,
            rsp: registers.rsp,
            rip: registers.rip,
            rflags: registers.rflags,
            ..self.all_registers()?
        };
        if self.synced {
            self.fd.sync_regs_mut().regs = regs;
            self.fd.set_sync_dirty_reg(SyncReg::Register);
            return Ok(());
        }
        self.fd.set_regs(&regs).map_err(ioctl("KVM_SET_REGS"))
    }

    fn all_registers(&mut self) -> Result<kvm_regs, KvmError> {
        if self.synced {
            Ok(self.fd.sync_regs_mut().regs)
        } else {
            self.fd.get_regs().map_err(ioctl("KVM_GET_REGS"))
        }
    }

    /// How the guest's code runs; `None` if it is neither in long mode nor [flat 32-bit
    /// code](flat_levels), or KVM does not tell.
    #[must_use]
    pub fn controls(&self) -> Option<Controls> {
        let sregs = self.fd.get_sregs().ok()?;
        let levels = if sregs.efer & EFER_LMA == 0 {
            flat_levels(&sregs)?
        } else if sregs.cr4 & CR4_LA57 == 0 {
            4
        } else {
            5
        };
        Some(Controls {
            paging: Paging {
                cr3: sregs.cr3,
                levels,
            },
            idt: sregs.idt.base,
            cr4: sregs.cr4,
        })
    }

    /// Whether the guest's code runs in real or protected mode without long mode
    /// around it; `false` where KVM does not tell.
    #[must_use]
    pub fn is_outside_long_mode(&self) -> bool {
        let sregs = self.fd.get_sregs();
        sregs.is_ok_and(|sregs| sregs.efer & EFER_LMA == 0)
    }

    /// Changes CR4, behind the guest's back.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn set_cr4(&self, cr4: u64) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
        sregs.cr4 = cr4;
        self.fd.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))
    }
}

/// The levels of page tables of 32-bit kernel code in segments that begin at 0, outside of
/// long mode; `None` for other code. 32-bit paging without pages of 4 MiB, which no kernel
/// of the last decades uses, is other code as well.
fn flat_levels(sregs: &kvm_sregs) -> Option<u32> {
    let is_flat = |segment: &kvm_segment| segment.base == 0 && segment.db == 1;
    let is_kernel = sregs.cr0 & CR0_PE != 0 && sregs.ss.dpl == 0;
    (is_kernel && is_flat(&sregs.cs) && is_flat(&sregs.ss)).then_some(())?;
    match (sregs.cr0 & CR0_PG, sregs.cr4 & (CR4_PAE | CR4_PSE)) {
        (0, _) => Some(0),
        (_, 0) => None,
        (_, CR4_PSE) => Some(2),
        _ => Some(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flat_32_bit_code_of_a_kernel_is_looked_into() {
        let flat = kvm_segment {
            db: 1,
            ..kvm_segment::default()
        };
        let sregs = kvm_sregs {
            cr0: CR0_PE,
            cs: flat,
            ss: flat,
            ..kvm_sregs::default()
        };
        for (cr0, cr4, levels) in [
            (CR0_PE, 0, Some(0)),
            (CR0_PE, CR4_PAE, Some(0)),
            (CR0_PE | CR0_PG, 0, None),
            (CR0_PE | CR0_PG, CR4_PSE, Some(2)),
            (CR0_PE | CR0_PG, CR4_PAE, Some(3)),
            (CR0_PE | CR0_PG, CR4_PAE | CR4_PSE, Some(3)),
            (0, 0, None),
        ] {
            let sregs = kvm_sregs { cr0, cr4, ..sregs };
            assert_eq!(flat_levels(&sregs), levels, "{cr0:#x} {cr4:#x}");
        }
        for segment in [
            kvm_segment { base: 16, ..flat },
            kvm_segment { db: 0, ..flat },
        ] {
            let of_code = kvm_sregs {
                cs: segment,
                ..sregs
            };
            let of_stack = kvm_sregs {
                ss: segment,
                ..sregs
            };
            assert_eq!(
                (flat_levels(&of_code), flat_levels(&of_stack)),
                (None, None)
            );
        }
        let user = kvm_sregs {
            ss: kvm_segment { dpl: 3, ..flat },
            ..sregs
        };
        assert_eq!(flat_levels(&user), None);
    }
}
