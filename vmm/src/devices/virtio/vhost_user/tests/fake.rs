//! A back end that speaks the protocol, and does as it is told.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vm_memory::{FileOffset, GuestAddress};

use crate::sys::guest_ram::GuestRam;

// "Front-end message types" of the vhost-user protocol.
pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const SET_VRING_ADDR: u32 = 9;
pub(super) const SET_VRING_BASE: u32 = 10;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_QUEUE_NUM: u32 = 17;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const GET_CONFIG: u32 = 24;

/// The features of the back end: indirect descriptors, event index, protocol features,
/// virtio 1; a log and packed queues, which nobody wants; and a disk's queues.
pub(super) const FEATURES: u64 =
    1 << 28 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 26 | 1 << 34 | 1 << 12;

/// The memory of the guest: 4 MiB in a file.
pub(super) fn memory() -> GuestRam {
    let path = std::env::temp_dir().join(format!(
        "perfvisor-vhost-user-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let size = 4 << 20;
    file.set_len(size).unwrap();
    let len = usize::try_from(size).unwrap();
    let ranges = [(GuestAddress(0), len, Some(FileOffset::new(file, 0)))];
    GuestRam::from_ranges_with_files(ranges).unwrap()
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) code: u32,
    pub(super) body: Vec<u8>,
}

/// What the back end does at a request, if not what it should.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// This body.
    Body(Vec<u8>),
    /// This number: an error, where an acknowledgement is due.
    Number(u64),
    /// These bytes, which are no message.
    Raw(Vec<u8>),
    /// Half of a message, and the end.
    Half,
    /// The end.
    Close,
    /// Nothing.
    Silence,
}

type Log = Arc<Mutex<Vec<Request>>>;

pub(super) struct Fake {
    ours: Option<UnixStream>,
    theirs: UnixStream,
    log: Log,
    _thread: JoinHandle<()>,
}

impl Fake {
    /// A back end that answers as `script` says, or as it should.
    pub(super) fn serving(script: impl Fn(&Request) -> Option<Answer> + Send + 'static) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (log, stream) = (Log::default(), theirs.try_clone().unwrap());
        let of_thread = Arc::clone(&log);
        let thread = std::thread::spawn(move || serve(stream, &of_thread, script));
        Self {
            ours: Some(ours),
            theirs,
            log,
            _thread: thread,
        }
    }

    /// The front end's way to it.
    pub(super) fn socket(&mut self) -> UnixStream {
        self.ours.take().unwrap()
    }

    pub(super) fn die(&self) {
        self.theirs.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub(super) fn forget(&self) {
        self.log.lock().unwrap().clear();
    }

    pub(super) fn bodies(&self, code: u32) -> Vec<Vec<u8>> {
        let log = self.log.lock().unwrap();
        let of_code = log.iter().filter(|request| request.code == code);
        of_code.map(|request| request.body.clone()).collect()
    }

    pub(super) fn body(&self, code: u32) -> Vec<u8> {
        self.bodies(code).remove(0)
    }

    pub(super) fn number(&self, code: u32) -> u64 {
        u64::from_le_bytes(self.body(code)[..8].try_into().unwrap())
    }

    pub(super) fn count(&self, code: u32) -> usize {
        self.bodies(code).len()
    }

    /// The queues and entries of SET_VRING_BASE.
    pub(super) fn bases(&self) -> Vec<(u32, u32)> {
        let word = |body: &[u8], at| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        let bodies = self.bodies(SET_VRING_BASE);
        bodies
            .iter()
            .map(|body| (word(body, 0), word(body, 4)))
            .collect()
    }
}

fn serve(mut stream: UnixStream, log: &Log, script: impl Fn(&Request) -> Option<Answer>) {
    loop {
        let mut header = [0; 12];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; word(8).try_into().unwrap()];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let request = Request {
            code: word(0),
            body,
        };
        log.lock().unwrap().push(request.clone());
        let wants_ack = word(4) & 8 != 0;
        let message = |body: &[u8]| {
            let len = u32::try_from(body.len()).unwrap();
            // Version 1, an answer.
            let header = [request.code, 5, len].map(u32::to_le_bytes);
            [header.as_flattened(), body].concat()
        };
        let bytes = match script(&request).or_else(|| usual(&request, wants_ack)) {
            None | Some(Answer::Silence) => continue,
            Some(Answer::Body(body)) => message(&body),
            Some(Answer::Number(number)) => message(&number.to_le_bytes()),
            Some(Answer::Raw(bytes)) => bytes,
            Some(Answer::Half) => message(&[0; 8])[..15].to_vec(),
            Some(Answer::Close) => Vec::new(),
        };
        let ends = bytes.len() == 15 || bytes.is_empty();
        if stream.write_all(&bytes).is_err() || ends {
            drop(stream.shutdown(std::net::Shutdown::Both));
            return;
        }
    }
}

/// What a good back end answers.
fn usual(request: &Request, wants_ack: bool) -> Option<Answer> {
    match request.code {
        GET_FEATURES => Some(Answer::Number(FEATURES)),
        // Several queues, acknowledgements, configuration; and a bit of the future.
        GET_PROTOCOL_FEATURES => Some(Answer::Number(1 | 1 << 3 | 1 << 9 | 1 << 60)),
        GET_QUEUE_NUM => Some(Answer::Number(3)),
        GET_CONFIG => Some(Answer::Body(request.body.clone())),
        GET_VRING_BASE => {
            let mut body = request.body.clone();
            body[4..8].copy_from_slice(&7_u32.to_le_bytes());
            Some(Answer::Body(body))
        }
        _ => wants_ack.then_some(Answer::Number(0)),
    }
}
