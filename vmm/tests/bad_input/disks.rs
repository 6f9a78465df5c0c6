//! `--disk`, `--console` and `--rng`: what is refused, before anything starts.

use std::fs;
use std::os::unix::net::UnixListener;

use super::{Scratch, WHAT_WORKS, elf, refuses};

/// The flags alone: no file is looked at.
#[test]
fn values_of_the_flags_of_devices() {
    let scratch = Scratch::new("device-flags");
    let kernel = scratch.file("kernel", &elf());
    for (flags, parts) in [
        (
            &["--disk", "a.img"][..],
            ["--disk", "'a.img' is not key=value"],
        ),
        (&["--disk", "readonly=on"], ["--disk", "'path' is missing"]),
        (
            &["--disk", "path=a,format=vmdk"],
            ["--disk", "'vmdk' is not possible for 'format'"],
        ),
        (
            &["--disk", "path=a,readonly=1"],
            ["--disk", "'1' is not possible for 'readonly'"],
        ),
        (
            &["--disk", "path=a,cache=none"],
            ["--disk", "unknown key 'cache'"],
        ),
        (
            &["--disk", "path=a,id=a b"],
            ["--disk", "'a b' is not possible for 'id'"],
        ),
        (
            &["--disk", "vhost-user=on"],
            ["--disk", "'socket' is missing"],
        ),
        (
            &["--disk", "vhost-user=on,socket=/s,path=a"],
            ["--disk", "'path' excludes"],
        ),
        (
            &["--serial", "socket="],
            ["--serial", "a path of 1 to 107 bytes"],
        ),
        (
            &["--console", "pty"],
            ["--console", "tty, null or file=PATH"],
        ),
        (&["--console", "tty"], ["--console: tty", "--serial null"]),
        (
            &["--rng", "src=/dev/urandom"],
            ["--rng", "'src=/dev/urandom'"],
        ),
    ] {
        let args = [&["--kernel", &kernel], flags].concat();
        refuses(&args, 2, &[parts[0], parts[1], WHAT_WORKS]);
    }
}

#[test]
fn files_that_cannot_be_disks() {
    if !super::serial::kvm() {
        return;
    }
    let scratch = Scratch::new("disks");
    let kernel = scratch.file("kernel", &elf());
    let dir = scratch.0.display().to_string();
    let socket = format!("{dir}/socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let odd = scratch.file("odd", &[0; 1000]);
    let empty = scratch.file("empty", &[]);
    let image = scratch.file("image", &[&b"QFI\xfb"[..], &[0; 508]].concat());
    let good = scratch.file("good", &[0; 4096]);
    let disk = |path: &str, more: &str| format!("path={path}{more}");
    for (disks, parts) in [
        (
            vec![disk("/does/not/exist", "")],
            ["/does/not/exist", "No such file"],
        ),
        (vec![disk(&dir, "")], [dir.as_str(), "is a directory"]),
        (vec![disk(&socket, "")], [&socket, "is a socket"]),
        (
            vec![disk("/dev/zero", "")],
            ["/dev/zero", "is a character device"],
        ),
        (
            vec![disk(&odd, "")],
            [&odd, "has 1000 bytes, which is no multiple of 512"],
        ),
        (vec![disk(&empty, "")], [&empty, "has 0 bytes"]),
        (
            vec![disk(&image, "")],
            [&image, "starts as a qcow2 image does"],
        ),
        (
            vec![disk(&image, ",format=qcow2")],
            [&image, "is no usable qcow2 image"],
        ),
        (vec![disk(&good, ""), disk(&good, "")], [&good, "is in use"]),
        (
            vec![disk(&good, ""), disk(&good, ",readonly=on")],
            [&good, "writes it"],
        ),
        (
            vec!["vhost-user=on,socket=/does/not/exist".to_owned()],
            ["/does/not/exist", "cannot connect"],
        ),
    ] {
        let flags = disks.iter().flat_map(|disk| ["--disk", disk]);
        let args: Vec<_> = ["--kernel", &kernel, "--serial", "null"]
            .into_iter()
            .chain(flags)
            .collect();
        refuses(&args, 2, &["--disk", parts[0], parts[1], WHAT_WORKS]);
    }
    assert_eq!(fs::read(&good).unwrap(), [0; 4096]);
}

/// What is no socket stays, and so does one that is served.
#[test]
fn the_socket_of_the_serial_console_is_nobodys() {
    if !super::serial::kvm() {
        return;
    }
    let scratch = Scratch::new("serial-socket");
    let kernel = scratch.file("kernel", &elf());
    let file = scratch.file("file", b"precious");
    let served = format!("{}/socket", scratch.0.display());
    let _listener = UnixListener::bind(&served).unwrap();
    for (path, reason) in [(&file, "exists and is no socket"), (&served, "is in use")] {
        let serial = format!("socket={path}");
        let args = ["--kernel", &kernel, "--serial", &serial];
        refuses(&args, 2, &["--serial: socket", reason, WHAT_WORKS]);
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn the_file_of_the_console_is_no_other_file() {
    if !super::serial::kvm() {
        return;
    }
    let scratch = Scratch::new("virtio-console");
    let kernel = scratch.file("kernel", &elf());
    let console = format!("file={kernel}");
    let args = [
        "--kernel",
        &kernel,
        "--console",
        &console,
        "--serial",
        "null",
    ];
    refuses(
        &args,
        2,
        &["--console", "is the file of --kernel", WHAT_WORKS],
    );
    assert_eq!(fs::read(&kernel).unwrap(), elf());
    // A refusal behind it leaves the file as it was.
    let log = scratch.file("log", b"old");
    let console = format!("file={log}");
    let args = [
        "--kernel",
        &kernel,
        "--console",
        &console,
        "--disk",
        "path=/nowhere",
    ];
    refuses(&args, 2, &["--disk", "/nowhere", WHAT_WORKS]);
    assert_eq!(fs::read(&log).unwrap(), b"old");
}
