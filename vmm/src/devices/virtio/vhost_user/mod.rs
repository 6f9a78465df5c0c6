//! Devices that another process serves (vhost-user): files, networks, disks.
//!
//! We are the front end: we know the guest's registers and where its queues are, and
//! give the queues, the memory and the eventfds to the process, the back end. From then
//! on guest and process talk without us.
//!
//! A back end that goes away, answers nonsense or does not answer ends the VM, with the
//! reason: a guest has no way to lose such a device.

mod connection;
mod device;
mod fault;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod kind;
#[cfg(test)]
mod tests;
mod watch;

pub use device::{Backend, BackendUnusable, VhostUserDevice};
pub use kind::BackendKind;
