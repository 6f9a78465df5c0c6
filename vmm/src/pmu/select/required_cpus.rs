//! The host CPUs of vCPU threads: those of `--cpus affinity=`, and those on which
//! their PMU counts.

use vpmu::host::linux::sysfs::{CpuSet, Sysfs};
use vpmu::ids::VcpuId;

use super::{PmuBacking, SelectError};
use crate::config::CpusConfig;
use crate::sys::affinity::Tid;
use crate::vcpu::{RequiredCpus, VcpuAffinity};

/// The CPUs of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCpus {
    /// Those that are online.
    pub online: CpuSet,
    /// Those that this process may use, as it was started.
    pub allowed: CpuSet,
}

impl HostCpus {
    /// As they are now. Where sysfs does not tell what is online, it is what
    /// this process may use.
    #[must_use]
    pub fn read(sysfs: &Sysfs) -> Self {
        let online = sysfs.online_cpus();
        match (online, Tid::current().affinity()) {
            (Ok(online), Ok(allowed)) => Self { online, allowed },
            (Ok(cpus), Err(_)) | (Err(_), Ok(cpus)) => Self {
                online: cpus.clone(),
                allowed: cpus,
            },
            (Err(_), Err(_)) => Self {
                online: CpuSet::default(),
                allowed: CpuSet::default(),
            },
        }
    }
}

/// Where each vCPU runs. `backing` is `None` for a guest without a PMU.
///
/// # Errors
/// [`SelectError`] if a vCPU may run where its PMU does not count, or nowhere.
pub fn place(
    cpus: &CpusConfig,
    backing: Option<&PmuBacking>,
    host: &HostCpus,
) -> Result<Vec<VcpuAffinity>, SelectError> {
    let required = |vcpu| backing.and_then(|backing| backing.required_cpus(vcpu, &host.online));
    cpus.possible()
        .map(|vcpu| place_one(vcpu, cpus.affinity.of(vcpu), required(vcpu), host))
        .collect()
}

fn place_one(
    vcpu: VcpuId,
    asked: Option<&CpuSet>,
    required: Option<RequiredCpus>,
    host: &HostCpus,
) -> Result<VcpuAffinity, SelectError> {
    if let Some(asked) = asked
        && !asked.is_subset(&host.online)
    {
        return Err(SelectError::Offline {
            vcpu,
            asked: asked.clone(),
            online: host.online.clone(),
        });
    }
    let bind = match (asked, &required) {
        (Some(asked), Some(required)) if !asked.is_subset(&required.cpus) => {
            return Err(SelectError::Contradiction {
                vcpu,
                asked: asked.clone(),
                pmu: required.pmu.clone(),
                counts: required.cpus.clone(),
            });
        }
        (Some(asked), _) => Some(asked.clone()),
        (None, Some(required)) => Some(allowed_of(required, host)?),
        (None, None) => None,
    };
    Ok(VcpuAffinity {
        bind,
        required_cpus: required,
    })
}

/// The CPUs of a PMU that this process may use.
fn allowed_of(required: &RequiredCpus, host: &HostCpus) -> Result<CpuSet, SelectError> {
    let cpus = required.cpus.intersection(&host.allowed);
    if cpus.is_empty() {
        return Err(SelectError::NotAllowedThere {
            pmu: required.pmu.clone(),
            counts: required.cpus.clone(),
            allowed: host.allowed.clone(),
        });
    }
    Ok(cpus)
}
