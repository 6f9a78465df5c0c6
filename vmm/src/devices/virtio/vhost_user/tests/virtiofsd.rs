//! The front end against a real virtiofsd, if there is one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::stopped;
use crate::config::{FsConfig, FsSource};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::backend::{self, Isolation, SharedFolder};
use crate::devices::virtio::vhost::{VhostError, open_fs};
use crate::devices::virtio::vhost_user::{Backend, BackendKind, VhostUserDevice};
use crate::stop::StopSignal;
use crate::sys::scratch::Scratch;

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

/// Sends a request, and returns the error of the answer, 0 if it is none, with its body.
fn ask(driver: &mut Driver, code: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
    send(driver, code, node, body);
    answer(driver)
}

fn send(driver: &mut Driver, code: u32, node: u64, body: &[u8]) {
    let len = u32::try_from(40 + body.len()).unwrap();
    let request = [
        &len.to_le_bytes()[..],
        &code.to_le_bytes(),
        &1_u64.to_le_bytes(),
        &node.to_le_bytes(),
        &[0; 16],
        body,
    ];
    driver.send(&request.concat(), 4096);
}

fn answer(driver: &mut Driver) -> (i32, Vec<u8>) {
    let bytes = driver.answer();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let len = usize::try_from(word(0)).unwrap();
    (word(4).cast_signed(), bytes[16..len].to_vec())
}

fn start(device: &mut VhostUserDevice) -> Driver {
    let mut driver = Driver::start(device, 2, 1);
    // Version 7.31, 64 KiB of read-ahead, no flags.
    let body = [7_u32, 31, 1 << 16, 0].map(u32::to_le_bytes);
    let (error, body) = ask(&mut driver, INIT, 0, body.as_flattened());
    assert_eq!((error, &body[..4]), (0, &7_u32.to_le_bytes()[..]));
    driver
}

/// The inode of a name in a folder; 1 is the root.
fn lookup(driver: &mut Driver, node: u64, name: &str) -> Result<u64, i32> {
    match ask(driver, LOOKUP, node, format!("{name}\0").as_bytes()) {
        // struct fuse_entry_out, struct fuse_attr.
        (0, body) => Ok(u64::from_le_bytes(body[40..48].try_into().unwrap())),
        (error, _) => Err(error),
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
    let mut driver = start(&mut device);
    assert_eq!(lookup(&mut driver, 1, "file"), Ok(inode(&file)));
    assert_eq!(lookup(&mut driver, 1, "missing"), Err(-libc::ENOENT));
    device.pause();
    send(&mut driver, LOOKUP, 1, b"file\0");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!driver.is_served(), "nothing is served while it is paused");
    device.resume();
    assert_eq!(answer(&mut driver).0, 0);
    device.reset();
    let mut driver = start(&mut device);
    assert_eq!(lookup(&mut driver, 1, "file"), Ok(inode(&file)));
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
    let mut driver = start(&mut device);
    assert_ne!(lookup(&mut driver, 1, ".."), Ok(inode(&scratch.0)));
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
