//! A driver of one request at a time, in front of a real back end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::fake::memory;
use super::{activation, queue};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::vhost_user::VhostUserDevice;
use crate::sys::guest_ram::GuestRam;

/// Where its requests and their answers are.
const REQUEST: u64 = 0x30_0000;
const ANSWER: u64 = 0x31_0000;

pub(super) struct Driver {
    memory: GuestRam,
    rings: u64,
    kick: EventFd,
    call: EventFd,
    sent: u16,
    writable: u32,
}

impl Driver {
    /// Starts a device with so many queues; requests go to the one with this number.
    pub(super) fn start(device: &mut VhostUserDevice, count: u16, used: u16) -> Self {
        let memory = memory();
        let at = |index: u16| 0x10000 + 0x10000 * u32::from(index);
        let queues: Vec<_> = (0..count).map(|index| queue(index, at(index))).collect();
        let requests = &queues[usize::from(used)];
        let driver = Self {
            memory: memory.clone(),
            rings: at(used).into(),
            kick: requests.kick.try_clone().unwrap(),
            call: requests.call.try_clone().unwrap(),
            sent: 0,
            writable: 0,
        };
        device
            .activate(activation(&memory, 1 << 32, queues))
            .unwrap();
        driver
    }

    /// Sends bytes, with room for an answer of `writable` bytes.
    pub(super) fn send(&mut self, readable: &[u8], writable: u32) {
        self.writable = writable;
        let memory = &self.memory;
        memory.write_slice(readable, GuestAddress(REQUEST)).unwrap();
        let descriptor = |address: u64, len: u32, flags: u16, next: u16| {
            [
                &address.to_le_bytes()[..],
                &len.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ]
            .concat()
        };
        let len = readable.len().try_into().unwrap();
        let table = [
            descriptor(REQUEST, len, 1, 1),
            descriptor(ANSWER, writable, 2, 0),
        ];
        let rings = self.rings;
        memory
            .write_slice(&table.concat(), GuestAddress(rings))
            .unwrap();
        let available = rings + 0x1000;
        let entry = available + 4 + 2 * u64::from(self.sent % 16);
        memory.write_obj(0_u16, GuestAddress(entry)).unwrap();
        self.sent += 1;
        memory
            .store(self.sent, GuestAddress(available + 2), Ordering::Release)
            .unwrap();
        self.kick.write(1).unwrap();
    }

    /// Whether the last request was answered.
    pub(super) fn is_served(&self) -> bool {
        let used = GuestAddress(self.rings + 0x2002);
        self.memory.load::<u16>(used, Ordering::Acquire).unwrap() == self.sent
    }

    /// The room for the answer, when it was answered.
    pub(super) fn answer(&self) -> Vec<u8> {
        while !self.is_served() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The interrupt comes behind the answer.
        while self.call.read().is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut bytes = vec![0; self.writable.try_into().unwrap()];
        self.memory
            .read_slice(&mut bytes, GuestAddress(ANSWER))
            .unwrap();
        bytes
    }
}
