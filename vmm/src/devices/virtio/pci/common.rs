//! The common configuration: what the driver chooses before the device starts
//! (Virtio 1.2, "Common configuration structure layout").

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::places::COMMON_LEN;
use crate::sys::guest_ram::GuestRam;

/// Bits of the device status.
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 0x40;
pub(super) const FAILED: u8 = 0x80;

/// What a driver can set.
const STATUS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

/// "No vector".
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Features of the transport and of queues.
pub(super) const INDIRECT_DESC: u64 = 1 << 28;
pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;
/// The bits of device types: 0 to 23, and from 50 on.
const DEVICE_FEATURES: u64 = !0 << 50 | 0x00ff_ffff;

/// The length of a descriptor; of an entry of the available and of the used ring, and
/// what each ring has beside its entries.
const DESCRIPTOR: usize = 16;
const AVAILABLE: (usize, usize) = (2, 6);
const USED: (usize, usize) = (8, 6);

/// A queue as the driver sets it up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct QueueSetup {
    max_size: u16,
    size: u16,
    pub(super) vector: u16,
    pub(super) is_enabled: bool,
    descriptors: u64,
    available: u64,
    pub(super) used: u64,
}

impl QueueSetup {
    const fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            is_enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    /// The queue, if its size is a power of two and all of it is in guest memory.
    pub(super) fn build(&self, memory: &GuestRam, features: u64) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(self.size).ok()?;
        let size = usize::from(self.size);
        let part = |address, (each, beside): (usize, usize)| {
            let address = GuestAddress(address);
            let is_there = memory.check_range(address, each * size + beside);
            is_there.then_some(address)
        };
        let descriptors = part(self.descriptors, (DESCRIPTOR, 0))?;
        queue.try_set_desc_table_address(descriptors).ok()?;
        let available = part(self.available, AVAILABLE)?;
        queue.try_set_avail_ring_address(available).ok()?;
        let used = part(self.used, USED)?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_event_idx(features & EVENT_IDX != 0);
        queue.set_ready(true);
        Some(queue)
    }
}

/// What a driver has written to the registers, for a snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedCommon {
    selects: [u32; 2],
    pub(super) driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    pub(super) queues: Vec<QueueSetup>,
}

/// The registers. What the device has by itself is asked for at each access.
#[derive(Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    vectors: u16,
    device_feature_select: u32,
    driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) config_vector: u16,
    pub(super) status: u8,
    queue_select: u16,
    pub(super) queues: Vec<QueueSetup>,
}

impl CommonConfig {
    /// Those of a device that offers `features`, with queues of at most these sizes.
    pub(super) fn new(features: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        let known = DEVICE_FEATURES | INDIRECT_DESC | EVENT_IDX;
        Self {
            offered: features & known | VERSION_1,
            vectors,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: queue_sizes
                .iter()
                .map(|&size| QueueSetup::new(size))
                .collect(),
        }
    }

    /// All as at the start.
    pub(super) fn reset(&mut self) {
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = NO_VECTOR;
        self.status = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
    }

    pub(super) fn saved(&self) -> SavedCommon {
        SavedCommon {
            selects: [self.device_feature_select, self.driver_feature_select],
            driver_features: self.driver_features,
            config_vector: self.config_vector,
            status: self.status,
            queue_select: self.queue_select,
            queues: self.queues.clone(),
        }
    }

