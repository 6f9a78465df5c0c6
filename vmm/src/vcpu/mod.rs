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
//! SIPI inside `KVM_RUN`. One that the guest gives back ends its thread and is
//! kept as KVM has it ([`VcpuSet::reap`]), since KVM cannot destroy it; a thread
//! of its own runs it when it is plugged in again.

mod handle;
mod placement;
mod port;
mod set;
mod thread;

pub use handle::{SpawnError, SpawnFailure, VcpuHandle, VcpuMessage, VcpuParts, VcpuReport};
pub use placement::{CHECK_PERIOD, Home, VcpuPlacement};
pub use port::{
    CounterStatus, CountingState, DOORBELL_PORT, MonitorOrder, MonitorOutcome, MonitorReading,
    MonitorStatus, MsrPort, NoPmu, PortBuilder, VcpuPmuStatus,
};
pub use set::{NoAnswer, VcpuSet};
pub use thread::{Buses, VcpuState};
