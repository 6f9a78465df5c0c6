//! The front end against a real disk of qemu-storage-daemon, if there is one.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::stopped;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::vhost::open_disk;
use crate::stop::StopSignal;
use crate::sys::scratch::Scratch;

/// Ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn serve(disk: &Path, socket: &Path) -> Option<Daemon> {
    let daemon = Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!(
            "driver=file,node-name=d,filename={}",
            disk.display()
        ))
        .arg("--export")
        .arg(format!(
            "type=vhost-user-blk,id=e,node-name=d,writable=on,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .stdin(Stdio::null())
        .spawn();
    match daemon {
        Ok(daemon) => Some(Daemon(daemon)),
        Err(error) => {
            eprintln!("NOT TESTED: qemu-storage-daemon: {error}");
            None
        }
    }
}

/// struct virtio_blk_req without its data: 0 reads and 1 writes.
fn request(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

#[test]
fn a_disk_is_read_and_written_before_and_after_a_pause() {
    let scratch = Scratch::new("storage-daemon");
    let (disk, socket) = (scratch.0.join("disk"), scratch.0.join("socket"));
    let content: Vec<u8> = (0..64 * 512_u32)
        .map(|n| n.to_le_bytes()[1] ^ 0x5a)
        .collect();
    fs::write(&disk, &content).unwrap();
    let Some(daemon) = serve(&disk, &socket) else {
        return;
    };
    let stop = Arc::new(StopSignal::new().unwrap());
    let mut device = loop {
        match open_disk(&socket, &stop) {
            Ok(device) => break device,
            // It does not listen yet.
            Err(error) if error.is_usage() => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    };
    let mut sectors = [0; 8];
    device.read_config(0, &mut sectors);
    assert_eq!(u64::from_le_bytes(sectors), 64);
    // FLUSH, and no CONFIG_WCE.
    assert_eq!(device.features() & (1 << 9 | 1 << 11), 1 << 9);

    let mut driver = Driver::start(&mut device, 1, 0);
    driver.send(&request(0, 3), 513);
    let answer = driver.answer();
    assert_eq!(
        (&answer[..512], answer[512]),
        (&content[3 * 512..4 * 512], 0)
    );
    device.pause();
    driver.send(&[request(1, 5), vec![0xa5; 512]].concat(), 1);
    std::thread::sleep(Duration::from_millis(50));
    assert!(!driver.is_served(), "nothing is served while it is paused");
    device.resume();
    assert_eq!(driver.answer(), [0]);
    assert_eq!(fs::read(&disk).unwrap()[5 * 512..6 * 512], [0xa5; 512]);
    // Beyond the end: an error of the disk, not of the device.
    driver.send(&request(0, 64), 513);
    assert_eq!(driver.answer()[512], 1);
    device.reset();
    let mut driver = Driver::start(&mut device, 1, 0);
    driver.send(&request(0, 5), 513);
    assert_eq!(driver.answer()[..512], [0xa5; 512]);
    assert!(stop.reason().is_none());
    drop(daemon);
    assert!(stopped(&stop).contains("the back end: it closed the connection"));
}
