use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use super::super::queue::GuestBuffer;
use super::super::testing::{BUFFERS, INDIRECT, NEXT, RAM, TestDriver, WRITE, wait};
use super::super::{Threaded, VirtioDevice};
use super::image::DiskImage;
use super::*;
use crate::config::{DiskArg, DiskConfig};
use crate::sys::disk_io::Transfer;
use crate::sys::guest_ram::GuestRam;
use crate::sys::scratch::Scratch;

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl DiskFull for Told {
    fn pause(&self, reason: String) {
        self.0.lock().unwrap().push(reason);
    }
}

fn disk_config(text: &str) -> DiskConfig {
    match DiskArg::parse(text).unwrap() {
        DiskArg::File(config) => config,
        DiskArg::Socket(_) => panic!("{text}"),
    }
}

fn open_error(text: &str) -> String {
    crate::error_text::one_line(&OpenDisk::open(&disk_config(text)).unwrap_err())
}

/// A guest with a disk.
struct Guest {
    device: Threaded<VirtioBlock>,
    driver: TestDriver,
    told: Arc<Told>,
}

impl Guest {
    fn new(disk: OpenDisk) -> Self {
        let told = Arc::new(Told::default());
        let device = VirtioBlock::new("disk0".to_owned(), disk, Arc::clone(&told) as _);
        let device = Threaded::new(device);
        let features = device.features();
        Self::with_features(device, told, features)
    }

    fn with_features(mut device: Threaded<VirtioBlock>, told: Arc<Told>, features: u64) -> Self {
        let mut driver = TestDriver::new(device.queue_sizes());
        driver.activate(&mut device, features).unwrap();
        Self {
            device,
            driver,
            told,
        }
    }

    /// Makes a request available.
    fn ask(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.put(HEADER, &header);
        self.driver.put(STATUS, &[0xff]);
        let mut buffers = vec![(HEADER, 16, false)];
        buffers.extend(data);
        buffers.push((STATUS, 1, true));
        self.driver.queues[0].add(&buffers);
        self.driver.queues[0].kick();
    }

    /// Does a request; returns its status and how many bytes came.
    fn do_one(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        self.ask(kind, sector, data);
        let (_, len) = self.driver.queues[0].wait_used().unwrap();
        (self.driver.bytes(STATUS, 1)[0], len)
    }
}

fn scratch_disk(name: &str, sectors: usize) -> (Scratch, PathBuf) {
    let scratch = Scratch::new(name);
    let path = scratch.0.join("disk");
    let bytes: Vec<u8> = (0..sectors * 512)
        .map(|i| (i / 512 + i).to_le_bytes()[0])
        .collect();
    fs::write(&path, bytes).unwrap();
    (scratch, path)
}

fn open(path: &std::path::Path, more: &str) -> OpenDisk {
    OpenDisk::open(&disk_config(&format!("path={}{more}", path.display()))).unwrap()
}

