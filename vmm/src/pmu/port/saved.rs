//! The port of a vCPU in a snapshot. Monitors are the operator's, and no part of it.

use serde::{Deserialize, Serialize};
use vpmu::Rules;
use vpmu::guest::Model;
use vpmu::host::HostPmu;
use vpmu::ids::VcpuId;

use super::PmuPort;
use crate::pmu::DynVcpuPmu;
use crate::pmu::lost_reads::LostReads;
use crate::pmu::rdpmc::{SavedText, Sites};
use crate::stop::PortError;
use crate::vcpu::PortNotSaved;

/// The vCPU whose port has what is the VM's: the boot CPU never leaves.
const BOOT_CPU: VcpuId = VcpuId(0);

/// What a port is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPort {
    /// The PMU, in a form of its own with its own versions.
    pmu: Vec<u8>,
    /// Counter writes without a read, and whether reads are lost.
    pub(super) lost_reads: (u32, bool),
    /// The VM's rewritten text, in the boot CPU's port.
    pub(super) text: Option<SavedText>,
}

impl SavedPort {
    /// That of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, PortError> {
        let damaged = |_| PortError::Snapshot("its bytes are damaged");
        let (saved, rest) = postcard::take_from_bytes(bytes).map_err(damaged)?;
        if rest.is_empty() {
            Ok(saved)
        } else {
            Err(PortError::Snapshot("its bytes are damaged"))
        }
    }

    /// The PMU, which goes on.
    pub(super) fn pmu(
        &self,
        model: Model,
        host: Box<dyn HostPmu + Send>,
        rules: Rules,
    ) -> Result<DynVcpuPmu, PortError> {
        Ok(DynVcpuPmu::restore(model, host, rules, &self.pmu)?)
    }

    /// What the guest's reads have become.
    pub(super) fn put_back(
        self,
        sites: &Sites,
        lost_reads: &mut LostReads,
    ) -> Result<(), PortError> {
        lost_reads.put_back(self.lost_reads);
        match self.text {
            Some(text) => sites.put_back(text).map_err(PortError::Snapshot),
            None => Ok(()),
        }
    }
}

impl PmuPort {
    pub(super) fn saved(&mut self) -> Result<Vec<u8>, PortNotSaved> {
        if self.uncore.is_some() {
            return Err(PortNotSaved {
                what: "an uncore PMU",
                flag: "--uncore",
            });
        }
        let saved = SavedPort {
            pmu: self.pmu.save(),
            lost_reads: self.lost_reads.saved(),
            text: (self.vcpu == BOOT_CPU).then(|| self.sites.saved()),
        };
        // Numbers and bytes always have a form.
        Ok(postcard::to_allocvec(&saved).unwrap_or_default())
    }
}
