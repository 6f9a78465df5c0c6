//! vCPU threads.
//!
//! ```text
//!            start            pause
//!   Ready ─────────▶ Running ◀─────▶ Paused
//!     │                 │    resume     │
//!     │ stop            │ stop, or a    │ stop
//!     ▼                 ▼ StopReason    ▼
//!   Finished ◀──────────┴───────────────┘
//! ```
//! Each thread owns its vCPU and its [`MsrPort`]; nothing of either is locked.
//! Others talk to it through its mailbox and a kick (see [`crate::sys::kick`]).
//! A secondary vCPU runs from the start too: KVM keeps it waiting for INIT and
//! SIPI inside `KVM_RUN`.
//!
//! Whether a vCPU has a thread, and whether the guest has the vCPU, is decided by
//! [`presence`]. The thread of a vCPU that the guest gives back ends. KVM cannot
//! destroy a vCPU, so it is kept, and a new thread runs it when it is added again.

mod buses;
mod handle;
mod port;
pub mod presence;
mod required_cpus;
mod saving;
mod set;
mod state;
mod thread;

pub use buses::Buses;
pub use handle::{
    SpawnError, SpawnFailure, ThreadObserver, VcpuHandle, VcpuMessage, VcpuParts, VcpuReport,
};
pub use port::{
    CounterStatus, CountingState, DOORBELL_PORT, DOORBELL_PORTS, MonitorOrder, MonitorOutcome,
    MonitorReading, MonitorStatus, MsrPort, NoPmu, PortBuilder, PortNotSaved, UncountedNames,
    VcpuPmuStatus, WrmsrAnswer,
};
pub use required_cpus::{CHECK_PERIOD, RequiredCpus, VcpuAffinity};
pub use saving::{VcpuSaveError, VcpuSection};
pub use set::{NoAnswer, VcpuSet};
pub use state::VcpuState;
