//! The devices that a guest reaches by ports, memory-mapped registers and PCI.

pub mod bus;
pub mod cpu_hotplug;
pub mod debug_exit;
pub mod i8042;
pub mod panic;
pub mod pci;
pub mod power;
pub mod serial;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
