//! Why a VM could not be built.

use std::io;

use thiserror::Error;

use super::boot::{BootError, ImageError, InitramfsError};
use super::memory::MemoryError;
use super::restored::RestoredError;
use super::serial_file::SerialFileError;
use super::vcpus::StartError;
use super::virtio::DeviceError;
use crate::config::Topology;
use crate::devices::virtio::pci::TransportError;
use crate::devices::{BusError, ResourceError};
use crate::kvm::KvmError;
use crate::probe::LinuxNeedsHardware;
use crate::sys::socket_file::SocketError;

/// The reason why a VM could not be built. Nothing is left behind.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The kernel is not usable.
    #[error(transparent)]
    Kernel(#[from] ImageError),
    /// An initramfs is not usable.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The kernel, the initramfs or the memory cannot be used.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The file of the serial port is not usable.
    #[error(transparent)]
    SerialFile(#[from] SerialFileError),
    /// The socket of the console is not usable.
    #[error(transparent)]
    SerialSocket(#[from] SocketError),
    /// The guest cannot have its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM takes fewer vCPUs.
    #[error("--cpus: max={asked} is more than this KVM supports; expected: 1 to {max}")]
    TooManyVcpus {
        /// The requested number of vCPUs.
        asked: u16,
        /// The largest number that KVM takes.
        max: usize,
    },
    /// KVM failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel is too much for this KVM.
    #[error(transparent)]
    Emulated(#[from] LinuxNeedsHardware),
    /// The guest's CPU has no way to tell of it.
    #[error(
        "--cpus: topology={topology} is not possible with an AMD CPU in the guest; expected: {accepted}, or an Intel model (--pmu model=)"
    )]
    Topology {
        /// The requested topology.
        topology: Topology,
        /// The topologies that this CPU can show.
        accepted: &'static str,
    },
    /// A vCPU thread did not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Two devices want the same ports, addresses or lines.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// Two devices are at the same addresses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A virtio device cannot be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A virtio device cannot be on PCI.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The bus has no room for them.
    #[error("{count} virtio devices are more than the PCI bus has room for; use at most {most}")]
    TooManyDevices {
        /// How many devices.
        count: usize,
        /// The largest number that fits.
        most: usize,
    },
    /// The ACPI tables do not fit their area.
    #[error(
        "--cpus: the ACPI tables of max={vcpus} vCPUs do not fit their memory area; use a smaller max"
    )]
    Acpi {
        /// How many vCPUs.
        vcpus: u16,
    },
    /// The snapshot cannot be used.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// The host refused something simple.
    #[error("cannot set up {what}")]
    Host {
        /// The part that could not be set up.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host has no epoll for us.
    #[error("cannot set up the event loop")]
    EventLoop(#[source] event_manager::Error),
}

impl BuildError {
    /// Whether what the user gave is to blame, rather than the host.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Kernel(_)
                | Self::Initramfs(_)
                | Self::Boot(_)
                | Self::SerialFile(_)
                | Self::SerialSocket(_)
                | Self::Memory(_)
                | Self::TooManyVcpus { .. }
                | Self::Topology { .. }
                | Self::TooManyDevices { .. }
                | Self::Restored(_)
        ) || matches!(self, Self::Device(error) if error.is_usage())
    }
}
