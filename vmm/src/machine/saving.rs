//! A VM is saved: paused, then each part writes its section, then the memory.
//!
//! ```text
//! pause: vCPUs, devices ─▶ vCPUs and their ports ─▶ chips, clock ─▶ devices ─▶ memory ─▶ go on
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vpmu::ids::{MsrIndex, VcpuId};

use super::builder::MachineControl;
use super::saved_memory::{pages_of, write_pages};
use crate::devices::DeviceNotSaved;
use crate::kvm::{DirtyLog, KvmError, Vm, VmChips};
use crate::snapshot::{
    FLAGS, NeededBase, NewSnapshot, SectionError, Sections, SnapshotError, SnapshotFolder,
    SnapshotId, SnapshotIdentity,
};
use crate::sys::guest_ram::{GuestRam, PAGE};
use crate::sys::page_set::PageSet;
use crate::vcpu::presence::Presence;
use crate::vcpu::{NoAnswer, VcpuSaveError};

/// The sections that are no device's.
pub(super) const MACHINE: &str = "machine";
pub(super) const CHIPS: &str = "chips";

/// The most snapshots that one needs, itself included.
pub(super) const MOST_LAYERS: u32 = 64;

/// The section of a vCPU.
pub(super) fn vcpu_section(vcpu: VcpuId) -> String {
    format!("vcpu{vcpu}")
}

/// What no part of the machine has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MachineSection {
    /// The vCPUs that the guest has; the others are as after power-on.
    pub(super) vcpus: Vec<u16>,
    /// Bytes of guest memory.
    pub(super) memory: u64,
}

