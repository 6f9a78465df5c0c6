//! A virtual machine put together: memory, tables, devices, vCPUs.

pub mod acpi;
mod beginning;
pub mod boot;
mod build_error;
pub mod builder;
pub mod cpuid;
mod extras;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod host_full;
pub mod hotplug;
mod layers;
pub mod memory;
mod mover;
mod moving;
mod own_devices;
mod parts;
mod platform;
mod presence;
mod restored;
mod saved_memory;
mod saving;
mod serial_file;
mod vcpus;
pub mod virtio;

pub use build_error::BuildError;
pub use builder::{Machine, MachineControl};
pub use extras::MachineExtras;
pub use host_full::HostFull;
pub use hotplug::{Hotplug, HotplugError};
pub use mover::{MoveOrder, MoveReport, MoveStage, Mover};
pub use platform::DeviceSet;
pub use restored::RestoredError;
pub use saving::{SaveError, SaveOrder};
pub use serial_file::SerialFileError;
pub use vcpus::StartError;
pub use virtio::{DeviceContext, DeviceError, DeviceMaker, NamedDevice};
