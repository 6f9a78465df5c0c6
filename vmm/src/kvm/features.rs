//! Optional features of a KVM. `hypervisor` checks the required ones.

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE};
use kvm_ioctls::Cap;

use super::Hypervisor;

/// The optional abilities of a KVM (KVM API documentation, "KVM_CHECK_EXTENSION").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `KVM_CAP_X86_MSR_FILTER`: MSRs can be taken from KVM.
    pub msr_filter: bool,
    /// `KVM_CAP_X86_USER_SPACE_MSR`: their accesses reach user space.
    pub user_space_msr: bool,
    /// `KVM_CAP_PMU_CAPABILITY`: KVM's own vPMU can be switched off for a VM.
    pub pmu_capability: bool,
    /// `KVM_CAP_SYNC_REGS`: registers are shared at each exit.
    pub sync_regs: bool,
}

impl Hypervisor {
    /// The version of the API.
    #[must_use]
    pub fn api_version(&self) -> i32 {
        self.fd().get_api_version()
    }

    /// The features of this KVM.
    #[must_use]
    pub fn features(&self) -> Features {
        let kvm = self.fd();
        let pmu = kvm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
        Features {
            msr_filter: kvm.check_extension(Cap::X86MsrFilter),
            user_space_msr: kvm.check_extension(Cap::X86UserSpaceMsr),
            pmu_capability: pmu & i32::try_from(KVM_PMU_CAP_DISABLE).unwrap_or(0) != 0,
            sync_regs: kvm.check_extension(Cap::SyncRegs),
        }
    }
}
