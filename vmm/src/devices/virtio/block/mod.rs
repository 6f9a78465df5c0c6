//! A disk (Virtio 1.2, "Block Device").
//!
//! ```text
//!  driver ─▶ queue ─▶ worker: `BlockTask` ─▶ `DiskImage`: raw by preadv and pwritev on
//!    ▲                    │                   the guest's memory, qcow2 by `imago`
//!    └── one interrupt ◀──┘ for all requests of a look
//! ```
//!
//! A host disk that is full is no error for the guest: the request waits, the VM is
//! paused, and the request is done again when it goes on.

mod image;
mod open;
mod qcow2;
mod saved;
mod task;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use self::open::SECTOR;
pub use self::open::{DiskError, OpenDisk};
use self::task::BlockTask;
use super::queue::{DeviceQueue, RING_FEATURES};
use super::threaded::ThreadedDevice;
use super::{ActivateError, Activation, DeviceKind, RestoreFault};
use crate::rate_limit::RateLimit;

/// Descriptors in the queue.
const QUEUE_SIZE: u16 = 256;
/// Buffers of data in one request: those of a chain but for the header and the status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of the text that names a disk to its driver (VIRTIO_BLK_ID_BYTES).
const ID_BYTES: usize = 20;
/// Sectors of one discard: 2 GiB.
const MAX_DISCARD: u32 = 1 << 22;
/// Sectors of one request for zeros: 16 MiB, as they may have to be written.
const MAX_ZEROES: u32 = 1 << 15;
/// Bytes of a physical block, as hosts have them.
const PHYSICAL_BLOCK: u32 = 4096;

/// Who is told that the host's disk is full.
pub trait DiskFull: Send + Sync + Debug {
    /// Pauses the VM, from any thread and without waiting for it: the device's worker
    /// calls it, and a pause ends that worker. `reason` is for the operator.
    fn pause(&self, reason: String);
}

/// The device.
#[derive(Debug)]
pub struct VirtioBlock {
    name: String,
    features: u64,
    config: [u8; 60],
    full: Arc<dyn DiskFull>,
    /// The disk, while no thread has it.
    disk: Option<OpenDisk>,
}

impl VirtioBlock {
    /// A device named `name` (in logs) for an open disk.
    #[must_use]
    pub fn new(name: String, disk: OpenDisk, full: Arc<dyn DiskFull>) -> Self {
        let mut features = RING_FEATURES
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_FLUSH;
        features |= if disk.read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        Self {
            name,
            features,
            config: configuration(disk.image.size(), disk.image.block_size()),
            full,
            disk: Some(disk),
        }
    }
}

/// The configuration of a disk (`virtio_blk_config`).
fn configuration(size: u64, block_size: u32) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |offset: usize, bytes: &[u8]| {
        let fields = config.iter_mut().skip(offset);
        fields.zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &block_size.to_le_bytes());
    let physical = (PHYSICAL_BLOCK / block_size).checked_ilog2();
    let physical = physical.and_then(|exponent| u8::try_from(exponent).ok());
    let physical = physical.unwrap_or(0);
    // physical_block_exp: how many blocks are one physical block, as a logarithm.
    put(24, &[physical]);
    let blocks = u16::try_from(PHYSICAL_BLOCK / block_size).unwrap_or(1);
    // min_io_size
    put(26, &blocks.max(1).to_le_bytes());
    let discard_alignment = PHYSICAL_BLOCK / 512;
    let limits = [MAX_DISCARD, 1, discard_alignment, MAX_ZEROES, 1];
    for (offset, limit) in (36..).step_by(4).zip(limits) {
        put(offset, &limit.to_le_bytes());
    }
    // write_zeroes_may_unmap
    put(56, &[1]);
    config
}

/// The text that names a disk: as much as fits, then zeros.
fn id_bytes(serial: &str) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    id.iter_mut()
        .zip(serial.bytes())
        .for_each(|(to, from)| *to = from);
    id
}

fn lost_disk() -> io::Error {
    io::Error::other("it was lost with its thread")
}

impl ThreadedDevice for VirtioBlock {
    type Task = BlockTask;

    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::copy_config(&self.config, offset, data);
    }

    fn task(&mut self, activation: Activation) -> Result<BlockTask, ActivateError> {
        let (features, interrupt) = (activation.features, activation.config_interrupt.clone());
        let queue = DeviceQueue::only(activation)?;
        let disk = self.disk.take().ok_or_else(|| ActivateError::Host {
            what: "use a disk",
            source: lost_disk(),
        })?;
        Ok(BlockTask::new(
            self.name.clone(),
            queue,
            disk,
            features,
            Arc::clone(&self.full),
            interrupt,
        ))
    }

    fn take_back(&mut self, task: BlockTask) {
        self.disk = Some(task.into_disk());
        self.flush();
    }

    fn saved(&mut self, task: Option<&mut BlockTask>) -> io::Result<Vec<u8>> {
        self.disk_of(task)?.saved()
    }

    fn go_on_as(&mut self, state: &[u8], task: Option<&mut BlockTask>) -> Result<(), RestoreFault> {
        let disk = self.disk_of(task);
        let disk = disk.map_err(|error| RestoreFault::Other(error.to_string()))?;
        disk.must_be(state)
    }
}

impl VirtioBlock {
    /// The disk, which the work has once the driver has started it.
    fn disk_of<'a>(&'a mut self, task: Option<&'a mut BlockTask>) -> io::Result<&'a mut OpenDisk> {
        let disk = match task {
            Some(task) => Some(task.disk()),
            None => self.disk.as_mut(),
        };
        disk.ok_or_else(lost_disk)
    }

    /// Has what the image keeps in memory of its own reach the file.
    fn flush(&mut self) {
        if let Some(disk) = &mut self.disk
            && !disk.read_only
            && let Err(error) = disk.image.flush()
        {
            static LIMIT: RateLimit = RateLimit::new();
            if LIMIT.allow().is_some() {
                log::warn!("{}: {}: {error}", self.name, disk.path.display());
            }
        }
    }
}
