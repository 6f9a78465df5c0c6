//! PCI: one bus, found by memory (ECAM) and by ports 0xcf8 to 0xcff.
//!
//! ```text
//!   guest ─▶ ConfigMemory ─┐
//!                          ├▶ PciBus ─▶ HostBridge (00:00.0), functions (00:01.0 …)
//!   guest ─▶ ConfigPorts ──┘
//! ```
//! Every function is function 0 of its device. None has I/O ports or a legacy interrupt
//! line: interrupts are MSI-X messages. A BAR stays where the VMM has put it: a
//! function whose BAR says another address answers at none.

mod aml;
mod bus;
mod config_space;
mod host_bridge;
mod msix;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod testing;

pub use bus::{
    CONFIG_PORT_COUNT, CONFIG_PORTS, ConfigMemory, ConfigPorts, MAX_FUNCTIONS, PciBus, PciFunction,
};
pub use config_space::{ConfigSpace, FunctionIds};
pub use host_bridge::HostBridge;
pub use msix::{InterruptLine, MAX_VECTORS, Msix, SavedMsix, VECTOR_LEN};