#[test]
fn reads_and_writes_reach_the_file() {
    let (_scratch, path) = scratch_disk("blk-rw", 64);
    let mut guest = Guest::new(open(&path, ",id=root"));
    let before = fs::read(&path).unwrap();
    // Three buffers of odd lengths make two sectors.
    let parts = [
        (DATA, 100, true),
        (DATA + 0x1000, 900, true),
        (DATA + 0x2000, 24, true),
    ];
    assert_eq!(guest.do_one(0, 3, &parts), (0, 1025));
    let mut got = guest.driver.bytes(DATA, 100);
    got.extend(guest.driver.bytes(DATA + 0x1000, 900));
    got.extend(guest.driver.bytes(DATA + 0x2000, 24));
    assert_eq!(got, before[3 * 512..5 * 512]);
    guest.driver.put(DATA, &[7; 1024]);
    assert_eq!(guest.do_one(1, 62, &[(DATA, 1024, false)]), (0, 1));
    assert_eq!(guest.do_one(4, 0, &[]), (0, 1));
    let after = fs::read(&path).unwrap();
    assert_eq!(after[..62 * 512], before[..62 * 512]);
    assert_eq!(after[62 * 512..], [7; 1024]);
    assert_eq!(guest.do_one(8, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(guest.driver.bytes(DATA, 20)[..5], *b"root\0");
}

/// Each is refused with a status of its own, and the device works on.
#[test]
fn requests_beyond_the_disk_are_refused() {
    let (_scratch, path) = scratch_disk("blk-refused", 8);
    let before = fs::read(&path).unwrap();
    let mut guest = Guest::new(open(&path, ""));
    let sector = [(DATA, 512, true)];
    let out = [(DATA, 512, false)];
    for at in [8, 9, u64::MAX, u64::MAX / 512, (1 << 55) + 1] {
        assert_eq!(guest.do_one(0, at, &sector).0, 1, "{at}");
        assert_eq!(guest.do_one(1, at, &out).0, 1, "{at}");
    }
    assert_eq!(guest.do_one(0, 7, &[(DATA, 1024, true)]).0, 1);
    assert_eq!(guest.do_one(0, 0, &[(DATA, 511, true)]).0, 1);
    assert_eq!(guest.do_one(1, 0, &[(DATA, 513, false)]).0, 1);
    for kind in [2, 3, 5, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(guest.do_one(kind, 0, &sector).0, 2, "{kind}");
    }
    assert_eq!(guest.do_one(0, 7, &sector), (0, 513));
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!guest.driver.interrupt.is_broken());
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let (_scratch, path) = scratch_disk("blk-ro", 8);
    let before = fs::read(&path).unwrap();
    let mut guest = Guest::new(open(&path, ",readonly=on"));
    assert_ne!(guest.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(guest.do_one(1, 0, &[(DATA, 512, false)]).0, 1);
    for kind in [11, 13] {
        guest
            .driver
            .put(DATA, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(guest.do_one(kind, 0, &[(DATA, 16, false)]).0, 1);
    }
    assert_eq!(guest.do_one(4, 0, &[]).0, 0);
    assert_eq!(guest.do_one(0, 0, &[(DATA, 512, true)]).0, 0);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn ranges_are_cleared() {
    let (_scratch, path) = scratch_disk("blk-clear", 64);
    let mut guest = Guest::new(open(&path, ""));
    let mut clear = |kind, sector: u64, count: u32, flags: u32| {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(count.to_le_bytes());
        range.extend(flags.to_le_bytes());
        guest.driver.put(DATA, &range);
        guest.do_one(kind, 0, &[(DATA, 16, false)]).0
    };
    assert_eq!(clear(13, 8, 8, 0), 0);
    assert_eq!(clear(13, 24, 8, 1), 0);
    assert_eq!(clear(11, 40, 8, 0), 0);
    assert_eq!(clear(13, 60, 5, 0), 1, "beyond the end");
    assert_eq!(clear(11, 0, u32::MAX, 0), 1);
    assert_eq!(clear(11, 0, 1, 1), 2, "a flag that discards do not have");
    assert_eq!(clear(13, 0, 1, 4), 2);
    assert_eq!(clear(13, 0, 0, 0), 0);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 64 * 512);
    assert!(bytes[8 * 512..16 * 512].iter().all(|&byte| byte == 0));
    assert!(bytes[24 * 512..32 * 512].iter().all(|&byte| byte == 0));
    assert!(bytes[16 * 512..24 * 512].iter().any(|&byte| byte != 0));
}

#[test]
fn a_batch_of_requests_is_one_interrupt() {
    let (_scratch, path) = scratch_disk("blk-batch", 64);
    let mut guest = Guest::new(open(&path, ""));
    guest.device.pause();
    for sector in 0..16_u64 {
        // One header for all: they read the same sector.
        let data = DATA + sector * 512;
        guest.ask(0, 5, &[(data, 512, true)]);
    }
    guest.device.resume();
    for _ in 0..16 {
        guest.driver.queues[0].wait_used().unwrap();
    }
    guest.device.pause();
    assert_eq!(guest.driver.queues[0].call.read().unwrap(), 1);
}

#[test]
fn requests_may_be_in_tables_of_their_own() {
    let (_scratch, path) = scratch_disk("blk-indirect", 8);
    let mut guest = Guest::new(open(&path, ""));
    guest.driver.put(HEADER, &[0; 16]);
    let table = BUFFERS + 0x8000;
    let mut bytes = Vec::new();
    for (address, len, flags, next) in [
        (HEADER, 16_u32, NEXT, 1_u16),
        (DATA, 512, NEXT | WRITE, 2),
        (STATUS, 1, WRITE, 0),
    ] {
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
    }
    guest.driver.put(table, &bytes);
    let queue = &mut guest.driver.queues[0];
    queue.descriptor(0, table, 48, INDIRECT, 0);
    queue.offer(0);
    queue.kick();
    assert_eq!(queue.wait_used(), Some((0, 513)));
}

/// A disk of the host that is full, and then is not.
#[derive(Debug, Default)]
struct FullDisk {
    full: Arc<Mutex<bool>>,
    written: Arc<Mutex<u64>>,
}

impl DiskImage for FullDisk {
    fn size(&self) -> u64 {
        1 << 20
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn transfer(
        &mut self,
        way: Transfer,
        _: &GuestRam,
        buffers: &[GuestBuffer],
        _: u64,
    ) -> io::Result<()> {
        if way == Transfer::Write && *self.full.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        *self.written.lock().unwrap() += u64::from(buffers[0].len);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_host_disk_pauses_the_vm_and_loses_nothing() {
    let (_scratch, path) = scratch_disk("blk-full", 8);
    let image = FullDisk::default();
    let (full, written) = (Arc::clone(&image.full), Arc::clone(&image.written));
    *full.lock().unwrap() = true;
    let mut disk = open(&path, "");
    disk.image = Box::new(image);
    let mut guest = Guest::new(disk);
    guest.ask(1, 0, &[(DATA, 512, false)]);
    guest.ask(1, 8, &[(DATA, 1024, false)]);
    let told = Arc::clone(&guest.told);
    let reason = wait(|| told.0.lock().unwrap().first().cloned()).unwrap();
    assert!(reason.contains("no room for disk0"), "{reason}");
    assert!(reason.contains("make room, then resume"), "{reason}");
    guest.driver.queues[0].kick();
    guest.device.pause();
    assert_eq!(guest.driver.queues[0].used(), None);
    assert_eq!(told.0.lock().unwrap().len(), 1, "told once");
    // Still full after a resume: told again.
    guest.device.resume();
    wait(|| (told.0.lock().unwrap().len() == 2).then_some(())).unwrap();
    guest.device.pause();
    *full.lock().unwrap() = false;
    guest.device.resume();
    assert!(guest.driver.queues[0].wait_used().is_some());
    assert!(guest.driver.queues[0].wait_used().is_some());
    assert_eq!(guest.driver.bytes(STATUS, 1), [0]);
    assert_eq!(*written.lock().unwrap(), 1536);
}

#[test]
fn hostile_requests_break_the_device_until_its_reset() {
    type Hostile = fn(&mut TestDriver);
    let cases: [(&str, Hostile); 6] = [
        ("no status", |driver| {
            driver.queues[0].add(&[(HEADER, 16, false)]);
        }),
        ("a short header", |driver| {
            driver.queues[0].add(&[(HEADER, 15, false), (STATUS, 1, true)]);
        }),
        ("data outside of RAM", |driver| {
            let chain = [(HEADER, 16, false), (RAM, 512, true), (STATUS, 1, true)];
            driver.queues[0].add(&chain);
        }),
        ("a loop", |driver| {
            driver.queues[0].descriptor(0, HEADER, 16, NEXT, 1);
            driver.queues[0].descriptor(1, HEADER, 16, NEXT, 0);
            driver.queues[0].offer(0);
        }),
        ("only zero lengths", |driver| {
            driver.queues[0].add(&[(HEADER, 0, false), (STATUS, 0, true)]);
        }),
        ("a table of no entries", |driver| {
            driver.queues[0].descriptor(0, HEADER, 0, INDIRECT, 0);
            driver.queues[0].offer(0);
        }),
    ];
    let (_scratch, path) = scratch_disk("blk-hostile", 8);
    let mut guest = Guest::new(open(&path, ""));
    for (what, hostile) in cases {
        hostile(&mut guest.driver);
        guest.driver.queues[0].kick();
        assert!(guest.driver.wait_until_broken(), "{what}");
        let features = guest.device.features();
        guest.driver.activate(&mut guest.device, features).unwrap();
        assert_eq!(guest.do_one(0, 0, &[(DATA, 512, true)]).0, 0, "{what}");
    }
}

#[test]
fn a_second_writer_is_refused_and_readers_share() {
    let (_scratch, path) = scratch_disk("blk-lock", 8);
    let text = format!("path={}", path.display());
    let read_only = format!("{text},readonly=on");
    let writer = open(&path, "");
    for text in [&text, &read_only] {
        let error = open_error(text);
        assert!(
            error.contains("in use: another disk of this VM, or another VM, writes it"),
            "{error}"
        );
    }
    drop(writer);
    let readers = (open(&path, ",readonly=on"), open(&path, ",readonly=on"));
    let error = open_error(&text);
    assert!(error.contains("reads it; use a copy"), "{error}");
    drop(readers);
    open(&path, "");
}

#[test]
fn files_that_are_no_disks_are_refused() {
    let (scratch, path) = scratch_disk("blk-files", 8);
    let name = path.display();
    assert!(
        open_error("path=/does/not/exist")
            .contains("cannot open /does/not/exist for reading and writing: No such file")
    );
    assert!(
        open_error("path=/dev/null").contains("is a character device; expected: a regular file")
    );
    let folder = scratch.0.display();
    assert!(open_error(&format!("path={folder}")).contains("is a directory"));
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all_at(b"x", 0)
        .unwrap();
    fs::write(&path, [0; 513]).unwrap();
    let error = open_error(&format!("path={name}"));
    assert!(
        error.contains("has 513 bytes, which is no multiple of 512; use a disk of 1024"),
        "{error}"
    );
    fs::write(&path, []).unwrap();
    assert!(open_error(&format!("path={name}")).contains("has 0 bytes"));
    let mut image = vec![0; 1024];
    image[..4].copy_from_slice(b"QFI\xfb");
    fs::write(&path, &image).unwrap();
    // A guest may have written these bytes: they are never believed.
    let error = open_error(&format!("path={name}"));
    assert!(error.contains("starts as a qcow2 image does"), "{error}");
    assert!(error.contains("use format=qcow2, or format=raw"), "{error}");
    open(&path, ",format=raw");
    let error = open_error(&format!("path={name},format=qcow2"));
    assert!(error.contains("is no usable qcow2 image"), "{error}");
    image[..4].copy_from_slice(b"KDMV");
    fs::write(&path, &image).unwrap();
    assert!(open_error(&format!("path={name}")).contains("starts as a VMDK image does"));
}

/// A new image of `size` bytes by the same crate; `backing` is only named in it.
fn new_qcow2(path: &std::path::Path, size: u64, backing: Option<&str>) {
    use imago::qcow2::Qcow2;
    use imago::{FormatCreateBuilder, StorageOpenOptions};
    fs::write(path, []).unwrap();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let options = StorageOpenOptions::new().filename(path).write(true);
    let storage = imago::file::File::from_open_file(file, options).unwrap();
    let mut builder = Qcow2::<imago::file::File>::create_builder(storage).size(size);
    if let Some(backing) = backing {
        builder = builder.backing(backing.to_owned(), "raw".to_owned());
    }
    builder.create().unwrap();
}

#[test]
fn a_qcow2_image_keeps_what_is_written() {
    let scratch = Scratch::new("blk-qcow2");
    let path = scratch.0.join("disk.qcow2");
    new_qcow2(&path, 8 << 20, None);
    let mut guest = Guest::new(open(&path, ",format=qcow2"));
    let bytes: Vec<u8> = (0..65536_u32).map(|i| (i * 3).to_le_bytes()[0]).collect();
    guest.driver.put(DATA, &bytes);
    let parts = [(DATA, 1000, false), (DATA + 1000, 64536, false)];
    assert_eq!(guest.do_one(1, 100, &parts).0, 0);
    assert_eq!(guest.do_one(4, 0, &[]).0, 0);
    drop(guest);
    assert!(fs::metadata(&path).unwrap().len() < 4 << 20);
    let mut guest = Guest::new(open(&path, ",format=qcow2,readonly=on"));
    assert_eq!(
        guest.do_one(0, 100, &[(DATA + 0x2_0000, 65536, true)]),
        (0, 65537)
    );
    assert_eq!(guest.driver.bytes(DATA + 0x2_0000, 65536), bytes);
    assert_eq!(guest.do_one(0, 5000, &[(DATA, 512, true)]).0, 0);
    assert_eq!(guest.driver.bytes(DATA, 512), [0; 512]);
    assert_eq!(guest.do_one(0, (8 << 20) / 512, &[(DATA, 512, true)]).0, 1);
}

#[test]
fn a_backing_file_that_no_flag_names_is_refused() {
    let scratch = Scratch::new("blk-backing");
    let path = scratch.0.join("disk.qcow2");
    new_qcow2(&path, 1 << 20, Some("/etc/shadow"));
    let error = open_error(&format!("path={},format=qcow2", path.display()));
    assert!(
        error.contains("needs the file '/etc/shadow', which no flag names"),
        "{error}"
    );
}

/// The same guest with a new device for a disk, as after a restore.
fn go_on(mut guest: Guest, disk: OpenDisk) -> Result<Guest, RestoreFault> {
    guest.device.pause();
    let saved = guest.device.save().unwrap();
    let features = guest.device.features();
    drop(guest.device);
    let told = Arc::clone(&guest.told) as _;
    let mut device = Threaded::new(VirtioBlock::new("disk0".to_owned(), disk, told));
    let activation = guest.driver.activation_of(features, &saved.queues);
    device.restore(&saved.state, Some(activation))?;
    Ok(Guest { device, ..guest })
}

#[test]
fn requests_go_on_from_a_snapshot_each_done_once() {
    let (_scratch, path) = scratch_disk("blk-saved", 64);
    let mut guest = Guest::new(open(&path, ""));
    guest.driver.put(DATA, &[0x5a; 512]);
    let write = [(DATA, 512, false)];
    assert_eq!(guest.do_one(1, 3, &write).0, 0);
    guest.device.pause();
    // Nobody has taken this one when the guest is saved.
    guest.driver.put(DATA, &[0xa5; 512]);
    guest.ask(1, 4, &write);
    // The other end of the VM would have closed it.
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    let mut guest = go_on(guest, open(&copy, "")).unwrap();
    assert_eq!(guest.driver.queues[0].used(), None, "it waits");
    guest.device.resume();
    guest.driver.queues[0].wait_used().unwrap();
    assert_eq!(guest.driver.bytes(STATUS, 1), [0]);
    assert_eq!(guest.driver.queues[0].used(), None);
    let bytes = fs::read(&copy).unwrap();
    assert_eq!((bytes[3 * 512], bytes[4 * 512]), (0x5a, 0xa5));
    assert_ne!(fs::read(&path).unwrap()[4 * 512], 0xa5);
    assert_eq!(guest.do_one(0, 4, &[(DATA, 512, true)]).0, 0);
}

/// A disk that the guest does not know is worse than none.
#[test]
fn a_disk_that_is_another_or_was_written_since_is_refused() {
    let (_scratch, path) = scratch_disk("blk-other", 64);
    let guest = |more| Guest::new(open(&path, more));
    let refused = |guest, path: &std::path::Path, more| {
        // The guest's own lock is gone with its device.
        let disk = OpenDisk::open(&disk_config(&format!("path={}{more}", path.display())));
        match go_on(guest, disk.unwrap()) {
            Err(fault) => fault.to_string(),
            Ok(_) => "taken".to_owned(),
        }
    };
    let read_only = ",readonly=on";
    assert_eq!(refused(guest(read_only), &path, read_only), "taken");
    let copy = path.with_extension("copy");
    fs::write(&copy, vec![0; 63 * 512]).unwrap();
    let said = refused(guest(read_only), &copy, "");
    assert!(said.contains("32256 bytes"), "{said}");
    let mut guest = guest(read_only);
    guest.device.pause();
    let saved = guest.device.save().unwrap();
    drop(guest);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, vec![1; 64 * 512]).unwrap();
    let said = open(&path, "")
        .must_be(&saved.state)
        .unwrap_err()
        .to_string();
    assert!(said.contains("--disk path=COPY"), "{said}");
    let disk = open(&path, "");
    for damaged in [&[][..], &[0xff; 9]] {
        assert!(matches!(disk.must_be(damaged), Err(RestoreFault::Damaged)));
    }
}
