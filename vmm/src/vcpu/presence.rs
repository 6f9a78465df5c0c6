//! Which vCPUs the guest has, and which are on their way in or out: the one
//! owner of a vCPU's presence.
//!
//! ```text
//!  Absent ──offer──▶ (thread starts) ──started──▶ Offered ──accepted──▶ Present ◀─────────────┐
//!    ▲                      │                        │                   │   │                │
//!    │◀──────not started────┘                declined│             eject │   │ ask_to_leave   │ kept,
//!    │                               never looked at │                   │   ▼                │ EJECT_TIMEOUT
//!    │                                       eject   │                   │ AskedToLeave ──────┘
//!    │                                               ▼                   ▼   │ eject
//!    └──────────────────────joined──────────────── Leaving ◀─────────────────┘
//!                                                    │ thread panicked
//!                                                    ▼
//!                                                   Lost
//! ```
//! The table is pure: it starts no thread and reads no clock. Each event returns
//! [`PresenceSteps`], the steps that the caller must do at once and in their order
//! (`machine::presence` does). Others derive from them: the registers that the
//! guest reads, the set of vCPU threads, and the masks by which the uncore PMUs
//! choose a vCPU.
//!
//! A vCPU that leaves has its thread stopped first. The thread's end is an
//! event, and only then do the uncore PMUs lose the vCPU, so none of its
//! accesses comes from a vCPU that they do not know. When the VM ends, threads
//! end as well, and nothing moves to another vCPU.
//!
//! | here | ACPI, and the registers of [`crate::devices::cpu_hotplug`] | Linux |
//! |---|---|---|
//! | offer | device check, bit 1 | `acpi_processor_hotadd_init` |
//! | ask to leave | eject request, bit 2 | `acpi_scan_hot_remove` |
//! | eject | `_EJ0`, bit 3 | `acpi_evaluate_ej0` |
//! | accepted, declined, kept | `_OST` | `acpi_evaluate_ost` |
//!
//! The guest may eject a vCPU without a request (rule G-702). It acknowledges a
//! request before it fulfils it, so an eject does not depend on the request
//! being open (G-701).

mod stage;
mod table;
mod words;

use std::time::Duration;

use vpmu::ids::VcpuId;

pub use table::PresenceTable;
pub use words::PresenceRefusal;

/// How long the guest may take to accept an offered vCPU.
const OFFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the guest may take to eject a vCPU that it was asked to give back.
const EJECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the thread of an ejected vCPU may take to end before the delay is
/// reported.
const THREAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The guest does not have it, and it has no thread.
    Absent,
    /// The guest has been told of it and has not accepted it yet.
    Offered,
    /// The guest has it.
    Present,
    /// The guest has it and was asked to give it back.
    AskedToLeave,
    /// The guest has given it back; its thread is ending.
    Leaving,
    /// Its thread panicked, and KVM's vCPU is lost with it. The guest does not
    /// have it and cannot get it again.
    Lost,
}

/// A vCPU's presence, for the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceReport {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Where it is.
    pub presence: Presence,
    /// Why the last request failed, if it did.
    pub failure: Option<String>,
}

/// A step that an event calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceStep {
    /// The uncore PMUs get to know the vCPU.
    Arrive(VcpuId),
    /// The vCPU's thread, which waits, may enter the guest if the others do.
    RunThread(VcpuId),
    /// The vCPU's thread is told to end. It may be the calling thread.
    StopThread(VcpuId),
    /// The uncore PMUs lose the vCPU: counters that it stood for go to another
    /// one of their scope.
    Depart(VcpuId),
    /// The interrupt line makes the guest look at its registers.
    PulseLine,
}

/// The steps that an event calls for, in the order in which they are to be done.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "do each step: the table has changed already"]
pub struct PresenceSteps(Vec<PresenceStep>);

impl PresenceSteps {
    const fn none() -> Self {
        Self(Vec::new())
    }
}

impl IntoIterator for PresenceSteps {
    type Item = PresenceStep;
    type IntoIter = std::vec::IntoIter<PresenceStep>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The order to start the thread of a vCPU. It goes back to the table by
/// [`PresenceTable::started`] or [`PresenceTable::not_started`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "tell the table whether the thread started"]
pub struct StartThread(VcpuId);

impl StartThread {
    /// The vCPU.
    #[must_use]
    pub const fn vcpu(&self) -> VcpuId {
        self.0
    }
}

#[cfg(test)]
mod tests;
