//! Sockets between guest and host (vhost-vsock).

use std::fmt;
use std::sync::Arc;

use vhost::VhostBackend;
use vhost::vhost_kern::vsock::Vsock;
use vhost::vsock::VhostVsock;
use virtio_bindings::{virtio_config, virtio_ring};

use super::super::DeviceKind;
use super::device::{KernelDevice, KernelEngine, KernelShape};
use super::memory::LateMemory;
use crate::config::VsockConfig;
use crate::stop::StopSignal;

/// Packets with borders (Virtio 1.2, "Socket Device", VIRTIO_VSOCK_F_SEQPACKET).
const SEQPACKET: u32 = 1;
/// What the kernel's device brings, of what we offer.
const KERNEL: u64 = 1 << virtio_config::VIRTIO_F_VERSION_1
    | 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC
    | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX
    | 1 << SEQPACKET;

/// The kernel's device.
pub struct VsockEngine(Vsock<LateMemory>);

impl fmt::Debug for VsockEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VsockEngine").finish_non_exhaustive()
    }
}

/// Makes the device of `--vsock`.
///
/// # Errors
/// If the host has no vhost-vsock for us, or another guest has the address.
pub fn open(
    config: VsockConfig,
    stop: &Arc<StopSignal>,
) -> vhost::Result<KernelDevice<VsockEngine>> {
    let memory = LateMemory::default();
    let vsock = Vsock::new(memory.clone())?;
    vsock.set_owner()?;
    vsock.set_guest_cid(config.cid.into())?;
    let kernel_features = vsock.get_features()? & KERNEL;
    let shape = KernelShape {
        // The third is for events, of which there are none: we save no connections.
        queue_sizes: vec![128; 3],
        features: kernel_features,
        kernel_features,
        config: u64::from(config.cid).to_le_bytes().to_vec(),
    };
    Ok(KernelDevice::new(
        config.flag(),
        VsockEngine(vsock),
        memory,
        shape,
        stop,
    ))
}

impl KernelEngine for VsockEngine {
    const KIND: DeviceKind = DeviceKind::Vsock;
    const SERVED: &'static [u16] = &[0, 1];

    fn backend(&self) -> &impl VhostBackend {
        &self.0
    }

    fn agree(&self, _features: u64) -> vhost::Result<()> {
        Ok(())
    }

    fn serve(&self, on: bool) -> vhost::Result<()> {
        if on { self.0.start() } else { self.0.stop() }
    }
}
