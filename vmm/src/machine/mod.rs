//! A virtual machine put together: memory, tables, devices, vCPUs.

pub mod acpi;
pub mod boot;
pub mod builder;
pub mod cpuid;
pub mod layout;
pub mod memory;
mod parts;

pub use builder::{BuildError, Machine, MachineControl, PmuHooks, PortContext};