    /// Takes back what a driver has written.
    ///
    /// # Errors
    /// What no driver can have written to this device.
    pub(super) fn restore(&mut self, saved: SavedCommon) -> Result<(), &'static str> {
        let [device_feature_select, driver_feature_select] = saved.selects;
        let own = self.queues.iter().map(|queue| queue.max_size);
        let restored = Self {
            offered: self.offered,
            vectors: self.vectors,
            device_feature_select,
            driver_feature_select,
            driver_features: saved.driver_features,
            config_vector: self.vector(saved.config_vector),
            status: saved.status & STATUS,
            queue_select: saved.queue_select,
            queues: own
                .zip(saved.queues.iter().cloned())
                .map(|(max_size, queue)| QueueSetup { max_size, ..queue })
                .collect(),
        };
        if saved.queues.len() != self.queues.len() {
            return Err("it has another number of queues");
        }
        let fits = |queue: &QueueSetup| {
            let vector = queue.vector == self.vector(queue.vector);
            vector && queue.size.is_power_of_two() && queue.size <= queue.max_size
        };
        if !restored.queues.iter().all(fits) {
            return Err("its queues are larger, or have other interrupts");
        }
        if restored.status & FEATURES_OK != 0 && !restored.features_fit() {
            return Err("the guest uses features that the device has not");
        }
        *self = restored;
        Ok(())
    }

    /// Whether the driver's features are some of those offered, with VERSION_1.
    pub(super) const fn features_fit(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & VERSION_1 != 0
    }

    /// Fills `data`; zeroes beyond the end.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], is_broken: bool, generation: u8) {
        let registers = self.registers(is_broken, generation);
        let from = usize::try_from(offset).unwrap_or(COMMON_LEN);
        let rest = registers.get(from..).unwrap_or_default();
        data.fill(0);
        for (to, byte) in data.iter_mut().zip(rest) {
            *to = *byte;
        }
    }

    fn registers(&self, is_broken: bool, generation: u8) -> [u8; COMMON_LEN] {
        let mut registers = [0; COMMON_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            for (to, byte) in registers.iter_mut().skip(offset).zip(bytes) {
                *to = *byte;
            }
        };
        let broken = if is_broken { NEEDS_RESET } else { 0 };
        put(0, &self.device_feature_select.to_le_bytes());
        put(
            4,
            &half(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(8, &self.driver_feature_select.to_le_bytes());
        let driver = half(self.driver_features, self.driver_feature_select);
        put(0x0c, &driver.to_le_bytes());
        put(0x10, &self.config_vector.to_le_bytes());
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        put(0x12, &queues.to_le_bytes());
        put(0x14, &[self.status | broken, generation]);
        put(0x16, &self.queue_select.to_le_bytes());
        // Of a queue that is not there, the size 0 says so.
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(0x18, &queue.size.to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.is_enabled).to_le_bytes());
            put(0x1e, &self.queue_select.to_le_bytes());
            put(0x20, &queue.descriptors.to_le_bytes());
            put(0x28, &queue.available.to_le_bytes());
            put(0x30, &queue.used.to_le_bytes());
        }
        registers
    }

    /// Takes a write of a register's own width. Returns the value if it is for the
    /// device status, which is not changed here.
    ///
    /// From DRIVER_OK to the reset nothing else changes but the selections.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Option<u8> {
        match (offset, data) {
            (0x00, &[a, b, c, d]) => self.device_feature_select = u32::from_le_bytes([a, b, c, d]),
            (0x08, &[a, b, c, d]) => self.driver_feature_select = u32::from_le_bytes([a, b, c, d]),
            (0x14, &[status]) => return Some(status),
            (0x16, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            _ if self.status & DRIVER_OK != 0 => {}
            (0x0c, &[a, b, c, d]) => self.set_features(u32::from_le_bytes([a, b, c, d])),
            (0x10, &[a, b]) => self.config_vector = self.vector(u16::from_le_bytes([a, b])),
            _ => self.write_queue(offset, data),
        }
        None
    }

    fn set_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.driver_features &= !(0xffff_ffff << shift);
        self.driver_features |= u64::from(value) << shift;
    }

    /// A vector that there is, or "no vector".
    const fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn write_queue(&mut self, offset: u64, data: &[u8]) {
        let vectors = self.vectors;
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        if queue.is_enabled {
            return;
        }
        match (offset, data) {
            (0x18, &[a, b]) => {
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= queue.max_size {
                    queue.size = size;
                }
            }
            (0x1a, &[a, b]) => {
                let vector = u16::from_le_bytes([a, b]);
                queue.vector = if vector < vectors { vector } else { NO_VECTOR };
            }
            (0x1c, &[1, 0]) => queue.is_enabled = true,
            (0x20..0x28, _) => set_address(&mut queue.descriptors, offset, data),
            (0x28..0x30, _) => set_address(&mut queue.available, offset, data),
            (0x30..0x38, _) => set_address(&mut queue.used, offset, data),
            _ => {}
        }
    }
}

/// The lower or the upper half of 64 features; none beyond.
fn half(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// Writes an address: the whole, or one of its halves.
fn set_address(address: &mut u64, offset: u64, data: &[u8]) {
    match (offset % 8, data) {
        (0, &[a, b, c, d, e, f, g, h]) => *address = u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (0, &[a, b, c, d]) => {
            *address = *address & !0xffff_ffff | u64::from(u32::from_le_bytes([a, b, c, d]));
        }
        (4, &[a, b, c, d]) => {
            let high = u64::from(u32::from_le_bytes([a, b, c, d]));
            *address = *address & 0xffff_ffff | high << 32;
        }
        _ => {}
    }
}
