//! A network card at a tap device (vhost-net).

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use vhost::VhostBackend;
use vhost::net::VhostNet;
use vhost::vhost_kern::net::Net;
use virtio_bindings::{virtio_config, virtio_net, virtio_ring};

use super::super::DeviceKind;
use super::device::{KernelDevice, KernelEngine, KernelShape};
use super::memory::LateMemory;
use crate::stop::StopSignal;
use crate::sys::tap::{self, TapOffloads};

/// What the kernel's device brings, of what we offer.
const KERNEL: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1
    | 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC
    | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX
    | 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF;
/// What the tap device brings, and our configuration.
const OURS: u64 = 1 << virtio_net::VIRTIO_NET_F_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_GUEST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4
    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO6
    | 1 << virtio_net::VIRTIO_NET_F_HOST_ECN
    | 1 << virtio_net::VIRTIO_NET_F_MAC;

/// The kernel's device, with the tap device behind it.
pub struct CardAtTap {
    net: Net<LateMemory>,
    tap: File,
}

impl fmt::Debug for CardAtTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CardAtTap")
            .field("tap", &self.tap)
            .finish_non_exhaustive()
    }
}

/// Makes the card of an open tap device.
///
/// # Errors
/// If the host has no vhost-net for us.
pub fn open(
    flag: String,
    tap: File,
    mac: [u8; 6],
    stop: &Arc<StopSignal>,
) -> vhost::Result<KernelDevice<CardAtTap>> {
    let memory = LateMemory::default();
    let net = Net::new(memory.clone())?;
    net.set_owner()?;
    let kernel_features = net.get_features()? & KERNEL;
    let shape = KernelShape {
        queue_sizes: vec![256; 2],
        features: kernel_features | OURS,
        kernel_features,
        config: mac.to_vec(),
    };
    Ok(KernelDevice::new(
        flag,
        CardAtTap { net, tap },
        memory,
        shape,
        stop,
    ))
}

impl KernelEngine for CardAtTap {
    const KIND: DeviceKind = DeviceKind::Net;
    const SERVED: &'static [u16] = &[0, 1];

    fn backend(&self) -> &impl VhostBackend {
        &self.net
    }

    fn agree(&self, features: u64) -> vhost::Result<()> {
        let has = |bit: u32| features & (1 << bit) != 0;
        let offloads = TapOffloads {
            checksums: has(virtio_net::VIRTIO_NET_F_GUEST_CSUM),
            tso4: has(virtio_net::VIRTIO_NET_F_GUEST_TSO4),
            tso6: has(virtio_net::VIRTIO_NET_F_GUEST_TSO6),
            ecn: has(virtio_net::VIRTIO_NET_F_GUEST_ECN),
        };
        tap::set_offloads(&self.tap, offloads).map_err(vhost::Error::IOError)
    }

    fn serve(&self, on: bool) -> vhost::Result<()> {
        let tap = on.then_some(&self.tap);
        self.net.set_backend(0, tap)?;
        self.net.set_backend(1, tap)
    }
}
