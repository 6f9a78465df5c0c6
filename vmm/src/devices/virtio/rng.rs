//! A source of random bytes (Virtio 1.2, "Entropy Device").

use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::EventSet;

use super::queue::{Chain, DeviceQueue, QueueFault, RING_FEATURES, total};
use super::threaded::ThreadedDevice;
use super::worker::{DeviceTask, Progress, WatchedFd};
use super::{ActivateError, Activation, ConfigInterrupt, DeviceKind, QueuePosition};
use crate::sys::random;

/// Descriptors in the queue.
const QUEUE_SIZE: u16 = 64;
/// Bytes for one chain; a driver that wants more asks again.
const MOST: usize = 4096;
/// Chains until the thread looks whether it is to stop.
const TURNS: u32 = 64;

/// The device.
#[derive(Debug, Default)]
pub struct VirtioRng;

impl ThreadedDevice for VirtioRng {
    type Task = RngTask;

    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::copy_config(&[], offset, data);
    }

    fn task(&mut self, activation: Activation) -> Result<RngTask, ActivateError> {
        RngTask::new(activation)
    }

    fn take_back(&mut self, _task: RngTask) {}
}

/// The work of its thread.
#[derive(Debug)]
pub(crate) struct RngTask {
    queue: DeviceQueue,
    chain: Chain,
    interrupt: ConfigInterrupt,
}

impl RngTask {
    pub(super) fn new(activation: Activation) -> Result<Self, ActivateError> {
        let interrupt = activation.config_interrupt.clone();
        Ok(Self {
            queue: DeviceQueue::only(activation)?,
            chain: Chain::default(),
            interrupt,
        })
    }
}

impl DeviceTask for RngTask {
    fn name(&self) -> &str {
        "rng"
    }

    fn watched(&self) -> Vec<WatchedFd> {
        vec![WatchedFd {
            fd: self.queue.kick().as_raw_fd(),
            events: EventSet::IN,
            token: 0,
        }]
    }

    fn ready(&mut self, _token: u64, _events: u32) {}

    fn work(&mut self) -> Result<Progress, QueueFault> {
        let Self { queue, chain, .. } = self;
        let mut turns = 0;
        while turns < TURNS {
            if !queue.next(chain)? {
                if queue.await_kick()? {
                    continue;
                }
                break;
            }
            turns += 1;
            let mut bytes = [0; MOST];
            let len = total(chain.writable()).min(MOST as u64);
            let len = usize::try_from(len).unwrap_or_default();
            let Some(bytes) = bytes.get_mut(..len).filter(|bytes| !bytes.is_empty()) else {
                return Err(queue.chain_fault("has no room for random bytes"));
            };
            random::fill(bytes).map_err(|source| QueueFault::Host {
                what: "get random bytes",
                source,
            })?;
            let written = chain.write_at(queue.memory(), 0, bytes);
            let written = written.map_err(|error| queue.memory_fault(error))?;
            // At most MOST.
            queue.give(chain, u32::try_from(written).unwrap_or_default())?;
        }
        queue.tell_driver()?;
        Ok(Progress::more_if(turns == TURNS))
    }

    fn interrupt(&self) -> &ConfigInterrupt {
        &self.interrupt
    }

    fn positions(&self) -> Vec<QueuePosition> {
        vec![self.queue.position(false)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, TestDriver};
    use super::super::{Threaded, VirtioDevice};
    use super::*;

    #[test]
    fn buffers_are_filled_and_interrupt_once() {
        let mut device = Threaded::new(VirtioRng);
        let mut driver = TestDriver::new(device.queue_sizes());
        driver.activate(&mut device, RING_FEATURES).unwrap();
        let queue = &mut driver.queues[0];
        queue.add(&[(BUFFERS, 10, true), (BUFFERS + 0x100, 54, true)]);
        queue.add(&[(BUFFERS + 0x1000, 1 << 20, true)]);
        queue.kick();
        assert_eq!(queue.wait_used(), Some((0, 64)));
        assert_eq!(queue.wait_used(), Some((2, 4096)));
        device.pause();
        assert_eq!(driver.queues[0].call.read().unwrap(), 1);
        assert_ne!(driver.bytes(BUFFERS + 0x100, 54), [0; 54]);
        assert_eq!(driver.bytes(BUFFERS + 0x100 + 54, 10), [0; 10]);
        // Nothing happens during a pause, and all of it afterwards.
        driver.queues[0].add(&[(BUFFERS, 8, true)]);
        driver.queues[0].kick();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(driver.queues[0].used(), None);
        device.resume();
        assert_eq!(driver.queues[0].wait_used(), Some((3, 8)));
    }

    #[test]
    fn a_buffer_to_read_is_a_fault() {
        let mut device = Threaded::new(VirtioRng);
        let mut driver = TestDriver::new(device.queue_sizes());
        driver.activate(&mut device, RING_FEATURES).unwrap();
        driver.queues[0].add(&[(BUFFERS, 8, false)]);
        driver.queues[0].kick();
        assert!(driver.wait_until_broken());
        assert_eq!(driver.queues[0].used(), None);
        driver.activate(&mut device, RING_FEATURES).unwrap();
        driver.queues[0].add(&[(BUFFERS, 8, true)]);
        driver.queues[0].kick();
        assert_eq!(driver.queues[0].wait_used(), Some((0, 8)));
    }
}
