//! The devices that a guest reaches by ports, memory-mapped registers and PCI.

pub mod bus;
pub mod cpu_hotplug;
pub mod debug_exit;
mod device;
pub mod generation;
pub mod i8042;
pub mod panic;
pub mod pci;
pub mod power;
mod resources;
pub mod serial;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use device::{AcpiAction, AcpiEvent, Device, DeviceNotSaved};
pub use resources::{ResourceError, ResourceKind, ResourceRequest, Resources};
