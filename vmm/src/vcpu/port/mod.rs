//! The seam between a vCPU's thread and its PMU: the trait that the PMU
//! implements, the orders that it takes and the status that it gives.

mod monitor;
mod status;

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;
use vpmu::Totals;
use vpmu::ids::{MsrIndex, VcpuId};

use crate::kvm::{Gp, Vcpu};
use crate::rate_limit::RateLimit;
use crate::stop::PortError;

pub use monitor::{MonitorOrder, MonitorOutcome, MonitorReading, MonitorStatus};
pub use status::{CounterStatus, CountingState, UncountedNames, VcpuPmuStatus};

/// The I/O port of the doorbell that is put into the text of the guest's #GP entry. No
/// device and no interrupt controller has it.
pub const DOORBELL_PORT: u8 = 0xe6;

/// The I/O ports that a doorbell may write to, up to four bytes at each. No device has
/// them, neither KVM's (PIC, PIT, speaker) nor one that guests look for on a PC.
pub const DOORBELL_PORTS: [RangeInclusive<u8>; 4] =
    [0x22..=0x3c, 0x44..=0x5c, 0x74..=0x7c, 0xe0..=0xec];

/// What becomes of a WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrmsrAnswer {
    /// It is taken, or faults where hardware would raise #GP.
    Done(Result<(), Gp>),
    /// It takes long. The vCPU looks into its mailbox, waits for so long and asks
    /// again; the guest stays in the instruction.
    Later(Duration),
}

/// The per-vCPU object behind filtered and unknown MSRs: the PMU, as a rule.
///
/// The vCPU's thread builds it, owns it and ends it, so that it may hold what
/// belongs to a thread, such as perf events on the thread itself. It need not
/// be `Send`. The order in the run loop is
///
/// ```text
/// before_run ─▶ KVM_RUN ─┬▶ after_run ─▶ on_rdmsr | on_wrmsr | (other exits) ─▶ before_run …
///                        └▶ after_interrupted_run ─▶ status | monitor ─▶ before_run … | finish
/// ```
pub trait MsrPort {
    /// Answers RDMSR, or lets it fault.
    ///
    /// # Errors
    /// [`Gp`] where hardware would raise #GP.
    fn on_rdmsr(&mut self, vcpu: &mut Vcpu, index: MsrIndex) -> Result<u64, Gp>;

    /// Takes WRMSR, lets it fault, or says that it is asked again later: with the same
    /// vCPU, index and value, and before the guest is entered.
    fn on_wrmsr(&mut self, vcpu: &mut Vcpu, index: MsrIndex, value: u64) -> WrmsrAnswer;

    /// Called right before each entry, with the vCPU: the place to inject a
    /// PMI.
    ///
    /// # Errors
    /// What makes going on pointless; it stops the VM.
    fn before_run(&mut self, vcpu: &mut Vcpu) -> Result<(), PortError>;

    /// Called right after each exit that the guest caused, before it is handled.
    fn after_run(&mut self);

    /// Called right after each exit that a signal caused, instead of
    /// [`MsrPort::after_run`]: a host counter may have overflowed.
    ///
    /// # Errors
    /// What makes going on pointless; it stops the VM.
    fn after_interrupted_run(&mut self, vcpu: &mut Vcpu) -> Result<(), PortError>;

    /// Whether a write to the I/O port rings a doorbell at the guest's #GP entry. No
    /// device has such a port. The write is an exit on every KVM.
    fn is_doorbell(&mut self, _port: u16) -> bool {
        false
    }

    /// Called after a write to such a port; may change the registers.
    ///
    /// # Errors
    /// What makes going on pointless; it stops the VM.
    fn on_doorbell(&mut self, _vcpu: &mut Vcpu) -> Result<(), PortError> {
        Ok(())
    }

    /// What became of each counter, for `perfvisor ctl pmu`; `None` if there is
    /// no PMU. Asked on the vCPU's thread, between `after_run` and `before_run`.
    fn status(&mut self) -> Option<VcpuPmuStatus> {
        None
    }

    /// Attaches or detaches a monitor, for `perfvisor ctl monitor`. Called as
    /// [`MsrPort::status`] is.
    ///
    /// # Errors
    /// If the host does not count it.
    fn monitor(&mut self, _order: MonitorOrder) -> MonitorOutcome {
        Ok(None)
    }

    /// What the port is, for a snapshot: bytes that are the port's own. Called as
    /// [`MsrPort::status`] is; the guest may go on afterwards.
    ///
    /// # Errors
    /// If it has a part that cannot be saved.
    fn save(&mut self) -> Result<Vec<u8>, PortNotSaved> {
        Ok(Vec::new())
    }

    /// Ends the port: the vCPU does not enter the guest any more. Called on the
    /// vCPU's thread, as its last use. Returns the totals of the vCPU's PMU.
    #[must_use]
    fn finish(self: Box<Self>) -> Totals;
}

/// A part of a guest's PMU that cannot be saved.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} cannot be saved yet; start the VM without {flag}")]
pub struct PortNotSaved {
    /// The part.
    pub what: &'static str,
    /// The flag that gives the guest this part.
    pub flag: &'static str,
}

/// Builds the port of one vCPU, on that vCPU's thread. It may try the vCPU, which has not
/// run yet, and leaves it as it was.
pub type PortBuilder = Box<dyn FnOnce(&mut Vcpu) -> Result<Box<dyn MsrPort>, PortError> + Send>;

/// The port of a guest without a PMU: every MSR that reaches it faults.
#[derive(Debug)]
pub struct NoPmu {
    vcpu: VcpuId,
    refused: u64,
}

impl NoPmu {
    /// The port of this vCPU.
    #[must_use]
    pub fn new(vcpu: VcpuId) -> Self {
        Self { vcpu, refused: 0 }
    }

    /// A builder of it.
    #[must_use]
    pub fn builder(vcpu: VcpuId) -> PortBuilder {
        Box::new(move |_| Ok(Box::new(Self::new(vcpu)) as Box<dyn MsrPort>))
    }

    fn refuse(&mut self, what: &str, index: MsrIndex) {
        static LIMIT: RateLimit = RateLimit::new();
        self.refused = self.refused.saturating_add(1);
        if log::log_enabled!(log::Level::Debug) && LIMIT.allow().is_some() {
            log::debug!(
                "vCPU {}: {what} of unknown MSR {index} faults ({} so far)",
                self.vcpu,
                self.refused
            );
        }
    }
}

impl MsrPort for NoPmu {
    fn on_rdmsr(&mut self, _vcpu: &mut Vcpu, index: MsrIndex) -> Result<u64, Gp> {
        self.refuse("read", index);
        Err(Gp)
    }

    fn on_wrmsr(&mut self, _vcpu: &mut Vcpu, index: MsrIndex, _value: u64) -> WrmsrAnswer {
        self.refuse("write", index);
        WrmsrAnswer::Done(Err(Gp))
    }

    fn before_run(&mut self, _vcpu: &mut Vcpu) -> Result<(), PortError> {
        Ok(())
    }

    fn after_run(&mut self) {}

    fn after_interrupted_run(&mut self, _vcpu: &mut Vcpu) -> Result<(), PortError> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Totals {
        Totals::default()
    }
}
