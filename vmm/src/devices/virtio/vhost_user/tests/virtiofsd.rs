//! The front end against a real virtiofsd, if there is one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::fake::memory;
use super::{activation, queue, stopped};
use crate::config::{FsConfig, FsSource};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::backend::{self, Isolation, SharedFolder};
use crate::devices::virtio::vhost::{VhostError, open_fs};
use crate::devices::virtio::vhost_user::{Backend, BackendKind, VhostUserDevice};
use crate::stop::StopSignal;
use crate::sys::scratch::Scratch;

/// The request queue, and where its requests and answers are.
const QUEUE: u32 = 0x20000;
const REQUEST: u64 = 0x30000;
const ANSWER: u64 = 0x31000;
/// `FUSE_INIT`, `FUSE_LOOKUP` and the inode of the root (fuse(4)).
const INIT: u32 = 26;
const LOOKUP: u32 = 1;

type SharedDevice = (Result<VhostUserDevice, VhostError>, Arc<StopSignal>);

/// `None`, told loudly, where there is no virtiofsd.
fn share(path: &Path) -> Option<SharedDevice> {
    let stop = Arc::new(StopSignal::new().unwrap());
    let config = FsConfig {
        tag: "real".into(),
        source: FsSource::Folder {
            path: path.to_owned(),
            readonly: false,
        },
    };
    match open_fs(&config, &stop) {
        Err(error @ VhostError::Program { .. }) => {
            eprintln!("NOT TESTED: {error}");
            None
        }
        device => Some((device, stop)),
    }
}

/// A driver of one request at a time.
struct Driver {
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
    sent: u16,
}

impl Driver {
    fn start(device: &mut VhostUserDevice) -> Self {
        let memory = memory();
        let queues = vec![queue(0, 0x10000), queue(1, QUEUE)];
        let driver = Self {
            memory: memory.clone(),
            kick: queues[1].kick.try_clone().unwrap(),
            call: queues[1].call.try_clone().unwrap(),
            sent: 0,
        };
        assert_eq!(queues[1].queue.next_avail(), 0);
        device
            .activate(activation(&memory, 1 << 32, queues))
            .unwrap();
        driver
    }

    fn send(&mut self, code: u32, node: u64, body: &[u8]) {
        let len = u32::try_from(40 + body.len()).unwrap();
        let header = [
            &len.to_le_bytes()[..],
            &code.to_le_bytes(),
            &1_u64.to_le_bytes(),
            &node.to_le_bytes(),
            &[0; 16],
            body,
        ]
        .concat();
        let memory = &self.memory;
        memory.write_slice(&header, GuestAddress(REQUEST)).unwrap();
        let descriptor = |address: u64, len: u32, flags: u16, next: u16| {
            [
                &address.to_le_bytes()[..],
                &len.to_le_bytes(),
                &flags.to_le_bytes(),
                &next.to_le_bytes(),
            ]
            .concat()
        };
        let table = [
            descriptor(REQUEST, len, 1, 1),
            descriptor(ANSWER, 4096, 2, 0),
        ]
        .concat();
        memory
            .write_slice(&table, GuestAddress(QUEUE.into()))
            .unwrap();
        let avail = u64::from(QUEUE) + 0x1000;
        let entry = avail + 4 + 2 * u64::from(self.sent % 16);
        memory.write_obj(0_u16, GuestAddress(entry)).unwrap();
        self.sent += 1;
        memory
            .store(self.sent, GuestAddress(avail + 2), Ordering::Release)
            .unwrap();
        self.kick.write(1).unwrap();
    }

    /// The error of the answer, 0 if it is one, and its body.
    fn answer(&self) -> (i32, Vec<u8>) {
        let used = GuestAddress(u64::from(QUEUE) + 0x2002);
        while self.memory.load::<u16>(used, Ordering::Acquire).unwrap() != self.sent {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.call.read().unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(ANSWER)).unwrap();
        let error: i32 = self.memory.read_obj(GuestAddress(ANSWER + 4)).unwrap();
        let mut body = vec![0; usize::try_from(len).unwrap() - 16];
        self.memory
            .read_slice(&mut body, GuestAddress(ANSWER + 16))
            .unwrap();
        (error, body)
    }

