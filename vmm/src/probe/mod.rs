//! Finds out properties of the host that only a guest can show: a vCPU in real mode that
//! runs a few bytes of machine code. It is the only one of a throw-away VM, or a vCPU of
//! the guest to come, before its first instruction.
//!
//! ```text
//!  kind  ─▶ is this KVM real?      (flags and modules first, a spin if they do not tell)
//!  cost  ─▶ time of an instruction, of an exit
//!  rdpmc ─▶ what RDPMC does without a vPMU
//!     └───▶ guest (Vm, Vcpu), own (a guest's vCPU) ─▶ code (the bytes)
//! ```
//! A probe VM has KVM's own vPMU off, as the VMs of `perfvisor run` have.
//! It ends before the call returns.

mod code;
mod cost;
mod cpuinfo;
mod guest;
mod kind;
mod own;
mod rdpmc;

use thiserror::Error;
use vm_memory::mmap::FromRangesError;

use crate::kvm::KvmError;

pub(crate) use cpuinfo::first_processor;

pub use cost::{Picos, exit_cost, instruction_cost};
pub use guest::ProbeGuest;
pub use kind::{Extension, HostFacts, KvmKind, LinuxNeedsHardware, check_kernel};
pub use own::{OwnAnswer, own_exit_cost, own_rdpmc};
pub use rdpmc::{INDICES, Rdpmc, RdpmcClass, rdpmc};

/// The reason why a probe gave no answer.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The host gives no memory for the guest.
    #[error("cannot map the memory of a probe VM")]
    Map(#[from] FromRangesError),
    /// The code does not fit the memory.
    #[error("cannot write the code of a probe VM")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// KVM failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The guest left for a reason that its code does not give.
    #[error("the probe VM ended: {0}")]
    Ended(&'static str),
}
