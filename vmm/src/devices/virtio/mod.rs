//! Virtio devices (Virtual I/O Device Specification 1.2, OASIS).
//!
//! A device knows its queues, its features and its configuration, and no transport; the
//! transport (PCI) knows registers and interrupts, and no device.
//!
//! ```text
//!  guest driver ──▶ transport ──activate──▶ VirtioDevice ──▶ its worker thread
//!   queues in RAM ◀───────────── kick, call (eventfds, no exit to us) ─────┘
//! ```

pub mod backend;
pub mod block;
pub mod console;
mod device;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod pci;
mod queue;
pub mod rng;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod testing;
mod threaded;
pub mod vhost;
pub mod vhost_kernel;
mod vhost_rings;
mod vhost_run;
pub mod vhost_user;
mod worker;

pub use device::{
    ActivateError, Activation, ActiveQueue, ConfigInterrupt, DeviceKind, OutputState,
    QueuePosition, RestoreFault, SaveFault, SavedDevice, VirtioDevice,
};
pub(crate) use threaded::Threaded;

/// Answers a read of a device's configuration: bytes beyond its end are 0.
fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).ok();
    let from = from.and_then(|offset| config.get(offset..));
    for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
        *to = *from;
    }
}
