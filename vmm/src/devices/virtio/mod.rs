//! Virtio devices (Virtual I/O Device Specification 1.2, OASIS).
//!
//! A device knows its queues, its features and its configuration, and no transport; the
//! transport (PCI) knows registers and interrupts, and no device.
//!
//! ```text
//!  guest driver ──▶ transport ──activate──▶ VirtioDevice ──▶ its worker thread
//!   queues in RAM ◀───────────── kick, call (eventfds, no exit to us) ─────┘
//! ```

mod device;

pub use device::{
    ActivateError, Activation, ActiveQueue, ConfigInterrupt, DeviceKind, VirtioDevice,
};