    fn init(&mut self) {
        // Version 7.31, 64 KiB of read-ahead, no flags.
        let body = [7_u32, 31, 1 << 16, 0].map(u32::to_le_bytes);
        self.send(INIT, 0, body.as_flattened());
        let (error, body) = self.answer();
        assert_eq!((error, &body[..4]), (0, &7_u32.to_le_bytes()[..]));
    }

    /// The inode of a name in a folder; 1 is the root.
    fn lookup(&mut self, node: u64, name: &str) -> Result<u64, i32> {
        self.send(LOOKUP, node, format!("{name}\0").as_bytes());
        let (error, body) = self.answer();
        match error {
            // struct fuse_entry_out, struct fuse_attr.
            0 => Ok(u64::from_le_bytes(body[40..48].try_into().unwrap())),
            error => Err(error),
        }
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

#[test]
fn files_are_served_before_and_after_a_pause_and_a_reset() {
    let scratch = Scratch::new("virtiofsd-serves");
    let file = scratch.0.join("file");
    fs::write(&file, "x").unwrap();
    let Some((device, stop)) = share(&scratch.0) else {
        return;
    };
    let mut device = device.unwrap();
    let mut driver = Driver::start(&mut device);
    driver.init();
    assert_eq!(driver.lookup(1, "file"), Ok(inode(&file)));
    assert_eq!(driver.lookup(1, "missing"), Err(-libc::ENOENT));
    device.pause();
    driver.send(LOOKUP, 1, b"file\0");
    let used = GuestAddress(u64::from(QUEUE) + 0x2002);
    std::thread::sleep(Duration::from_millis(50));
    let served: u16 = driver.memory.load(used, Ordering::Acquire).unwrap();
    assert_eq!(served, 3, "nothing is served while it is paused");
    device.resume();
    assert_eq!(driver.answer().0, 0);
    device.reset();
    let mut driver = Driver::start(&mut device);
    driver.init();
    assert_eq!(driver.lookup(1, "file"), Ok(inode(&file)));
    assert!(stop.reason().is_none());
}

/// A guest's kernel may ask for what no Linux asks for.
#[test]
fn a_guest_stays_in_its_folder() {
    let scratch = Scratch::new("virtiofsd-folder");
    let folder = scratch.0.join("shared");
    fs::create_dir(&folder).unwrap();
    let Some((device, _stop)) = share(&folder) else {
        return;
    };
    let mut device = device.unwrap();
    let mut driver = Driver::start(&mut device);
    driver.init();
    assert_ne!(driver.lookup(1, ".."), Ok(inode(&scratch.0)));
}

#[test]
fn a_virtiofsd_that_is_killed_or_does_not_start_is_told() {
    let scratch = Scratch::new("virtiofsd-ends");
    let Some((device, stop)) = share(&scratch.0) else {
        return;
    };
    let _device = device.unwrap();
    let own = std::process::id().to_string();
    let killed = std::process::Command::new("pkill")
        .args(["-9", "-P", &own, "-f", &scratch.0.display().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let reason = stopped(&stop);
    assert!(
        reason.starts_with("--fs tag=real: virtiofsd (process "),
        "{reason}"
    );
    assert!(reason.contains(") was killed by signal 9"), "{reason}");

    let folder = SharedFolder {
        path: scratch.0.join("missing"),
        readonly: true,
    };
    let (process, socket) = backend::start_virtiofsd(&folder, Isolation::Nothing).unwrap();
    let backend = Backend {
        flag: "--fs tag=real".into(),
        socket,
        process: Some(process),
    };
    let kind = BackendKind::Fs { tag: "real".into() };
    let error = VhostUserDevice::connect(backend, kind, &stop).unwrap_err();
    assert!(error.is_gone);
    let error = error.to_string();
    assert!(error.contains(") ended with status 1: "), "{error}");
    assert!(error.contains("missing does not exist"), "{error}");
}
