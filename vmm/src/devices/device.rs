//! What every device is to the machine, whatever the guest reaches it by.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use acpi_tables::AmlSink;
use thiserror::Error;

use super::virtio::OutputState;
use super::{ResourceError, Resources};
use crate::snapshot::{SectionError, Sections};

/// A device of a machine.
///
/// The machine calls [`resources`](Device::resources) once, then `aml` and `acpi_event`;
/// then the guest runs. A pause stops all vCPUs and then the devices, in their order; a
/// resume lets the devices go on, the last one first, and then the vCPUs. No vCPU runs
/// any more when `reset` ends a device.
pub trait Device: Send + Debug {
    /// The name in logs and errors.
    fn name(&self) -> &str;

    /// Asks for the addresses and the interrupt lines that it needs.
    ///
    /// # Errors
    /// If another device has one of them.
    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError>;

    /// Adds its part of the DSDT. By default a guest finds it by other means.
    fn aml(&self, _sink: &mut dyn AmlSink) {}

    /// What the guest is to do when one of its lines is pulled, if ACPI says so.
    fn acpi_event(&self) -> Option<AcpiEvent> {
        None
    }

    /// Returns when its workers touch neither a queue nor guest memory. By default it has
    /// no workers.
    fn pause(&mut self) {}

    /// Has its workers go on after [`Device::pause`].
    fn resume(&mut self) {}

    /// Waits until the host has taken what the guest has written, for no longer than
    /// `within`. By default it keeps nothing.
    fn flush_output(&mut self, _within: Duration) -> OutputState {
        OutputState::Done
    }

    /// Returns when its workers have ended.
    fn reset(&mut self) {}

    /// Whether a device of its kind can be saved; asked before a VM is moved, while it works.
    ///
    /// # Errors
    /// [`DeviceNotSaved::Kind`].
    fn can_be_saved(&self) -> Result<(), DeviceNotSaved> {
        Ok(())
    }

    /// Writes what the guest has made of it into the sections of a snapshot. By default it
    /// has no state. Called while it is paused.
    ///
    /// # Errors
    /// If it cannot be saved.
    fn save(&mut self, _sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        Ok(())
    }

    /// Takes it back from there, before the guest runs. A device that worked is paused then.
    ///
    /// # Errors
    /// If its section is missing or damaged, or is of a device that is not like this one.
    fn restore(&mut self, _sections: &mut Sections) -> Result<(), SectionError> {
        Ok(())
    }
}

/// The reason why a device is not saved.
#[derive(Debug, Error)]
pub enum DeviceNotSaved {
    /// It cannot be.
    #[error("device {device} cannot be saved yet; start the VM without it")]
    Kind {
        /// The device.
        device: String,
    },
    /// The host does not let it be saved.
    #[error("device {device} cannot be saved")]
    Host {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// Its section cannot be written.
    #[error(transparent)]
    Section(#[from] SectionError),
}

/// An event of the DSDT's event device (ACPI 6.5, "Generic Event Device").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiEvent {
    /// The interrupt line.
    pub line: u32,
    /// What an edge on it has the guest do.
    pub action: AcpiAction,
}

/// What an event has the guest do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiAction {
    /// Notify a device of the DSDT.
    Notify {
        /// Its path.
        device: &'static str,
        /// The notification's number.
        value: u8,
    },
    /// Call a method without arguments.
    Call(&'static str),
}
