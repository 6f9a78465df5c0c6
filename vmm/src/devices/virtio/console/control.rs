//! The messages about ports: which there are, their names, who has them open.

use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};
use vmm_sys_util::epoll::EventSet;

use super::super::QueuePosition;
use super::super::queue::{Chain, DeviceQueue, QueueFault, total};
use super::super::worker::{Progress, WatchedFd};
use super::port::PortState;
use super::{TOKEN_FROM_DRIVER, TOKEN_TO_DRIVER};

/// Messages of the driver in one turn.
const TURNS: u32 = 64;
/// Bytes of a message without its name: le32 id, le16 event, le16 value.
const MESSAGE: usize = 8;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What the driver has not been told of a port. A flag for each message, no queue of
/// them: a driver that asks again and again costs no memory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of messages, each due or not"
)]
pub(super) struct Untold {
    pub(super) add: bool,
    /// Whether the driver knows the port: the messages below wait for that.
    pub(super) ready: bool,
    pub(super) console: bool,
    pub(super) name: bool,
    /// What the driver takes the host's side for.
    pub(super) told_open: bool,
}

/// One message to the driver.
#[derive(Debug, PartialEq, Eq)]
struct ControlMessage {
    event: u16,
    value: u16,
    more: Vec<u8>,
}

/// The two control queues.
#[derive(Debug)]
pub(super) struct Control {
    to_driver: DeviceQueue,
    from_driver: DeviceQueue,
    chain: Chain,
}

impl Control {
    pub(super) fn new(to_driver: DeviceQueue, from_driver: DeviceQueue) -> Self {
        Self {
            to_driver,
            from_driver,
            chain: Chain::default(),
        }
    }

    /// Where the queues stand.
    pub(super) fn positions(&self) -> [QueuePosition; 2] {
        [&self.to_driver, &self.from_driver].map(|queue| queue.position(false))
    }

    pub(super) fn watched(&self) -> [WatchedFd; 2] {
        let watch = |queue: &DeviceQueue, token| WatchedFd {
            fd: queue.kick().as_raw_fd(),
            events: EventSet::IN,
            token,
        };
        [
            watch(&self.to_driver, TOKEN_TO_DRIVER),
            watch(&self.from_driver, TOKEN_FROM_DRIVER),
        ]
    }

    /// Takes the driver's messages.
    pub(super) fn hear(&mut self, ports: &mut [PortState]) -> Result<Progress, QueueFault> {
        let queue = &mut self.from_driver;
        let mut turns = 0;
        while turns < TURNS {
            if !queue.next(&mut self.chain)? {
                if queue.await_kick()? {
                    continue;
                }
                break;
            }
            turns += 1;
            let mut message = [0; MESSAGE];
            let len = self.chain.read_at(queue.memory(), 0, &mut message);
            let len = len.map_err(|error| queue.memory_fault(error))?;
            // A short one means nothing; what is longer than a message is not for us.
            if len == MESSAGE {
                hear_one(message, ports);
            }
            queue.give(&self.chain, 0)?;
        }
        queue.tell_driver()?;
        Ok(Progress::more_if(turns == TURNS))
    }

    /// Tells the driver what it does not know, as far as it has buffers.
    pub(super) fn tell(&mut self, ports: &mut [PortState]) -> Result<(), QueueFault> {
        let queue = &mut self.to_driver;
        for (port, id) in ports.iter_mut().zip(0_u32..) {
            while let Some(message) = next_message(port) {
                let there = queue.next(&mut self.chain)?
                    || queue.await_kick()? && queue.next(&mut self.chain)?;
                if !there {
                    return queue.tell_driver();
                }
                let bytes = message.bytes(id);
                if total(self.chain.writable()) < bytes.len() as u64 {
                    return Err(queue.chain_fault("has no room for a control message"));
                }
                let written = self.chain.write_at(queue.memory(), 0, &bytes);
                let written = written.map_err(|error| queue.memory_fault(error))?;
                // A message and a name of ours.
                let written = u32::try_from(written).unwrap_or_default();
                queue.give(&self.chain, written)?;
                told(port, &message);
            }
        }
        queue.tell_driver()
    }
}

impl ControlMessage {
    const fn new(event: u16, value: u16) -> Self {
        Self {
            event,
            value,
            more: Vec::new(),
        }
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(&self.more);
        bytes
    }
}

fn hear_one(message: [u8; MESSAGE], ports: &mut [PortState]) {
    let [id0, id1, id2, id3, event0, event1, value0, value1] = message;
    let id = u32::from_le_bytes([id0, id1, id2, id3]);
    let event = u16::from_le_bytes([event0, event1]);
    let yes = u16::from_le_bytes([value0, value1]) != 0;
    if event == DEVICE_READY {
        for port in ports {
            port.untold.add = yes;
        }
        return;
    }
    let Some(port) = usize::try_from(id).ok().and_then(|id| ports.get_mut(id)) else {
        return;
    };
    match event {
        PORT_READY => {
            let is_console = port.is_console();
            let untold = &mut port.untold;
            untold.ready = yes;
            untold.console = yes && is_console;
            untold.name = yes;
        }
        PORT_OPEN => {
            port.closing = port.guest_open && !yes && !port.is_console();
            port.guest_open = yes;
        }
        _ => {}
    }
}

/// The next message about a port. Its name is the last: who finds a port by its name
/// finds it open.
fn next_message(port: &PortState) -> Option<ControlMessage> {
    let untold = &port.untold;
    if untold.add {
        return Some(ControlMessage::new(PORT_ADD, 1));
    }
    if !untold.ready {
        return None;
    }
    if untold.console {
        return Some(ControlMessage::new(CONSOLE_PORT, 1));
    }
    if untold.told_open != port.host_open() {
        return Some(ControlMessage::new(PORT_OPEN, port.host_open().into()));
    }
    untold.name.then(|| ControlMessage {
        more: port.name().as_bytes().to_vec(),
        ..ControlMessage::new(PORT_NAME, 1)
    })
}

fn told(port: &mut PortState, message: &ControlMessage) {
    let untold = &mut port.untold;
    match message.event {
        PORT_ADD => untold.add = false,
        CONSOLE_PORT => untold.console = false,
        PORT_OPEN => untold.told_open = message.value != 0,
        _ => untold.name = false,
    }
}