/// The reason why a VM is not saved. It goes on as before.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The folder cannot be written.
    #[error(transparent)]
    Folder(#[from] SnapshotError),
    /// The vCPUs do not stand.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// A vCPU cannot be saved.
    #[error(transparent)]
    Vcpu(#[from] VcpuSaveError),
    /// It ends by itself.
    #[error("the VM is ending")]
    Ends,
    /// A vCPU comes or goes.
    #[error("vCPU {vcpu} is being added or removed; try again when that is done")]
    Hotplug {
        /// The vCPU.
        vcpu: VcpuId,
    },
    /// A device cannot be saved.
    #[error(transparent)]
    Device(#[from] DeviceNotSaved),
    /// A section cannot be written.
    #[error(transparent)]
    Section(#[from] SectionError),
    /// KVM does not give a part.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no KVM behind this VM.
    #[error("this VM has no KVM whose state could be saved")]
    NoKvm,
    /// The flags have no form as text.
    #[error("{0}")]
    Flags(String),
    /// A migration has the notes of written pages.
    #[error("the VM is being moved; end that first: perfvisor ctl migrate --cancel")]
    Migrates,
    /// Nobody noted what was written.
    #[error("nothing was noted since {base}: only a snapshot with --track or --base can be a base")]
    NotTracked {
        /// The base that is wanted.
        base: PathBuf,
    },
    /// The notes begin at another snapshot.
    #[error("{base} is no base here: what was written is noted since {last}")]
    OtherBase {
        /// The base that is wanted.
        base: PathBuf,
        /// The one that can be had.
        last: PathBuf,
    },
    /// A restore would read too many folders.
    #[error("{base} needs {MOST_LAYERS} snapshots already; take one without --base")]
    Layers {
        /// The base that is wanted.
        base: PathBuf,
    },
    /// The host gives no random bytes.
    #[error("cannot name the snapshot")]
    Random(#[source] io::Error),
    /// What the guest's guests are cannot be saved.
    #[error("a VM with --cpus nested=on cannot be saved yet; start it without")]
    Nested,
}

/// What a snapshot is to be.
#[derive(Clone, Debug, Default)]
pub struct SaveOrder {
    /// The folder, which is new.
    pub dir: PathBuf,
    /// The VM stays paused.
    pub stays: bool,
    /// The snapshot before, since which the pages are wanted; `None` for all pages.
    pub base: Option<PathBuf>,
    /// The next snapshot may have this one as its base.
    pub track: bool,
}

/// Who uses the notes of written pages.
#[derive(Debug)]
pub(super) enum LogUse {
    /// Nobody: there are none.
    Nobody,
    /// The next snapshot.
    Base(TrackedBase),
    /// A migration.
    Migration,
}

/// The snapshot that may be a base.
#[derive(Debug)]
pub(super) struct TrackedBase {
    id: SnapshotId,
    path: PathBuf,
    /// How many snapshots it needs, itself included.
    layers: u32,
    /// Pages that were written since, of notes that have been taken.
    written: PageSet,
}

/// The parts of a machine that only a snapshot needs.
#[derive(Debug)]
pub(super) struct VmSaver {
    chips: VmChips,
    pub(super) memory: GuestRam,
    pub(super) dirty: DirtyLog,
    log_use: Mutex<LogUse>,
    /// The MSRs that a vCPU may have here.
    msrs: Arc<[MsrIndex]>,
    /// The flags of `perfvisor run` as text, or why there is none.
    flags: Result<String, String>,
    nested: bool,
}

impl VmSaver {
    /// One for this VM, whose vCPUs may have `msrs`.
    pub(super) fn new(
        vm: &Vm,
        msrs: Arc<[MsrIndex]>,
        flags: Result<String, String>,
        nested: bool,
    ) -> Self {
        Self {
            chips: vm.chips(),
            memory: vm.memory().clone(),
            dirty: vm.dirty_log(),
            log_use: Mutex::new(LogUse::Nobody),
            msrs,
            flags,
            nested,
        }
    }

    pub(super) fn log_use(&self) -> MutexGuard<'_, LogUse> {
        self.log_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flags of a VM that can be saved.
    pub(super) fn flags(&self) -> Result<&str, SaveError> {
        if self.nested {
            return Err(SaveError::Nested);
        }
        let flags = self.flags.as_ref();
        Ok(flags.map_err(|why| SaveError::Flags(why.clone()))?)
    }

    /// Saves the VM as `order` says. It is paused meanwhile, and stays so if it was.
    pub(super) fn save(
        &self,
        control: &MachineControl,
        order: &SaveOrder,
        within: Duration,
    ) -> Result<(), SaveError> {
        let flags = self.flags()?;
        let mut log_use = self.log_use();
        if matches!(*log_use, LogUse::Migration) {
            return Err(SaveError::Migrates);
        }
        if let Some(base) = &order.base {
            check_base(base, &log_use)?;
        }
        let new = NewSnapshot::begin(&order.dir)?;
        let was_paused = control.vcpus.is_paused();
        control.pause(within)?;
        let saved = self.sections(control, flags, within);
        let saved = saved.and_then(|sections| self.write(order, new, sections, &mut log_use));
        if !(was_paused || order.stays && saved.is_ok()) {
            control.resume();
        }
        saved
    }

    /// Writes the memory and all sections of a VM that stands, and has the notes go on from
    /// here if they are wanted.
    fn write(
        &self,
        order: &SaveOrder,
        new: NewSnapshot,
        mut sections: Sections,
        log_use: &mut LogUse,
    ) -> Result<(), SaveError> {
        // More of them take too much room in the state; the pages between are as they were.
        const MOST_RANGES: usize = 1 << 20;
        let id = SnapshotId::new().map_err(SaveError::Random)?;
        let (mut base, mut layers) = (None, 1);
        let mut pages: Vec<_> = std::iter::once(0..pages_of(&self.memory)).collect();
        if let (Some(path), LogUse::Base(tracked)) = (&order.base, &mut *log_use) {
            tracked.written.merge(&self.dirty.take()?);
            pages = tracked.written.few_ranges(MOST_RANGES);
            base = Some(NeededBase::new(path, tracked.id, &pages));
            layers = tracked.layers + 1;
        }
        sections.put(SnapshotIdentity::SECTION, &SnapshotIdentity { id, base })?;
        let written = write_pages(&self.memory, &pages, new.memory());
        written.map_err(|source| new.memory_error(source))?;
        let goes_on = order.track || order.base.is_some();
        // Notes since a base go on until this snapshot is complete.
        if goes_on && matches!(log_use, LogUse::Nobody) {
            self.dirty.start()?;
        }
        if let Err(error) = new.finish(&sections) {
            if matches!(log_use, LogUse::Nobody) {
                self.dirty.stop();
            }
            return Err(error.into());
        }
        if goes_on {
            // The VM stands: what is left are pages that this snapshot has.
            self.dirty.take()?;
            *log_use = LogUse::Base(TrackedBase {
                id,
                path: order.dir.clone(),
                layers,
                written: PageSet::default(),
            });
        } else if matches!(log_use, LogUse::Base(_)) {
            self.dirty.stop();
            *log_use = LogUse::Nobody;
        }
        Ok(())
    }

    /// Everything but the memory.
    pub(super) fn sections(
        &self,
        control: &MachineControl,
        flags: &str,
        within: Duration,
    ) -> Result<Sections, SaveError> {
        let mut sections = Sections::default();
        sections.put(FLAGS, &flags)?;
        let mut vcpus = Vec::new();
        for report in control.hotplug.reports() {
            let vcpu = report.vcpu;
            match report.presence {
                Presence::Present => vcpus.push(vcpu.0),
                Presence::Absent => {}
                Presence::Offered | Presence::AskedToLeave | Presence::Leaving | Presence::Lost => {
                    return Err(SaveError::Hotplug { vcpu });
                }
            }
        }
        let saved = control.vcpus.save(&self.msrs, within)?;
        // A vCPU whose thread has ended owes no answer.
        if !saved
            .iter()
            .map(|section| section.vcpu)
            .eq(vcpus.iter().copied())
        {
            return Err(SaveError::Ends);
        }
        for section in saved {
            sections.put(&vcpu_section(VcpuId(section.vcpu)), &section)?;
        }
        let machine = MachineSection {
            vcpus,
            memory: pages_of(&self.memory) * PAGE as u64,
        };
        sections.put(MACHINE, &machine)?;
        sections.put(CHIPS, &self.chips.save()?)?;
        control.devices.save(&mut sections)?;
        Ok(sections)
    }
}

/// The base is there, and it is the snapshot since which written pages are noted.
fn check_base(base: &Path, log_use: &LogUse) -> Result<(), SaveError> {
    let base = base.to_owned();
    let LogUse::Base(tracked) = log_use else {
        return Err(SaveError::NotTracked { base });
    };
    let identity: SnapshotIdentity =
        SnapshotFolder::open(&base)?.take(SnapshotIdentity::SECTION)?;
    if identity.id != tracked.id {
        let last = tracked.path.clone();
        return Err(SaveError::OtherBase { base, last });
    }
    if tracked.layers >= MOST_LAYERS {
        return Err(SaveError::Layers { base });
    }
    Ok(())
}
