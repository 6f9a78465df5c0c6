//! What a guest begins with: a kernel that boots, or what it was, from which it goes on.

use std::sync::Arc;

use vpmu::ids::VcpuId;

use super::build_error::BuildError;
use super::extras::MachineExtras;
use super::hotplug::Hotplug;
use super::parts::{self, Blueprint, Files};
use super::platform::DeviceSet;
use super::restored::{RestoredVm, SavedVcpus};
use super::vcpus::{CreatedVcpus, VcpuBegin};
use crate::config::VmConfig;
use crate::kvm::{Hypervisor, Vm};
use crate::probe;
use crate::snapshot::{IncomingVm, SavedVm};

/// The beginning of a guest.
#[derive(Debug)]
pub(super) enum Beginning {
    /// It boots.
    Boot(Box<Files>),
    /// It comes.
    Incoming(Box<IncomingVm>),
    /// It goes on.
    Saved(Box<RestoredVm>),
}

impl Beginning {
    /// Opens the files of the kernel, or looks at the snapshot.
    pub(super) fn open(config: &VmConfig, saved: Option<SavedVm>) -> Result<Self, BuildError> {
        Ok(match saved {
            None => Self::Boot(Box::new(Files::open(config)?)),
            Some(SavedVm::Folder(folder)) => {
                Self::Saved(Box::new(RestoredVm::read(folder, config)?))
            }
            Some(SavedVm::Incoming(incoming)) => Self::Incoming(Box::new(incoming)),
        })
    }

    /// The kernel's files, which no console may overwrite.
    pub(super) fn files(&self) -> Option<&Files> {
        match self {
            Self::Boot(files) => Some(files),
            Self::Incoming(_) | Self::Saved(_) => None,
        }
    }

    /// A VM with its memory, and all vCPUs without a thread.
    pub(super) fn build(
        &mut self,
        blueprint: &Blueprint<'_>,
        config: &VmConfig,
        hypervisor: &Hypervisor,
        extras: &MachineExtras,
    ) -> Result<(Vm, CreatedVcpus), BuildError> {
        match self {
            Self::Boot(files) => {
                let (vm, state) = blueprint.build_vm(files, extras.share_memory(config))?;
                probe::check_kernel(&config.kernel, hypervisor)?;
                let created = blueprint.create_vcpus(&vm, VcpuBegin::Boot(state))?;
                Ok((vm, created))
            }
            Self::Incoming(incoming) => {
                // Before the guest stands: to make a VM takes KVM long.
                let vm = blueprint.vm_around(RestoredVm::room(incoming, config)?)?;
                let saved = RestoredVm::receive(incoming, vm.memory(), config)?;
                let created = blueprint.create_vcpus(&vm, VcpuBegin::Saved(&saved.vcpus))?;
                saved.restore_clock(&vm.chips())?;
                *self = Self::Saved(Box::new(saved));
                Ok((vm, created))
            }
            Self::Saved(saved) => {
                let vm = blueprint.vm_around(saved.memory(config)?)?;
                let created = blueprint.create_vcpus(&vm, VcpuBegin::Saved(&saved.vcpus))?;
                saved.restore_clock(&vm.chips())?;
                Ok((vm, created))
            }
        }
    }

    /// The vCPUs of a snapshot, for their threads.
    pub(super) fn saved_vcpus(&self) -> Option<Arc<SavedVcpus>> {
        match self {
            Self::Boot(_) | Self::Incoming(_) => None,
            Self::Saved(saved) => Some(Arc::clone(&saved.vcpus)),
        }
    }

    /// Gives the vCPUs that the guest has at first their threads, and has it find the
    /// devices: by ACPI, or as it left them.
    pub(super) fn begin(
        self,
        hotplug: &Hotplug,
        vm: &Vm,
        config: &VmConfig,
        devices: &DeviceSet,
    ) -> Result<(), BuildError> {
        match self {
            Self::Boot(_) => {
                hotplug.boot((0..config.cpus.boot).map(VcpuId))?;
                parts::write_tables(vm, &config.cpus, devices)
            }
            // It has come by now.
            Self::Incoming(_) => Ok(()),
            Self::Saved(saved) => {
                hotplug.boot(saved.present())?;
                Ok(saved.restore_rest(&vm.chips(), devices)?)
            }
        }
    }
}
