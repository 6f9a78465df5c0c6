//! The registers of a vCPU at an exit.

use kvm_bindings::kvm_regs;
use kvm_ioctls::SyncReg;

use super::{KvmError, Paging, Vcpu, ioctl};

/// Long mode is active.
const EFER_LMA: u64 = 1 << 10;

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

    /// How the guest's code runs; `None` if it is not in 64-bit mode or KVM
    /// does not tell.
    #[must_use]
    pub fn controls(&self) -> Option<Controls> {
        const CR4_LA57: u64 = 1 << 12;
        let sregs = self.fd.get_sregs().ok()?;
        (sregs.efer & EFER_LMA != 0).then_some(Controls {
            paging: Paging {
                cr3: sregs.cr3,
                levels: if sregs.cr4 & CR4_LA57 == 0 { 4 } else { 5 },
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
