//! A queue as a device's worker uses it: every index, address and length in it is the
//! guest's, and is checked before it is used.

use std::io;
use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions};
use vmm_sys_util::eventfd::EventFd;

use super::{ActivateError, Activation, ActiveQueue, QueuePosition};
use crate::sys::guest_ram::GuestRam;

/// The features of queues that our devices offer: descriptors in tables of their own,
/// and notifications from a named index on.
pub(super) const RING_FEATURES: u64 =
    1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// The most descriptors in one chain: as many as one `preadv` takes (IOV_MAX), a header
/// and a status byte.
const MAX_DESCRIPTORS: usize = 1026;

/// The reason why a device stops until the driver resets it.
#[derive(Debug, Error)]
pub(crate) enum QueueFault {
    /// The rings are not where the driver said, or hold impossible numbers.
    #[error("the rings of queue {queue} are not usable: {source}")]
    Ring {
        /// The queue's number.
        queue: u16,
        /// What is wrong.
        source: virtio_queue::Error,
    },
    /// A chain of descriptors breaks the rules.
    #[error("a chain of queue {queue} {fault}")]
    Chain {
        /// The queue's number.
        queue: u16,
        /// How it breaks them: the end of a sentence.
        fault: &'static str,
    },
    /// The host refused something.
    #[error("cannot {what}: {source}")]
    Host {
        /// The step that failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A piece of the guest's memory. It lies in RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestBuffer {
    pub(super) address: GuestAddress,
    pub(super) len: u32,
}

/// A chain of descriptors, checked: all in RAM, none empty, the readable ones first.
#[derive(Debug, Default)]
pub(super) struct Chain {
    head: u16,
    readable: Vec<GuestBuffer>,
    writable: Vec<GuestBuffer>,
}

impl Chain {
    /// The buffers that the device reads.
    pub(super) fn readable(&self) -> &[GuestBuffer] {
        &self.readable
    }

    /// The buffers that the device writes.
    pub(super) fn writable(&self) -> &[GuestBuffer] {
        &self.writable
    }

