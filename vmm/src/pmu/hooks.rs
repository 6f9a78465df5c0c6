//! The parts of a PMU that a machine builds in.

use std::sync::Arc;

use vpmu::host::software::Khz;
use vpmu::ids::VcpuId;
use vpmu::uncore::UncoreModel;
use vpmu::x86::cpuid::PmuCpuid;

use super::totals::VmTotals;
use super::uncore::SharedUncore;
use crate::config::CoreTypes;
use crate::kvm::{Interrupter, MsrFilter};
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::{NoPmu, PortBuilder, VcpuAffinity};

/// The parts that a PMU adds to a machine.
pub struct PmuHooks {
    /// The CPUID leaves of the PMU; `None` if the guest has no PMU.
    pub cpuid: Option<PmuCpuid>,
    /// MSRs that KVM must hand over; `None` filters nothing.
    pub filter: Option<MsrFilter>,
    /// A halted vCPU must not use its thread's time: KVM is not to poll.
    pub halts_sleep: bool,
    /// The host CPUs of vCPUs; a vCPU that is not listed runs on any CPU.
    pub affinity: Vec<VcpuAffinity>,
    /// The types of vCPUs, in a hybrid guest.
    pub core_types: Option<CoreTypes>,
    /// The uncore PMUs, which CPUID shows and which are told of the vCPUs that
    /// come and go; `None` if the guest has none.
    pub uncore: Option<Arc<SharedUncore>>,
    /// The sum to which each vCPU's totals are added when its thread ends.
    pub totals: Arc<VmTotals>,
    /// Builds the port of a vCPU: for each before any runs, and for one that is
    /// plugged in then.
    pub port: Box<dyn Fn(&PortContext<'_>) -> PortBuilder + Send>,
}

/// The facts of the machine and of one vCPU that a port needs.
#[derive(Debug)]
pub struct PortContext<'a> {
    /// The vCPU.
    pub vcpu: VcpuId,
    /// The id of the vCPU's local APIC.
    pub apic_id: u32,
    /// The rate of its TSC.
    pub tsc: Khz,
    /// The guest's memory.
    pub memory: &'a GuestRam,
    /// Interrupts that are no NMIs.
    pub interrupter: &'a Interrupter,
    /// What the port was when it was saved; `None` begins anew.
    pub saved: Option<Vec<u8>>,
}

impl std::fmt::Debug for PmuHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PmuHooks")
            .field("cpuid", &self.cpuid)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl PmuHooks {
    /// The hooks of a guest without a PMU.
    #[must_use]
    pub fn none() -> Self {
        Self {
            cpuid: None,
            filter: None,
            halts_sleep: false,
            affinity: Vec::new(),
            core_types: None,
            uncore: None,
            totals: Arc::default(),
            port: Box::new(|context| NoPmu::builder(context.vcpu)),
        }
    }

    /// The uncore PMUs that CPUID shows; none by default.
    #[must_use]
    pub fn uncore_model(&self) -> UncoreModel {
        let model = self.uncore.as_ref().map(|uncore| *uncore.model());
        model.unwrap_or_default()
    }
}
