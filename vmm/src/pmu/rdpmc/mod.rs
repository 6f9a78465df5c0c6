//! RDPMC for guest kernels: rewritten to RDMSR (rule G-006, guest-contract
//! §5.5).
//!
//! KVM never hands RDPMC to user space, and a stock kernel reads every counter by
//! RDPMC. So the second byte of the kernel's RDPMC instructions is changed: each becomes
//! an RDMSR with the same operands, whose index the MSR filter denies. Which ones they
//! are depends on the host:
//!
//! * RDPMC faults: those that the kernel has executed. The fault comes to a doorbell in
//!   the way of the guest's #GP handler. Its text is scanned only if it takes no doorbell.
//! * RDPMC is answered with 0: those that a scan of the kernel's text finds, on the first
//!   write to a counter. This first write is the counter test of the guest's driver. If
//!   the guest cannot be served, the test fails, and the driver gives up before it has
//!   counted anything.
//!
//! User mode, where RDMSR faults, is served by the doorbell on both:
//!
//! ```text
//!  kernel RDPMC ─ doorbell, or scan, pattern ─▶ RDMSR ─▶ MSR exit
//!  RDPMC ─▶ #GP ─▶ entry_hook, gate (out) ─▶ port exit ─▶ frame: done, and back behind it
//!       ▲                                         └───▶ anything else: the guest's handler
//!       └─ user_access: CR4.PCE, taken away where RDPMC would not fault
//! ```

mod doorbell;
mod entry_hook;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod gate;
mod known;
mod pace;
mod pattern;
#[cfg(test)]
mod protected;
mod request;
mod rewriter;
mod saved;
mod scan;
mod sites;
mod user_access;
mod virt;

use serde::{Deserialize, Serialize};

pub(in crate::pmu) use doorbell::Ring;
#[cfg(any(test, feature = "fuzz"))]
pub use fuzz::rdpmc as fuzz_rdpmc;
#[cfg(any(test, feature = "fuzz"))]
pub(in crate::pmu) use fuzz::sites as fuzz_sites;
pub(in crate::pmu) use request::{TextPlace, TextVerdict};
pub(in crate::pmu) use rewriter::Rewriter;
pub(in crate::pmu) use saved::SavedText;
pub(in crate::pmu) use sites::Sites;
pub(in crate::pmu) use user_access::UserAccess;

/// Whether a guest's counter reads reach us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::pmu) enum ReaderService {
    /// All readers that the kernel has are rewritten, or it has none.
    Served,
    /// The text holds what may be RDPMC, and nothing that is surely a reader.
    Unserved,
}
