//! The guest's CPUID.
//!
//! The table starts from the CPUID that KVM supports on this host. Then the topology
//! of each vCPU is added, and one of three profiles: the host's own CPU for a guest without a PMU,
//! `intel-generic` for one with an architectural PMU (a GenuineIntel CPU of
//! family 6, model 0x66, which no PMU driver of Linux lists, so that the PMU is
//! used as CPUID describes it), or an AuthenticAMD CPU of family 17h or later
//! for one with an AMD PMU. The vendor follows the PMU, on any host. A
//! hybrid guest has the second profile with another model number and a core type
//! for each vCPU.

mod amd;
mod hybrid;
mod intel;
mod lacking;
mod leaked;
mod table;
mod topology;

use vpmu::ids::VcpuId;
use vpmu::uncore::UncoreModel;
use vpmu::x86::cpuid::{AmdLeaves, IntelLeaves, PmuCpuid};

use crate::config::{CoreTypes, Topology};
use crate::kvm::CpuidEntry;
use table::Table;

pub(crate) use lacking::lacking;
pub(crate) use leaked::leaked;

/// The CPU that the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The host's own, without its PMU.
    Host,
    /// `intel-generic`, with the PMU of leaf 0AH.
    IntelGeneric(IntelLeaves),
    /// AMD's, with its PMU.
    Amd(AmdLeaves),
}

impl Profile {
    /// The CPU around this PMU.
    #[must_use]
    pub const fn around(pmu: PmuCpuid) -> Self {
        match pmu {
            PmuCpuid::Intel(leaves) => Self::IntelGeneric(leaves),
            PmuCpuid::Amd(leaves) => Self::Amd(leaves),
        }
    }

    /// IA32_MISC_ENABLE at start (Intel SDM vol. 4, "Architectural MSRs"): fast
    /// strings; with a PMU of Intel's also "performance monitoring available", and
    /// "BTS" and "PEBS unavailable".
    #[must_use]
    pub fn misc_enable(self) -> u64 {
        match self {
            Self::IntelGeneric(_) => 0x1881,
            Self::Host | Self::Amd(_) => 1,
        }
    }
}

/// The common part of the CPUID tables of all vCPUs.
#[derive(Clone, Copy, Debug)]
pub struct CpuidPlan<'a> {
    /// The leaves that KVM supports.
    pub supported: &'a [CpuidEntry],
    /// Whether KVM's local APIC has a TSC-deadline timer.
    pub tsc_deadline: bool,
    /// The topology of the vCPUs.
    pub topology: Topology,
    /// The CPU that the guest sees.
    pub profile: Profile,
    /// The types of vCPUs; `None`: the guest is not hybrid.
    pub core_types: Option<&'a CoreTypes>,
    /// The uncore PMUs, of an AMD guest; RAPL of an Intel guest is told by its
    /// model number alone.
    pub uncore: UncoreModel,
    /// Whether the guest sees VMX or SVM; not with a PMU.
    pub nested: bool,
}

/// Leaf 01H:ECX.
const VMX: u32 = 1 << 5;
const PDCM: u32 = 1 << 15;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 8000_0001H:ECX.
const SVM: u32 = 1 << 2;
/// SVM's own leaf.
const SVM_FEATURES: u32 = 0x8000_000a;
/// Leaf 07H, subleaf 1:EAX.
const FRED: u32 = 1 << 17;

impl CpuidPlan<'_> {
    /// The table of one vCPU.
    #[must_use]
    pub fn table(&self, vcpu: VcpuId) -> Vec<CpuidEntry> {
        let mut table = Table::new(self.supported);
        self.common(&mut table);
        match self.profile {
            Profile::IntelGeneric(pmu) => {
                intel::apply(&mut table, &self.topology, pmu);
                if let Some(types) = self.core_types {
                    hybrid::apply(&mut table, types.of(vcpu));
                }
            }
            Profile::Amd(pmu) => {
                amd::apply_pmu(&mut table, &self.topology, vcpu, pmu);
                amd::apply_uncore(&mut table, &self.uncore);
            }
            Profile::Host if table.is_intel() => {
                intel::drop_pmu(&mut table);
                intel::share_caches(&mut table, &self.topology);
            }
            Profile::Host => amd::apply(&mut table, &self.topology, vcpu),
        }
        topology::apply(&mut table, &self.topology, vcpu);
        table.into_entries()
    }

    /// What the topology would have to be for this CPU to tell of it, if it
    /// cannot.
    #[must_use]
    pub fn cannot_tell(&self) -> Option<&'static str> {
        let is_intel = match self.profile {
            Profile::IntelGeneric(_) => true,
            Profile::Amd(_) => false,
            Profile::Host => Table::new(self.supported).is_intel(),
        };
        if is_intel {
            None
        } else {
            amd::cannot_tell(&self.topology)
        }
    }

    fn common(&self, table: &mut Table) {
        let leaf1 = table.get(0x1, 0);
        leaf1.ecx |= X2APIC | HYPERVISOR;
        leaf1.ecx &= !(PDCM | TSC_DEADLINE);
        if self.tsc_deadline {
            leaf1.ecx |= TSC_DEADLINE;
        }
        // APERF and MPERF would cost two exits on every tick.
        table.get(0x6, 0).ecx &= !1;
        table.set_plain(0xa, [0; 4]);
        let is_host = self.profile == Profile::Host;
        // A guest that nobody asked to be a host has no use for them. With a PMU, what
        // a guest of the guest writes to a counter would be taken for the guest's, with
        // an RIP and a CR3 that are not.
        if !(self.nested && is_host) {
            table.get(0x1, 0).ecx &= !VMX;
            if table.has(0x8000_0001) {
                table.get(0x8000_0001, 0).ecx &= !SVM;
            }
            table.remove(SVM_FEATURES);
        }
        if is_host {
            return;
        }
        // With FRED a guest has no #GP entry in an interrupt table, and so no place
        // for the doorbell that serves RDPMC in user mode.
        if table.has_subleaf(0x7, 1) {
            table.get(0x7, 1).eax &= !FRED;
        }
    }
}

#[cfg(test)]
mod tests;
