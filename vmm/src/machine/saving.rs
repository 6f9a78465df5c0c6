//! A VM is saved: paused, then each part writes its section, then the memory.
//!
//! ```text
//! pause: vCPUs, devices ─▶ vCPUs and their ports ─▶ chips, clock ─▶ devices ─▶ memory ─▶ go on
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vpmu::ids::{MsrIndex, VcpuId};

use super::builder::MachineControl;
use crate::devices::DeviceNotSaved;
use crate::kvm::{KvmError, Vm, VmChips};
use crate::snapshot::{FLAGS, NewSnapshot, SectionError, Sections, SnapshotError};
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::presence::Presence;
use crate::vcpu::{NoAnswer, VcpuSaveError};

/// The sections that are no device's.
pub(super) const MACHINE: &str = "machine";
pub(super) const CHIPS: &str = "chips";

/// The section of a vCPU.
pub(super) fn vcpu_section(vcpu: VcpuId) -> String {
    format!("vcpu{vcpu}")
}

/// What no part of the machine has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MachineSection {
    /// The vCPUs that the guest has; the others are as after power-on.
    pub(super) vcpus: Vec<u16>,
    /// Nanoseconds of the host's wall clock when the vCPUs were saved.
    pub(super) realtime: u64,
    /// Bytes of guest memory.
    pub(super) memory: u64,
}

/// The host's wall clock, in nanoseconds.
pub(super) fn realtime() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
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
    /// What the guest's guests are cannot be saved.
    #[error("a VM with --cpus nested=on cannot be saved yet; start it without")]
    Nested,
}

/// The parts of a machine that only a snapshot needs.
#[derive(Debug)]
pub(super) struct VmSaver {
    chips: VmChips,
    memory: GuestRam,
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
            msrs,
            flags,
            nested,
        }
    }

    /// Saves the VM into the folder `dir`, which is new. It is paused meanwhile, and stays
    /// so if it was, or if `stays`.
    pub(super) fn save(
        &self,
        control: &MachineControl,
        dir: &Path,
        stays: bool,
        within: Duration,
    ) -> Result<(), SaveError> {
        if self.nested {
            return Err(SaveError::Nested);
        }
        let flags = self
            .flags
            .as_ref()
            .map_err(|why| SaveError::Flags(why.clone()))?;
        let new = NewSnapshot::begin(dir)?;
        let was_paused = control.vcpus.is_paused();
        control.pause(within)?;
        let saved = self.sections(control, flags, within).and_then(|sections| {
            let written = write_memory(&self.memory, new.memory());
            written.map_err(|source| new.memory_error(source))?;
            Ok(new.finish(&sections)?)
        });
        if !(was_paused || stays && saved.is_ok()) {
            control.resume();
        }
        saved
    }

    /// Everything but the memory.
    fn sections(
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
            realtime: realtime(),
            memory: self.memory.iter().map(GuestMemoryRegion::len).sum(),
        };
        sections.put(MACHINE, &machine)?;
        sections.put(CHIPS, &self.chips.save()?)?;
        control.devices.save(&mut sections)?;
        Ok(sections)
    }
}

/// Writes the memory, one region behind the other. Where it is zero the file has a hole.
fn write_memory(memory: &GuestRam, file: &File) -> io::Result<()> {
    const PIECE: usize = 256 << 10;
    let mut piece = vec![0; PIECE];
    let mut base = 0;
    for region in memory.iter() {
        let mut at = 0;
        while at < region.len() {
            let left = usize::try_from(region.len() - at).unwrap_or(usize::MAX);
            let piece = &mut piece[..left.min(PIECE)];
            let read = region.read_slice(piece, MemoryRegionAddress(at));
            read.map_err(io::Error::other)?;
            write_pages(file, piece, base + at)?;
            at += piece.len() as u64;
        }
        base += region.len();
    }
    file.set_len(base)
}

/// Writes the pages that are not zero, neighbours at once.
fn write_pages(file: &File, piece: &[u8], at: u64) -> io::Result<()> {
    const PAGE: usize = 4096;
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let mut start = None;
    for (number, bytes) in piece.chunks(PAGE).enumerate() {
        let offset = number * PAGE;
        match (ZEROS.starts_with(bytes), start) {
            (false, None) => start = Some(offset),
            (true, Some(first)) => {
                file.write_all_at(&piece[first..offset], at + first as u64)?;
                start = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
    match start {
        Some(first) => file.write_all_at(&piece[first..], at + first as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::GuestAddress;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn memory_is_written_in_its_order_and_zeros_are_holes() {
        let Scratch(dir) = &Scratch::new("write-memory");
        let file = File::options();
        let file = { file }
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("m"));
        let file = file.unwrap();
        let ranges = [(GuestAddress(0), 1 << 20), (GuestAddress(4 << 30), 2 << 20)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let places = [
            (0, 0usize),
            (4095, 4095),
            (0x8_0000, 0x8_0000),
            (4 << 30, 1 << 20),
        ];
        let last = ((4u64 << 30) + (2 << 20) - 1, (3 << 20) - 1);
        for (address, _) in places.into_iter().chain([last]) {
            memory.write_obj(0x5au8, GuestAddress(address)).unwrap();
        }
        write_memory(&memory, &file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 3 << 20);
        assert!(metadata.blocks() * 512 < 64 << 10, "{}", metadata.blocks());
        let mut all = vec![0; 3 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        let set: Vec<_> = (0..all.len()).filter(|&at| all[at] != 0).collect();
        let expected = places.into_iter().chain([last]).map(|(_, at)| at);
        assert_eq!(set, expected.collect::<Vec<_>>());
    }
}
