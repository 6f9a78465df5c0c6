//! `/dev/kvm` itself.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::{Cap, Kvm};
use serde::{Deserialize, Serialize};
use vpmu::ids::MsrIndex;

use super::{KvmError, Vm, access, ioctl, vcpu_image};
use crate::sys::guest_ram::GuestRam;

/// The only version of the API that exists (KVM API documentation,
/// "KVM_GET_API_VERSION").
const API_VERSION: i32 = 12;

/// One CPUID leaf or subleaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidEntry {
    /// The leaf: EAX on entry.
    pub leaf: u32,
    /// The subleaf: ECX on entry, if `indexed`.
    pub subleaf: u32,
    /// Whether the subleaf matters.
    pub indexed: bool,
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl From<&kvm_cpuid_entry2> for CpuidEntry {
    fn from(entry: &kvm_cpuid_entry2) -> Self {
        Self {
            leaf: entry.function,
            subleaf: entry.index,
            indexed: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        }
    }
}

impl From<&CpuidEntry> for kvm_cpuid_entry2 {
    fn from(entry: &CpuidEntry) -> Self {
        Self {
            function: entry.leaf,
            index: entry.subleaf,
            flags: if entry.indexed {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Self::default()
        }
    }
}

/// Turns our table into KVM's.
pub(super) fn to_kvm_cpuid(table: &[CpuidEntry]) -> Result<CpuId, KvmError> {
    let entries: Vec<_> = table.iter().map(kvm_cpuid_entry2::from).collect();
    CpuId::from_entries(&entries).map_err(|_| KvmError::TooMany {
        what: "the CPUID table",
        len: entries.len(),
    })
}

/// An open KVM device.
#[derive(Debug)]
pub struct Hypervisor {
    kvm: Kvm,
}

impl Hypervisor {
    /// Opens a KVM device, `/dev/kvm` as a rule.
    ///
    /// # Errors
    /// If it is missing, closed to us, no KVM device, or lacks what we need.
    pub fn open(path: &Path) -> Result<Self, KvmError> {
        let open_error = |error: io::Error| KvmError::Open {
            path: path.to_owned(),
            advice: access::advice(path, &error),
            error,
        };
        let c_path = CString::new(path.as_os_str().as_bytes())
            .map_err(|nul| open_error(io::Error::new(io::ErrorKind::InvalidInput, nul)))?;
        let kvm = Kvm::new_with_path(&c_path)
            .map_err(|error| open_error(io::Error::from_raw_os_error(error.errno())))?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(KvmError::NotKvm {
                path: path.to_owned(),
                version,
            });
        }
        let needed = [
            (Cap::Irqchip, "an in-kernel interrupt controller"),
            (Cap::Irqfd, "irqfd"),
            (Cap::UserMemory, "user memory regions"),
            (Cap::SetTssAddr, "KVM_SET_TSS_ADDR"),
            (Cap::ExtCpuid, "CPUID tables"),
            (Cap::ImmediateExit, "immediate_exit"),
        ];
        for (cap, name) in needed {
            if !kvm.check_extension(cap) {
                return Err(KvmError::Missing(name));
            }
        }
        Ok(Self { kvm })
    }

    /// The device, for [`super::Features`].
    pub(super) fn fd(&self) -> &Kvm {
        &self.kvm
    }

    /// The CPUID leaves that this KVM can give a guest.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, KvmError> {
        let table = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(ioctl("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(table.as_slice().iter().map(CpuidEntry::from).collect())
    }

    /// The MSRs that may be part of a vCPU's state on this host.
    ///
    /// # Errors
    /// What the ioctl says.
    pub fn state_msrs(&self) -> Result<Vec<MsrIndex>, KvmError> {
        let listed = self.kvm.get_msr_index_list();
        let listed = listed.map_err(ioctl("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(vcpu_image::candidates(listed.as_slice()))
    }

    /// Whether KVM's local APIC has a TSC-deadline timer.
    #[must_use]
    pub fn has_tsc_deadline_timer(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The most vCPUs that one VM may have here.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Creates a VM with an in-kernel interrupt controller over `memory`.
    ///
    /// # Errors
    /// What the ioctls say.
    pub fn create_vm(&self, memory: GuestRam) -> Result<Vm, KvmError> {
        let fd = self.kvm.create_vm().map_err(ioctl("KVM_CREATE_VM"))?;
        Vm::set_up(fd, memory)
    }
}
