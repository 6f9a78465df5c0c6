//! A back end that answers right, wrong or not at all. The fuzz target `vhost_user` calls
//! [`back_end`], as does a test, with each seed.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::{Activation, ActiveQueue, ConfigInterrupt, VirtioDevice};
use super::{Backend, BackendKind, VhostUserDevice};
use crate::fuzz_input::FuzzInput;
use crate::stop::StopSignal;
use crate::sys::guest_ram::GuestRam;
use crate::sys::memory_file::{self, PageSize};

/// How long a talk may take: no back end of this target keeps anybody waiting.
const TIME: Duration = Duration::from_secs(60);
/// The guest's memory, in bytes.
const RAM: usize = 1 << 20;
/// The longest message that is read; the front end's are shorter.
const MOST: usize = 4096;

/// Has a device live through these answers.
///
/// # Panics
/// If it does not tell of a back end that is lost, or does not end.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn back_end(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let kind = match input.byte() % 3 {
        0 => BackendKind::Fs {
            tag: "share".to_owned(),
        },
        1 => BackendKind::Net {
            mac: [2, 0, 0, 0, 0, 1],
        },
        _ => BackendKind::Block,
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let answers = input.take(data.len()).to_vec();
    let server = thread::spawn(move || serve(theirs, &answers));
    let stop = Arc::new(StopSignal::new().unwrap());
    let backend = Backend {
        flag: "--flag".to_owned(),
        socket: ours,
        process: None,
    };
    match VhostUserDevice::connect_within(backend, kind, &stop, TIME) {
        Ok(device) => live(device, &stop),
        Err(error) => told(&error.to_string()),
    }
    server.join().unwrap();
}

fn told(text: &str) {
    assert!(text.starts_with("--flag: the back end: "), "{text}");
    assert!(!text.contains("did not answer"), "{text}");
}

#[expect(clippy::unwrap_used, reason = "a check")]
fn live(mut device: VhostUserDevice, stop: &StopSignal) {
    let sizes = device.queue_sizes().to_vec();
    assert!((1..=8).contains(&sizes.len()));
    device.read_config(0, &mut [0; 64]);
    let file = memory_file::create(c"fuzz", RAM as u64, PageSize::Normal).unwrap();
    let ranges = [(GuestAddress(0), RAM, Some(FileOffset::new(file, 0)))];
    let memory = GuestRam::from_ranges_with_files(ranges).unwrap();
    for _ in 0..2 {
        let queues = (0..).zip(&sizes).map(|(index, &size)| queue(index, size));
        let activated = device.activate(Activation {
            memory: memory.clone(),
            features: device.features(),
            queues: queues.collect(),
            config_interrupt: ConfigInterrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()),
        });
        if activated.is_err() {
            told(&stop.reason().unwrap().to_string());
        }
        device.pause();
        device.resume();
        device.reset();
    }
    if let Some(reason) = stop.reason() {
        told(&reason.to_string());
    }
}

#[expect(clippy::unwrap_used, reason = "a check")]
fn queue(index: u16, size: u16) -> ActiveQueue {
    let mut queue = Queue::new(size).unwrap();
    queue.set_size(16);
    let at = 0x1_0000 + 0x4000 * u32::from(index);
    queue.set_desc_table_address(Some(at), Some(0));
    queue.set_avail_ring_address(Some(at + 0x1000), Some(0));
    queue.set_used_ring_address(Some(at + 0x2000), Some(0));
    queue.set_ready(true);
    ActiveQueue {
        index,
        queue,
        kick: EventFd::new(EFD_NONBLOCK).unwrap(),
        call: EventFd::new(EFD_NONBLOCK).unwrap(),
    }
}

/// A message of the front end.
struct WireRequest {
    code: u32,
    wants_acknowledgement: bool,
    body: Vec<u8>,
}

fn asked(stream: &mut UnixStream) -> Option<WireRequest> {
    let mut header = [0; 12];
    stream.read_exact(&mut header).ok()?;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?))
    };
    let mut body = vec![0; usize::try_from(word(8)?).ok()?.min(MOST)];
    stream.read_exact(&mut body).ok()?;
    Some(WireRequest {
        code: word(0)?,
        wants_acknowledgement: word(4)? & 8 != 0,
        body,
    })
}

/// The body of a right answer, if one is due.
fn right(asked: &WireRequest) -> Option<Vec<u8>> {
    // "Front-end message types" of the vhost-user protocol.
    let number = match asked.code {
        // GET_FEATURES: rings' features, protocol features, virtio 1, a disk's queues.
        1 => 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 12,
        // GET_PROTOCOL_FEATURES: queues, acknowledgements, configuration.
        15 => 1 | 1 << 3 | 1 << 9,
        // GET_QUEUE_NUM.
        17 => 5,
        // GET_VRING_BASE, GET_CONFIG.
        11 | 24 => return Some(asked.body.clone()),
        _ if asked.wants_acknowledgement => 0_u64,
        _ => return None,
    };
    Some(number.to_le_bytes().to_vec())
}

/// Answers until the bytes are used up, an answer has another length than the right one,
/// or the front end is gone: nobody waits for what does not come.
fn serve(mut stream: UnixStream, answers: &[u8]) {
    let mut input = FuzzInput::new(answers);
    while !input.is_empty() {
        let Some(asked) = asked(&mut stream) else {
            return;
        };
        let Some(right) = right(&asked) else {
            continue;
        };
        let message = |body: &[u8]| {
            let len = u32::try_from(body.len()).unwrap_or_default();
            let header = [asked.code, 5, len].map(u32::to_le_bytes);
            [header.as_flattened(), body].concat()
        };
        let choice = input.byte() % 8;
        let bytes = match choice {
            0..=2 => message(&right),
            3 => {
                let bytes = message(&right);
                // One descriptor of ours, as any would do.
                let fd = stream.as_raw_fd();
                if stream.send_with_fd(&*bytes, fd).is_err() {
                    return;
                }
                continue;
            }
            4 => message(&input.word().to_le_bytes()),
            5 => {
                let len = usize::from(input.byte());
                message(input.take(len))
            }
            6 => {
                let len = usize::from(input.byte());
                input.take(len).to_vec()
            }
            _ => return,
        };
        if stream.write_all(&bytes).is_err() {
            return;
        }
        if bytes.len() != 12 + right.len() {
            drop(stream.shutdown(Shutdown::Write));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("vhost_user", super::back_end);
    }
}
