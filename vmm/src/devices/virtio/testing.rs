//! The driver's side of queues, for tests: it may break every rule.
#![cfg_attr(not(test), expect(dead_code, reason = "fuzz targets use a part of it"))]

use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{ActivateError, Activation, ActiveQueue, ConfigInterrupt, QueuePosition, VirtioDevice};
use crate::sys::guest_ram::GuestRam;

/// The guest's RAM.
pub(crate) const RAM: u64 = 16 << 20;
/// Where a test may have its buffers.
pub(crate) const BUFFERS: u64 = 4 << 20;
/// Bytes from the rings of one queue to those of the next.
const RINGS: u64 = 0x8000;
/// How long a device that stands still is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A driver with its memory and its queues.
#[derive(Debug)]
pub(crate) struct TestDriver {
    pub(crate) memory: GuestRam,
    pub(crate) queues: Vec<TestQueue>,
    pub(crate) interrupt: ConfigInterrupt,
    /// Interrupts of the configuration.
    pub(crate) config_call: EventFd,
}

/// One of its queues.
#[derive(Debug)]
pub(crate) struct TestQueue {
    memory: GuestRam,
    size: u16,
    start: u64,
    available: u16,
    seen: u16,
    next_descriptor: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
}

fn event() -> EventFd {
    #[expect(clippy::unwrap_used, reason = "a test without eventfds is none")]
    EventFd::new(EFD_NONBLOCK).unwrap()
}

impl TestDriver {
    /// A driver for a device with queues of these sizes.
    pub(crate) fn new(sizes: &[u16]) -> Self {
        #[expect(clippy::unwrap_used, reason = "a test without memory is none")]
        let memory =
            GuestRam::from_ranges(&[(GuestAddress(0), usize::try_from(RAM).unwrap())]).unwrap();
        let queues = sizes.iter().zip(1_u64..);
        let queues = queues.map(|(&size, number)| TestQueue {
            memory: memory.clone(),
            size,
            start: number * RINGS,
            available: 0,
            seen: 0,
            next_descriptor: 0,
            kick: event(),
            call: event(),
        });
        let config_call = event();
        Self {
            queues: queues.collect(),
            #[expect(clippy::unwrap_used, reason = "a test without eventfds is none")]
            interrupt: ConfigInterrupt::new(config_call.try_clone().unwrap()),
            config_call,
            memory,
        }
    }

    /// Hands all queues to the device, empty, and starts it.
    pub(crate) fn activate(
        &mut self,
        device: &mut dyn VirtioDevice,
        features: u64,
    ) -> Result<(), ActivateError> {
        device.activate(self.activation(features))
    }

    /// All queues, empty, for a device.
    pub(crate) fn activation(&mut self, features: u64) -> Activation {
        for queue in &mut self.queues {
            queue.clear();
        }
        self.activation_of(features, &[])
    }

    /// All queues as they are, for a device that goes on: some of them stand somewhere.
    pub(crate) fn activation_of(&mut self, features: u64, stand: &[QueuePosition]) -> Activation {
        #[expect(clippy::unwrap_used, reason = "a test without eventfds is none")]
        let call = self.config_call.try_clone().unwrap();
        self.interrupt = ConfigInterrupt::new(call);
        let queues = self.queues.iter().zip(0..);
        Activation {
            memory: self.memory.clone(),
            features,
            queues: { queues }
                .map(|(queue, index)| {
                    let mut active = queue.active(index);
                    if let Some(stands) = stand.iter().find(|stands| stands.queue == index) {
                        active.queue.set_next_avail(stands.next_available);
                        active.queue.set_next_used(stands.next_used);
                    }
                    active
                })
                .collect(),
            config_interrupt: self.interrupt.clone(),
        }
    }

    /// The bytes at an address.
    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        #[expect(clippy::unwrap_used, reason = "the test's own address")]
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Puts bytes to an address.
    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        #[expect(clippy::unwrap_used, reason = "the test's own address")]
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    /// Waits until the device asks for a reset; whether it does.
    pub(crate) fn wait_until_broken(&self) -> bool {
        wait(|| self.interrupt.is_broken().then_some(())).is_some()
    }
}

/// Waits for something, but not for ever.
pub(crate) fn wait<T>(mut there: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = there() {
            return Some(found);
        }
        if start.elapsed() > PATIENCE {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl TestQueue {
    fn active(&self, index: u16) -> ActiveQueue {
        #[expect(clippy::unwrap_used, reason = "a test without a queue is none")]
        let mut queue = Queue::new(self.size).unwrap();
        let low = |address: u64| u32::try_from(address).ok();
        queue.set_desc_table_address(low(self.start), Some(0));
        queue.set_avail_ring_address(low(self.avail()), Some(0));
        queue.set_used_ring_address(low(self.used_ring()), Some(0));
        queue.set_ready(true);
        #[expect(clippy::unwrap_used, reason = "a test without eventfds is none")]
        ActiveQueue {
            index,
            queue,
            kick: self.kick.try_clone().unwrap(),
            call: self.call.try_clone().unwrap(),
        }
    }

    const fn avail(&self) -> u64 {
        self.start + 0x4000
    }

    const fn used_ring(&self) -> u64 {
        self.start + 0x6000
    }

    fn clear(&mut self) {
        let rings = vec![0; 0x8000];
        self.write(self.start, &rings);
        (self.available, self.seen, self.next_descriptor) = (0, 0, 0);
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        #[expect(clippy::unwrap_used, reason = "the test's own address")]
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        #[expect(clippy::unwrap_used, reason = "the test's own address")]
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Writes one descriptor, of any sense, into the table.
    pub(crate) fn descriptor(&self, slot: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let slot = u64::from(slot % self.size);
        self.write(self.start + 16 * slot, &bytes);
    }

    /// Makes the chain that starts at `head` available, without a kick.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.write(self.avail() + 4 + 2 * slot, &head.to_le_bytes());
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the index of the ring of available chains.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        self.write(self.avail() + 2, &index.to_le_bytes());
    }

    /// Offers a chain of buffers (address, length, whether the device writes it).
    /// Returns its head. Descriptors are used in turn.
    pub(crate) fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_descriptor;
        let mut buffers = buffers.iter().peekable();
        while let Some(&(address, len, write)) = buffers.next() {
            let slot = self.next_descriptor;
            self.next_descriptor = (slot + 1) % self.size;
            let more = if buffers.peek().is_some() { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.descriptor(slot, address, len, flags, self.next_descriptor);
        }
        self.offer(head);
        head
    }

    /// Notifies the device.
    pub(crate) fn kick(&self) {
        #[expect(clippy::unwrap_used, reason = "an eventfd that is never full")]
        self.kick.write(1).unwrap();
    }

    /// The next chain that the device has used: its head and the bytes written.
    pub(crate) fn used(&mut self) -> Option<(u16, u32)> {
        if u16::from_le_bytes(self.read(self.used_ring() + 2)) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let entry = u64::from_le_bytes(self.read(self.used_ring() + 4 + 8 * slot));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "two le32, the first a head"
        )]
        Some((entry as u16, (entry >> 32) as u32))
    }

    /// Waits for the next used chain.
    pub(crate) fn wait_used(&mut self) -> Option<(u16, u32)> {
        wait(|| self.used())
    }
}
