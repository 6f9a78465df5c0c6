//! What the kinds of devices differ in: queues, features, configuration.

use virtio_bindings::{virtio_blk, virtio_config, virtio_net, virtio_ring};

use super::super::DeviceKind;
use super::connection::BackendConnection;
use super::fault::BackendFault;

/// The bytes of a disk's configuration up to the fields of zoned disks (Virtio 1.2,
/// "Block Device", struct virtio_blk_config).
const BLOCK_CONFIG: u32 = 60;
/// Where its number of queues is.
const BLOCK_QUEUES: std::ops::Range<usize> = 34..36;
/// As many queues has a disk at most.
const MAX_BLOCK_QUEUES: u16 = 8;
/// A tag's bytes (Virtio 1.2, "File System Device").
const TAG_BYTES: usize = 36;

/// A kind of device that a back end serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// A shared folder, with the name by which the guest mounts it: at most 36 bytes.
    Fs {
        /// The tag.
        tag: String,
    },
    /// A network card with this address.
    Net {
        /// The MAC.
        mac: [u8; 6],
    },
    /// A disk.
    Block,
}

/// What a device shows to its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendShape {
    /// The largest size of each queue.
    pub(super) queue_sizes: Vec<u16>,
    /// The features that are offered.
    pub(super) features: u64,
    /// The configuration.
    pub(super) config: Vec<u8>,
}

impl BackendKind {
    /// The type of the device.
    #[must_use]
    pub const fn device_kind(&self) -> DeviceKind {
        match self {
            Self::Fs { .. } => DeviceKind::Fs,
            Self::Net { .. } => DeviceKind::Net,
            Self::Block => DeviceKind::Block,
        }
    }

    /// Whether the back end knows the configuration, and not we.
    pub(super) const fn config_is_theirs(&self) -> bool {
        matches!(self, Self::Block)
    }

    /// How many queues there are at most.
    pub(super) const fn max_queues(&self) -> u16 {
        match self {
            Self::Fs { .. } | Self::Net { .. } => 2,
            Self::Block => MAX_BLOCK_QUEUES,
        }
    }

    /// The queues without which it does nothing.
    pub(super) const fn needed_queues(&self) -> &'static [u16] {
        match self {
            // The first is for the kernel's own messages.
            Self::Fs { .. } | Self::Net { .. } => &[0, 1],
            Self::Block => &[0],
        }
    }

    /// The features that a back end may bring; no others are offered. Not among them: the
    /// control queue of a network card, which is a front end's, packed queues, and a
    /// disk's cache mode, which would be ours to pass on.
    const fn passed(&self) -> u64 {
        let ring = 1 << virtio_ring::VIRTIO_RING_F_INDIRECT_DESC
            | 1 << virtio_ring::VIRTIO_RING_F_EVENT_IDX
            | 1 << virtio_config::VIRTIO_F_VERSION_1;
        let own = match self {
            Self::Fs { .. } => 0,
            Self::Net { .. } => {
                1 << virtio_net::VIRTIO_NET_F_CSUM
                    | 1 << virtio_net::VIRTIO_NET_F_GUEST_CSUM
                    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO4
                    | 1 << virtio_net::VIRTIO_NET_F_GUEST_TSO6
                    | 1 << virtio_net::VIRTIO_NET_F_GUEST_ECN
                    | 1 << virtio_net::VIRTIO_NET_F_GUEST_UFO
                    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO4
                    | 1 << virtio_net::VIRTIO_NET_F_HOST_TSO6
                    | 1 << virtio_net::VIRTIO_NET_F_HOST_ECN
                    | 1 << virtio_net::VIRTIO_NET_F_HOST_UFO
                    | 1 << virtio_net::VIRTIO_NET_F_MRG_RXBUF
            }
            Self::Block => {
                1 << virtio_blk::VIRTIO_BLK_F_SIZE_MAX
                    | 1 << virtio_blk::VIRTIO_BLK_F_SEG_MAX
                    | 1 << virtio_blk::VIRTIO_BLK_F_GEOMETRY
                    | 1 << virtio_blk::VIRTIO_BLK_F_RO
                    | 1 << virtio_blk::VIRTIO_BLK_F_BLK_SIZE
                    | 1 << virtio_blk::VIRTIO_BLK_F_FLUSH
                    | 1 << virtio_blk::VIRTIO_BLK_F_TOPOLOGY
                    | 1 << virtio_blk::VIRTIO_BLK_F_MQ
                    | 1 << virtio_blk::VIRTIO_BLK_F_DISCARD
                    | 1 << virtio_blk::VIRTIO_BLK_F_WRITE_ZEROES
            }
        };
        ring | own
    }

    /// What the device shows, with this back end.
    pub(super) fn shape(
        &self,
        backend: &mut BackendConnection,
    ) -> Result<BackendShape, BackendFault> {
        let features = backend.features() & self.passed();
        match self {
            Self::Fs { tag } => Ok(BackendShape {
                queue_sizes: vec![1024; 2],
                features,
                config: fs_config(tag),
            }),
            Self::Net { mac } => Ok(BackendShape {
                queue_sizes: vec![256; 2],
                features: features | 1 << virtio_net::VIRTIO_NET_F_MAC,
                config: mac.to_vec(),
            }),
            Self::Block => {
                let mut config = backend.config(BLOCK_CONFIG)?;
                let mut queues = 1;
                let mq = 1 << virtio_blk::VIRTIO_BLK_F_MQ;
                if features & mq != 0
                    && let Some(field) = config.get_mut(BLOCK_QUEUES)
                    && let Ok(bytes) = <[u8; 2]>::try_from(&*field)
                {
                    let limit = MAX_BLOCK_QUEUES.min(backend.queues());
                    queues = u16::from_le_bytes(bytes).clamp(1, limit.max(1));
                    field.copy_from_slice(&queues.to_le_bytes());
                }
                Ok(BackendShape {
                    queue_sizes: vec![256; usize::from(queues)],
                    features,
                    config,
                })
            }
        }
    }
}

/// struct virtio_fs_config: the tag, and one request queue.
fn fs_config(tag: &str) -> Vec<u8> {
    let mut config = tag.as_bytes().to_vec();
    config.resize(TAG_BYTES, 0);
    config.extend(1_u32.to_le_bytes());
    config
}
