//! Devices that the host's kernel serves (vhost): a network card at a tap device, and
//! sockets between guest and host. The guest's packets do not pass through us.

mod device;
mod memory;
mod net;
mod vsock;

pub use device::KernelDevice;
pub use net::{CardAtTap, open as open_tap};
pub use vsock::{VsockEngine, open as open_vsock};
