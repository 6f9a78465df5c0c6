//! Why a vCPU left the guest.

use kvm_bindings::KVM_EXIT_HLT;
use kvm_ioctls::VcpuExit;
use vpmu::ids::MsrIndex;

/// The access is to fault: KVM injects #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// The reason for which a vCPU left the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// IN, or a part of REP INS: fill `data`.
    PioIn {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// The bytes that the guest will read; the VMM fills them, one access after the
        /// other.
        data: &'a mut [u8],
    },
    /// OUT, or a part of REP OUTS.
    PioOut {
        /// The port.
        port: u16,
        /// Bytes of one access: 1, 2 or 4.
        size: usize,
        /// The bytes that the guest wrote: one access after the other.
        data: &'a [u8],
    },
    /// A read from an address without memory: fill `data`.
    MmioRead {
        /// The guest-physical address.
        address: u64,
        /// What the guest will read.
        data: &'a mut [u8],
    },
    /// A write to an address without memory.
    MmioWrite {
        /// The guest-physical address.
        address: u64,
        /// What the guest wrote.
        data: &'a [u8],
    },
    /// RDMSR of a register that KVM leaves to us; waits for
    /// [`super::Vcpu::answer_rdmsr`].
    Rdmsr(MsrIndex),
    /// WRMSR of a register that KVM leaves to us; waits for
    /// [`super::Vcpu::answer_wrmsr`].
    Wrmsr(MsrIndex, u64),
    /// A triple fault.
    Shutdown,
    /// A signal or `immediate_exit`; the guest instruction in flight, if any,
    /// is complete.
    Interrupted,
    /// The CPU refused to enter the guest.
    FailEntry {
        /// The hardware's code.
        reason: u64,
    },
    /// KVM gave up; [`super::Vcpu::internal_error`] says more.
    InternalError,
    /// Memory that KVM could not provide.
    MemoryFault {
        /// The guest-physical address.
        gpa: u64,
    },
    /// Anything else: the number of the exit, or `u32::MAX` where the binding
    /// does not tell.
    Unknown(u32),
}

impl<'a> Exit<'a> {
    /// What the binding says of an exit that is no port access.
    pub(super) fn of(exit: VcpuExit<'a>) -> Self {
        match exit {
            VcpuExit::MmioRead(address, data) => Self::MmioRead { address, data },
            VcpuExit::MmioWrite(address, data) => Self::MmioWrite { address, data },
            VcpuExit::X86Rdmsr(exit) => Self::Rdmsr(MsrIndex(exit.index)),
            VcpuExit::X86Wrmsr(exit) => Self::Wrmsr(MsrIndex(exit.index), exit.data),
            VcpuExit::Shutdown => Self::Shutdown,
            // Does not happen with the in-kernel interrupt controller.
            VcpuExit::Hlt => Self::Unknown(KVM_EXIT_HLT),
            VcpuExit::Intr => Self::Interrupted,
            VcpuExit::FailEntry(reason, _) => Self::FailEntry { reason },
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::MemoryFault { gpa, .. } => Self::MemoryFault { gpa },
            VcpuExit::Unsupported(exit) => Self::Unknown(exit),
            _ => Self::Unknown(u32::MAX),
        }
    }
}