    /// Copies bytes of the readable buffers from `offset` on; returns how many.
    pub(super) fn read_at(
        &self,
        memory: &GuestRam,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, GuestMemoryError> {
        Self::copy_from(&self.readable, memory, offset, into)
    }

    /// Copies bytes to the writable buffers from `offset` on; returns how many.
    pub(super) fn write_at(
        &self,
        memory: &GuestRam,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, GuestMemoryError> {
        Self::copy_to(&self.writable, memory, offset, from)
    }

    /// Copies bytes of some buffers from `offset` on; returns how many.
    pub(super) fn copy_from(
        buffers: &[GuestBuffer],
        memory: &GuestRam,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for buffer in pieces(buffers, offset, into.len()) {
            let len = buffer.len as usize;
            let Some(part) = into.get_mut(done..done + len) else {
                break;
            };
            memory.read_slice(part, buffer.address)?;
            done += len;
        }
        Ok(done)
    }

    /// Copies bytes to some buffers from `offset` on; returns how many.
    pub(super) fn copy_to(
        buffers: &[GuestBuffer],
        memory: &GuestRam,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for buffer in pieces(buffers, offset, from.len()) {
            let len = buffer.len as usize;
            let Some(part) = from.get(done..done + len) else {
                break;
            };
            memory.write_slice(part, buffer.address)?;
            done += len;
        }
        Ok(done)
    }

    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
}

/// The bytes of some buffers. No sum overflows: a chain has fewer than 2³² bytes.
pub(super) fn total(buffers: &[GuestBuffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
}

/// The `len` bytes of `buffers` from `offset` on, as buffers; fewer if there are fewer.
pub(super) fn pieces(
    buffers: &[GuestBuffer],
    offset: u64,
    len: usize,
) -> impl Iterator<Item = GuestBuffer> {
    let (mut skip, mut left) = (offset, len as u64);
    buffers.iter().filter_map(move |buffer| {
        let whole = u64::from(buffer.len);
        let skipped = skip.min(whole);
        skip -= skipped;
        let taken = (whole - skipped).min(left);
        left -= taken;
        // Both are at most `buffer.len`.
        let taken = u32::try_from(taken).ok().filter(|&taken| taken > 0)?;
        Some(GuestBuffer {
            address: GuestAddress(buffer.address.0 + skipped),
            len: taken,
        })
    })
}

/// Whether every entry of the three rings is in RAM. `Queue::is_valid` says the same,
/// with log lines that a guest could cause without end.
fn rings_are_in_ram(queue: &Queue, memory: &GuestRam) -> bool {
    let size = usize::from(queue.size());
    // Virtio 1.2, "Split Virtqueues": with the events behind the rings.
    let rings = [
        (queue.desc_table(), 16 * size, Permissions::Read),
        (queue.avail_ring(), 6 + 2 * size, Permissions::Read),
        (queue.used_ring(), 6 + 8 * size, Permissions::Write),
    ];
    let in_ram = |(address, len, access)| memory.check_range(GuestAddress(address), len, access);
    queue.ready() && size > 0 && rings.into_iter().all(in_ram)
}

/// A queue between a worker and the driver.
#[derive(Debug)]
pub(super) struct DeviceQueue {
    active: ActiveQueue,
    memory: GuestRam,
    /// Whether something was used that the driver has not been told of.
    untold: bool,
}

impl DeviceQueue {
    /// The queue of a device that has one.
    ///
    /// # Errors
    /// If the driver left it out, or as [`DeviceQueue::new`].
    pub(super) fn only(activation: Activation) -> Result<Self, ActivateError> {
        let mut queues = activation.queues.into_iter();
        let queue = queues.find(|queue| queue.index == 0);
        let queue = queue.ok_or(ActivateError::MissingQueue(0))?;
        Self::new(queue, &activation.memory, activation.features)
    }

    /// A queue of an activated device.
    ///
    /// # Errors
    /// If its rings are not in RAM. Later accesses to them find RAM.
    pub(super) fn new(
        mut active: ActiveQueue,
        memory: &GuestRam,
        features: u64,
    ) -> Result<Self, ActivateError> {
        let queue = &mut active.queue;
        if !rings_are_in_ram(queue, memory) {
            return Err(ActivateError::Host {
                what: "use a queue whose rings are not in RAM",
                source: io::Error::from(io::ErrorKind::InvalidInput),
            });
        }
        queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        Ok(Self {
            active,
            memory: memory.clone(),
            untold: false,
        })
    }

    /// Where it stands. A chain that is `held` has been taken and is not done: it comes
    /// again.
    pub(super) fn position(&self, held: bool) -> QueuePosition {
        let queue = &self.active.queue;
        QueuePosition {
            queue: self.active.index,
            next_available: queue.next_avail().wrapping_sub(held.into()),
            next_used: queue.next_used(),
        }
    }

    /// The guest's memory.
    pub(super) const fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// The event by which the driver tells of new chains.
    pub(super) const fn kick(&self) -> &EventFd {
        &self.active.kick
    }

    /// Takes the next chain into `chain`; `false` if there is none.
    pub(super) fn next(&mut self, chain: &mut Chain) -> Result<bool, QueueFault> {
        let queue = self.active.index;
        let ring = |source| QueueFault::Ring { queue, source };
        let mut available = self.active.queue.iter(&self.memory).map_err(ring)?;
        let Some(descriptors) = available.next() else {
            return Ok(false);
        };
        chain.clear();
        chain.head = descriptors.head_index();
        // The iterator ends without a word where a descriptor cannot be: then the last
        // one has a successor, or there is none.
        let mut complete = false;
        for descriptor in descriptors {
            complete = !descriptor.has_next();
            let (address, len) = (descriptor.addr(), descriptor.len());
            let buffers = if descriptor.is_write_only() {
                &mut chain.writable
            } else if chain.writable.is_empty() {
                &mut chain.readable
            } else {
                let fault = "has a readable buffer behind a writable one";
                return Err(QueueFault::Chain { queue, fault });
            };
            if len == 0 {
                continue;
            }
            let access = if descriptor.is_write_only() {
                Permissions::Write
            } else {
                Permissions::Read
            };
            if !self.memory.check_range(address, len as usize, access) {
                let fault = "has a buffer outside of RAM";
                return Err(QueueFault::Chain { queue, fault });
            }
            buffers.push(GuestBuffer { address, len });
            if chain.readable.len() + chain.writable.len() > MAX_DESCRIPTORS {
                let fault = "has too many descriptors";
                return Err(QueueFault::Chain { queue, fault });
            }
        }
        if complete {
            return Ok(true);
        }
        let fault = "has no end, or a descriptor outside of its table";
        Err(QueueFault::Chain { queue, fault })
    }

    /// Gives the chain back that [`DeviceQueue::next`] took last: it comes again.
    pub(super) fn put_back(&mut self) {
        self.active.queue.go_to_previous_position();
    }

    /// Whether the driver has made a chain available that nobody took.
    pub(super) fn has_next(&self) -> Result<bool, QueueFault> {
        let index = self.active.queue.avail_idx(&self.memory, Ordering::Acquire);
        let index = index.map_err(|source| self.ring_fault(source))?;
        Ok(index.0 != self.active.queue.next_avail())
    }

    /// Returns a chain to the driver, with `written` bytes in its writable buffers.
    pub(super) fn give(&mut self, chain: &Chain, written: u32) -> Result<(), QueueFault> {
        self.untold = true;
        let queue = &mut self.active.queue;
        queue
            .add_used(&self.memory, chain.head, written)
            .map_err(|source| self.ring_fault(source))
    }

    /// Asks for a kick at the next new chain. Returns whether there is one already.
    pub(super) fn await_kick(&mut self) -> Result<bool, QueueFault> {
        let queue = &mut self.active.queue;
        queue
            .enable_notification(&self.memory)
            .map_err(|source| self.ring_fault(source))
    }

    /// Interrupts the driver if it wants to hear of what was used.
    pub(super) fn tell_driver(&mut self) -> Result<(), QueueFault> {
        if !std::mem::take(&mut self.untold) {
            return Ok(());
        }
        let what = "tell the driver of used buffers";
        self.active
            .tell_driver(&self.memory)
            .map_err(|source| QueueFault::Host { what, source })
    }

    /// The fault of a chain of this queue.
    pub(super) const fn chain_fault(&self, fault: &'static str) -> QueueFault {
        let queue = self.active.index;
        QueueFault::Chain { queue, fault }
    }

    /// The fault of memory that was there when the chain was checked.
    pub(super) fn memory_fault(&self, _: GuestMemoryError) -> QueueFault {
        self.chain_fault("has a buffer outside of RAM")
    }

    const fn ring_fault(&self, source: virtio_queue::Error) -> QueueFault {
        let queue = self.active.index;
        QueueFault::Ring { queue, source }
    }
}
