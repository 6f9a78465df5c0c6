//! Why a vCPU left the guest.

use kvm_ioctls::{ReadMsrExit, VcpuExit, WriteMsrExit};
use vpmu::ids::MsrIndex;

/// The access is to fault: KVM injects #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// An RDMSR that waits for its answer. Unanswered, it reads as 0.
#[derive(Debug)]
pub struct RdmsrExit<'a>(pub(super) ReadMsrExit<'a>);

impl RdmsrExit<'_> {
    /// The register.
    #[must_use]
    pub fn index(&self) -> MsrIndex {
        MsrIndex(self.0.index)
    }

    /// Completes the instruction with a value or a fault, at the next entry.
    pub fn answer(self, outcome: Result<u64, Gp>) {
        match outcome {
            Ok(value) => {
                *self.0.data = value;
                *self.0.error = 0;
            }
            Err(Gp) => *self.0.error = 1,
        }
    }
}

/// A WRMSR that waits to be accepted. Unanswered, it is accepted.
#[derive(Debug)]
pub struct WrmsrExit<'a>(pub(super) WriteMsrExit<'a>);

impl WrmsrExit<'_> {
    /// The register.
    #[must_use]
    pub fn index(&self) -> MsrIndex {
        MsrIndex(self.0.index)
    }

    /// The value that the guest writes.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.data
    }

    /// Completes the instruction, at the next entry.
    pub fn answer(self, outcome: Result<(), Gp>) {
        *self.0.error = u8::from(outcome.is_err());
    }
}

/// Why a vCPU left the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// IN: fill `data`.
    PioIn {
        /// The port.
        port: u16,
        /// What the guest will read.
        data: &'a mut [u8],
    },
    /// OUT.
    PioOut {
        /// The port.
        port: u16,
        /// What the guest wrote.
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
    /// RDMSR of a register that KVM leaves to us.
    Rdmsr(RdmsrExit<'a>),
    /// WRMSR of a register that KVM leaves to us.
    Wrmsr(WrmsrExit<'a>),
    /// A triple fault.
    Shutdown,
    /// HLT; does not happen with the in-kernel interrupt controller.
    Hlt,
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

impl<'a> From<VcpuExit<'a>> for Exit<'a> {
    fn from(exit: VcpuExit<'a>) -> Self {
        match exit {
            VcpuExit::IoIn(port, data) => Self::PioIn { port, data },
            VcpuExit::IoOut(port, data) => Self::PioOut { port, data },
            VcpuExit::MmioRead(address, data) => Self::MmioRead { address, data },
            VcpuExit::MmioWrite(address, data) => Self::MmioWrite { address, data },
            VcpuExit::X86Rdmsr(exit) => Self::Rdmsr(RdmsrExit(exit)),
            VcpuExit::X86Wrmsr(exit) => Self::Wrmsr(WrmsrExit(exit)),
            VcpuExit::Shutdown => Self::Shutdown,
            VcpuExit::Hlt => Self::Hlt,
            VcpuExit::Intr => Self::Interrupted,
            VcpuExit::FailEntry(reason, _) => Self::FailEntry { reason },
            VcpuExit::InternalError => Self::InternalError,
            VcpuExit::MemoryFault { gpa, .. } => Self::MemoryFault { gpa },
            VcpuExit::Unsupported(exit) => Self::Unknown(exit),
            _ => Self::Unknown(u32::MAX),
        }
    }
}
