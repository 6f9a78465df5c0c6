//! A VM from a snapshot: what the builder needs of it, in place of a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use vpmu::ids::VcpuId;

use super::layers::MemoryLayers;
use super::memory::MemoryError;
use super::saving::{CHIPS, MACHINE, MachineSection, realtime, vcpu_section};
use crate::config::VmConfig;
use crate::kvm::{CpuidEntry, KvmError, SavedChips, VmChips};
use crate::snapshot::{Identity, Sections, SnapshotError, SnapshotFolder};
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::VcpuSection;

/// The reason why a VM cannot go on from a snapshot.
#[derive(Debug, Error)]
pub enum RestoredError {
    /// The folder or a section of it cannot be used.
    #[error("--restore")]
    Folder(#[source] SnapshotError),
    /// The snapshot that it needs is not there.
    #[error("--restore: {path} needs its base")]
    Base {
        /// The folder that needs it.
        path: PathBuf,
        /// The folder of the base, and why not.
        source: SnapshotError,
    },
    /// Its parts do not fit together.
    #[error("--restore: {path}: {what}")]
    Misfit {
        /// The folder.
        path: PathBuf,
        /// Which parts.
        what: String,
    },
    /// The host's CPU or KVM lacks features that the guest has found.
    #[error("--restore: this host lacks what the guest's CPU has: {}", .lacks.join(", "))]
    Lacks {
        /// The features, as bits of CPUID.
        lacks: Vec<String>,
    },
    /// The memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM refuses a part.
    #[error("--restore: KVM does not take the state")]
    Kvm(#[from] KvmError),
}

impl RestoredError {
    /// Parts of the snapshot in this folder do not fit.
    pub(super) fn misfit(path: &Path, what: &str) -> Self {
        Self::Misfit {
            path: path.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// A snapshot that was read and looked at.
#[derive(Debug)]
pub(super) struct RestoredVm {
    path: PathBuf,
    sections: Sections,
    memory: MemoryLayers,
    machine: MachineSection,
    chips: SavedChips,
    /// For the threads of the vCPUs, each once.
    pub(super) vcpus: Arc<SavedVcpus>,
}

/// The vCPUs of a snapshot.
#[derive(Debug)]
pub(super) struct SavedVcpus {
    sections: Mutex<BTreeMap<VcpuId, VcpuSection>>,
    /// The boot CPU's TSC, its rate in kHz, and the wall clock of then.
    tsc: u64,
    khz: u32,
    realtime: u64,
}

impl RestoredVm {
    /// Reads the sections that the machine needs first.
    ///
    /// # Errors
    /// If one is missing or damaged, or is not of a VM with these flags.
    pub(super) fn read(
        mut folder: SnapshotFolder,
        config: &VmConfig,
    ) -> Result<Self, RestoredError> {
        let machine: MachineSection = folder.take(MACHINE).map_err(RestoredError::Folder)?;
        let chips = folder.take(CHIPS).map_err(RestoredError::Folder)?;
        let identity = folder
            .take(Identity::SECTION)
            .map_err(RestoredError::Folder)?;
        let misfit = |what: String| RestoredError::misfit(&folder.path, &what);
        if machine.memory != config.memory.size || folder.memory.size != machine.memory {
            return Err(misfit(format!(
                "its memory has {} bytes, and the guest has {}",
                folder.memory.size, config.memory.size
            )));
        }
        let ids: BTreeSet<_> = machine.vcpus.iter().copied().collect();
        let possible = ids.iter().all(|id| *id < config.cpus.max);
        if !ids.contains(&0) || !possible || ids.len() != machine.vcpus.len() {
            return Err(misfit("its list of vCPUs is damaged".to_owned()));
        }
        let mut vcpus = BTreeMap::new();
        for &id in &machine.vcpus {
            let section: VcpuSection = folder
                .take(&vcpu_section(VcpuId(id)))
                .map_err(RestoredError::Folder)?;
            vcpus.insert(VcpuId(id), section);
        }
        let boot = vcpus.get(&VcpuId(0)).map(|boot| &boot.kvm);
        let (tsc, khz) = boot.map_or((0, 0), |boot| (boot.tsc(), boot.tsc_rate().0));
        Ok(Self {
            chips,
            vcpus: Arc::new(SavedVcpus {
                sections: Mutex::new(vcpus),
                tsc,
                khz,
                realtime: machine.realtime,
            }),
            machine,
            memory: MemoryLayers::open(&folder.path, folder.memory, identity)?,
            path: folder.path,
            sections: folder.sections,
        })
    }

    /// The memory: pages come from the file when the guest uses them, and what it writes
    /// stays its own.
    pub(super) fn memory(&self, config: &VmConfig) -> Result<GuestRam, RestoredError> {
        self.memory.map(config.memory)
    }

    /// The vCPUs that the guest has.
    pub(super) fn present(&self) -> Vec<VcpuId> {
        self.machine.vcpus.iter().copied().map(VcpuId).collect()
    }

    /// Sets the guest's clock, before a vCPU is restored.
    pub(super) fn restore_clock(&self, chips: &VmChips) -> Result<(), RestoredError> {
        Ok(chips.restore_clock(&self.chips)?)
    }

    /// Restores the interrupt controllers, when all vCPUs have been, and the devices.
    ///
    /// # Errors
    /// If a section is missing, damaged, or nobody's.
    pub(super) fn restore_rest(
        mut self,
        chips: &VmChips,
        devices: &super::platform::DeviceSet,
    ) -> Result<(), RestoredError> {
        chips.restore_chips(&self.chips)?;
        let sections = &mut self.sections;
        let restored = devices.restore(sections);
        let restored = restored.and_then(|()| sections.are_all_taken());
        restored.map_err(|source| RestoredError::Folder(SnapshotError::section(&self.path, source)))
    }
}

impl SavedVcpus {
    /// The CPUID table of a saved vCPU, if this host has all of its features; `None` for a
    /// vCPU that was not saved.
    ///
    /// # Errors
    /// Names what the host lacks.
    pub(super) fn cpuid(
        &self,
        vcpu: VcpuId,
        here: &[CpuidEntry],
    ) -> Result<Option<Vec<CpuidEntry>>, RestoredError> {
        let sections = self.sections.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(section) = sections.get(&vcpu) else {
            return Ok(None);
        };
        let saved = section.kvm.cpuid();
        let lacks = super::cpuid::lacking(saved, here);
        if lacks.is_empty() {
            Ok(Some(saved.to_vec()))
        } else {
            Err(RestoredError::Lacks { lacks })
        }
    }

    /// What a vCPU was, once. `None` for one that was not saved, or comes again: it is as
    /// after power-on.
    pub(super) fn take(&self, id: VcpuId) -> Option<VcpuSection> {
        let mut sections = self.sections.lock().unwrap_or_else(PoisonError::into_inner);
        sections.remove(&id)
    }

    /// What the TSC is to be now: it has gone on while the guest did not run, as its clock has.
    pub(super) fn tsc_now(&self) -> u64 {
        let elapsed = u128::from(realtime().saturating_sub(self.realtime));
        let ticks = elapsed * u128::from(self.khz) / 1_000_000;
        self.tsc
            .wrapping_add(u64::try_from(ticks).unwrap_or_default())
    }
}
