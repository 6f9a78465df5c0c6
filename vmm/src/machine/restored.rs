//! A VM from a snapshot: what the builder needs of it, in place of a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use thiserror::Error;
use vpmu::ids::VcpuId;

use super::layers::MemoryLayers;
use super::memory::{MemoryError, RamLayout};
use super::saved_memory::{self, pages_of};
use super::saving::{CHIPS, MACHINE, MachineSection, vcpu_section};
use crate::config::VmConfig;
use crate::kvm::{CpuidEntry, KvmError, SavedChips, SavedVcpu, TscMoment, VmChips};
use crate::snapshot::stream::{StreamError, StreamRecord};
use crate::snapshot::{
    FLAGS, IncomingVm, SectionError, Sections, SnapshotError, SnapshotFolder, SnapshotIdentity,
};
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::VcpuSection;

/// The reason why a VM cannot go on from a snapshot.
#[derive(Debug, Error)]
pub enum RestoredError {
    /// The folder or a section of it cannot be used.
    #[error("--restore")]
    Folder(#[source] SnapshotError),
    /// What comes from the source cannot be used.
    #[error("--incoming")]
    Stream(#[from] StreamError),
    /// The parts of what comes do not fit together.
    #[error("--incoming: {0}")]
    Strange(String),
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
    #[error("this host lacks what the guest's CPU has: {}", .lacks.join(", "))]
    Lacks {
        /// The features, as bits of CPUID.
        lacks: Vec<String>,
    },
    /// The memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A page cannot be written.
    #[error("--incoming: a page of the guest's memory")]
    Page(#[from] io::Error),
    /// KVM refuses a part.
    #[error("KVM does not take the state of the guest")]
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

/// The state of a VM that was read and looked at.
#[derive(Debug)]
pub(super) struct RestoredVm {
    sections: SavedSections,
    /// Its memory; `None` if that is there already.
    memory: Option<MemoryLayers>,
    machine: MachineSection,
    chips: SavedChips,
    /// For the threads of the vCPUs, each once.
    pub(super) vcpus: Arc<SavedVcpus>,
}

/// Sections, and where they come from.
#[derive(Debug)]
struct SavedSections {
    /// The folder; `None` for a stream.
    folder: Option<PathBuf>,
    sections: Sections,
}

/// The vCPUs of a snapshot.
#[derive(Debug)]
pub(super) struct SavedVcpus {
    sections: Mutex<BTreeMap<VcpuId, VcpuSection>>,
    /// The boot CPU's TSC, from which all go on.
    pub(super) tsc: TscMoment,
}

impl SavedSections {
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, RestoredError> {
        let taken = self.sections.take(name);
        taken.map_err(|source| self.error(source))
    }

    fn error(&self, source: SectionError) -> RestoredError {
        match &self.folder {
            Some(folder) => RestoredError::Folder(SnapshotError::section(folder, source)),
            None => RestoredError::Stream(source.into()),
        }
    }

    fn misfit(&self, what: &str) -> RestoredError {
        match &self.folder {
            Some(folder) => RestoredError::misfit(folder, what),
            None => RestoredError::Strange(what.to_owned()),
        }
    }
}

impl RestoredVm {
    /// Reads what the machine needs first of a snapshot.
    ///
    /// # Errors
    /// If a part is missing or damaged, or is not of a VM with these flags.
    pub(super) fn read(folder: SnapshotFolder, config: &VmConfig) -> Result<Self, RestoredError> {
        let mut sections = SavedSections {
            folder: Some(folder.path.clone()),
            sections: folder.sections,
        };
        let identity = sections.take(SnapshotIdentity::SECTION)?;
        let size = folder.memory.size;
        if size != config.memory.size {
            return Err(sections.misfit(&other_size(size, config)));
        }
        let layers = MemoryLayers::open(&folder.path, folder.memory, identity)?;
        Self::of_sections(sections, Some(layers), config)
    }

    /// Room for the memory of a VM that comes.
    ///
    /// # Errors
    /// If it is not of a VM with these flags, or the host has no room.
    pub(super) fn room(
        incoming: &IncomingVm,
        config: &VmConfig,
    ) -> Result<GuestRam, RestoredError> {
        let size = config.memory.size;
        if incoming.hello.memory != size {
            let other = other_size(incoming.hello.memory, config);
            return Err(RestoredError::Strange(other));
        }
        Ok(RamLayout::of(size).allocate(config.memory, false)?)
    }

    /// Takes the memory as it comes, until the state has come.
    ///
    /// # Errors
    /// If a part is missing or damaged, or is not of a VM with these flags.
    pub(super) fn receive(
        incoming: &mut IncomingVm,
        memory: &GuestRam,
        config: &VmConfig,
    ) -> Result<Self, RestoredError> {
        let next = |pages, buffer: &mut _| incoming.record(pages, buffer);
        let sections = Self::take_records(memory, next)?;
        let folder = None;
        let mut sections = SavedSections { folder, sections };
        // They came first.
        let _: String = sections.take(FLAGS)?;
        Self::of_sections(sections, None, config)
    }

    /// Takes the memory as `next` gives it, for as many pages and with a buffer for their
    /// bytes, until the state is there.
    pub(super) fn take_records(
        memory: &GuestRam,
        mut next: impl FnMut(u64, &mut Vec<u8>) -> Result<StreamRecord, StreamError>,
    ) -> Result<Sections, RestoredError> {
        let pages = pages_of(memory);
        let mut buffer = Vec::new();
        loop {
            match next(pages, &mut buffer)? {
                StreamRecord::Pages(range) => saved_memory::put(memory, range.start, &buffer)?,
                StreamRecord::Zeros(range) => saved_memory::clear(memory, &range)?,
                StreamRecord::State(sections, _) => return Ok(sections),
            }
        }
    }

    /// The state of a VM whose memory is there, for who fuzzes it.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn of_stream_sections(
        sections: Sections,
        config: &VmConfig,
    ) -> Result<Self, RestoredError> {
        let folder = None;
        Self::of_sections(SavedSections { folder, sections }, None, config)
    }

    fn of_sections(
        mut sections: SavedSections,
        memory: Option<MemoryLayers>,
        config: &VmConfig,
    ) -> Result<Self, RestoredError> {
        let machine: MachineSection = sections.take(MACHINE)?;
        let chips = sections.take(CHIPS)?;
        if machine.memory != config.memory.size {
            return Err(sections.misfit(&other_size(machine.memory, config)));
        }
        let ids: BTreeSet<_> = machine.vcpus.iter().copied().collect();
        let possible = ids.iter().all(|id| *id < config.cpus.max);
        if !ids.contains(&0) || !possible || ids.len() != machine.vcpus.len() {
            return Err(sections.misfit("its list of vCPUs is damaged"));
        }
        let mut vcpus = BTreeMap::new();
        for &id in &machine.vcpus {
            let section: VcpuSection = sections.take(&vcpu_section(VcpuId(id)))?;
            vcpus.insert(VcpuId(id), section);
        }
        let boot = vcpus.get(&VcpuId(0)).map(|boot: &VcpuSection| &boot.kvm);
        let tsc = boot.map(SavedVcpu::tsc).unwrap_or_default();
        Ok(Self {
            chips,
            vcpus: Arc::new(SavedVcpus {
                sections: Mutex::new(vcpus),
                tsc,
            }),
            machine,
            memory,
            sections,
        })
    }

    /// The memory: of a snapshot, pages come from the file when the guest uses them, and
    /// what it writes stays its own.
    pub(super) fn memory(&self, config: &VmConfig) -> Result<GuestRam, RestoredError> {
        match &self.memory {
            Some(layers) => layers.map(config.memory),
            None => Err(self.sections.misfit("it has no memory")),
        }
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
        self,
        chips: &VmChips,
        devices: &super::platform::DeviceSet,
    ) -> Result<(), RestoredError> {
        chips.restore_chips(&self.chips)?;
        self.restore_devices(devices)
    }

    /// Restores the devices, the last that have sections.
    pub(super) fn restore_devices(
        mut self,
        devices: &super::platform::DeviceSet,
    ) -> Result<(), RestoredError> {
        let sections = &mut self.sections.sections;
        let restored = devices.restore(sections);
        let restored = restored.and_then(|()| sections.are_all_taken());
        restored.map_err(|source| self.sections.error(source))
    }
}

fn other_size(size: u64, config: &VmConfig) -> String {
    let guest = config.memory.size;
    format!("its memory has {size} bytes, and the guest has {guest}")
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
}
