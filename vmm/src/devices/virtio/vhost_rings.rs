//! A driver's queues in the hands of a vhost backend, be it a process or the kernel.

use thiserror::Error;
use vhost::{VhostBackend, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{ActivateError, Activation, ActiveQueue};
use crate::sys::guest_ram::GuestRam;

/// Why a queue is not given to a backend.
#[derive(Debug, Error)]
pub(super) enum RingError {
    /// The driver's addresses are not those of memory.
    #[error("queue {0} is not in the guest's memory")]
    Outside(u16),
    /// The backend does not take it.
    #[error(transparent)]
    Backend(#[from] vhost::Error),
}

/// The queues that a device cannot do without.
pub(super) fn require(activation: &Activation, needed: &[u16]) -> Result<(), ActivateError> {
    let enabled = |index: &u16| activation.queues.iter().any(|queue| queue.index == *index);
    match needed.iter().find(|index| !enabled(index)) {
        Some(&index) => Err(ActivateError::MissingQueue(index)),
        None => Ok(()),
    }
}

/// Hands a queue over, but for its start. `base` is the index of the next entry of the
/// available ring; `offset` is added to each guest address.
pub(super) fn set_up<B: VhostBackend>(
    backend: &B,
    memory: &GuestRam,
    ring: &ActiveQueue,
    (base, offset): (u16, u64),
) -> Result<(), RingError> {
    let queue = &ring.queue;
    let size = queue.size();
    let outside = || RingError::Outside(ring.index);
    // Sizes: Virtio 1.2, "Split Virtqueues".
    let [desc, avail, used] = [
        (queue.desc_table(), 16 * u64::from(size)),
        (queue.avail_ring(), 6 + 2 * u64::from(size)),
        (queue.used_ring(), 6 + 8 * u64::from(size)),
    ]
    .map(|(start, len)| in_one_region(memory, start, len).then_some(start));
    let address = |start: Option<u64>| start.map(|start| start + offset).ok_or_else(outside);
    let index = usize::from(ring.index);
    backend.set_vring_num(index, size)?;
    backend.set_vring_addr(
        index,
        &VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: size,
            flags: 0,
            desc_table_addr: address(desc)?,
            used_ring_addr: address(used)?,
            avail_ring_addr: address(avail)?,
            log_addr: None,
        },
    )?;
    backend.set_vring_base(index, base)?;
    backend.set_vring_call(index, &ring.call)?;
    backend.set_vring_kick(index, &ring.kick)?;
    Ok(())
}

/// Whether all bytes are of one region: a backend maps each for itself.
fn in_one_region(memory: &GuestRam, start: u64, len: u64) -> bool {
    memory
        .find_region(GuestAddress(start))
        .is_some_and(|region| {
            let before = start - region.start_addr().raw_value();
            len <= region.len() - before
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_lies_in_one_region() {
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        for (start, len, inside) in [
            (0, 0x1000, true),
            (0x800, 0x801, false),
            (0xfff, 1, true),
            (0x1fff, 2, false),
            (0x2000, 1, false),
            (u64::MAX, 2, false),
        ] {
            assert_eq!(
                in_one_region(&memory, start, len),
                inside,
                "{start:#x} {len}"
            );
        }
    }
}
