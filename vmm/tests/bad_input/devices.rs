//! `--fs`, `--net` and `--vsock`: what the host or another program does not have.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use super::{Scratch, WHAT_WORKS, elf, refuses};

/// Whether guests can run here; says so if not.
fn kvm() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        eprintln!("skipped: /dev/kvm does not open here ({error})");
    }
    kvm.is_ok()
}

#[test]
fn values() {
    let scratch = Scratch::new("device-values");
    let kernel = scratch.file("kernel", &elf());
    for (flag, value, part) in [
        ("--fs", "/home", "tag=NAME"),
        ("--fs", "tag=x", "path=FOLDER"),
        ("--fs", "tag=x,path=/,socket=/s", "'socket' excludes"),
        ("--fs", "tag=x,path=/,readonly=1", "on, off"),
        ("--net", "on", "tap=NAME"),
        ("--net", "tap=t,mac=1", "52:54:00:12:34:56"),
        ("--net", "vhost-user=on", "'socket' is missing"),
        ("--vsock", "cid=1", "3 to 4294967294"),
    ] {
        let parts = [flag, part, WHAT_WORKS];
        refuses(&["--kernel", &kernel, flag, value], 2, &parts);
    }
    let twice = ["--fs", "tag=x,path=/a", "--fs", "tag=x,path=/b"];
    let args = [&["--kernel", &kernel][..], &twice].concat();
    refuses(&args, 2, &["--fs", "'x'", "twice", WHAT_WORKS]);
}

#[test]
fn what_is_not_there() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("devices");
    let kernel = scratch.file("kernel", &elf());
    let dir = scratch.0.display().to_string();
    let file = scratch.file("file", b"x");
    let dead = format!("{dir}/dead");
    drop(UnixListener::bind(&dead).unwrap());
    for (flag, value, status, part) in [
        ("--fs", format!("tag=x,path={dir}/none"), 2, "No such file"),
        ("--fs", format!("tag=x,path={file}"), 2, "Not a directory"),
        (
            "--fs",
            format!("tag=x,socket={dir}/none"),
            2,
            "No such file",
        ),
        ("--fs", format!("tag=x,socket={dead}"), 2, "refused"),
        ("--fs", format!("tag=x,socket={file}"), 2, "refused"),
        (
            "--net",
            format!("vhost-user=on,socket={dead}"),
            2,
            "refused",
        ),
        (
            "--net",
            "tap=no-such-tap".into(),
            2,
            "no network device no-such-tap",
        ),
        ("--net", "tap=lo".into(), 2, "lo is no tap device"),
    ] {
        if value == "tap=lo" && !Path::new("/dev/net/tun").exists() {
            continue;
        }
        let parts = [flag, part, WHAT_WORKS];
        refuses(&["--kernel", &kernel, flag, &value], status, &parts);
    }
    if !Path::new("/dev/vhost-vsock").exists() {
        let parts = ["--vsock cid=3", "modprobe vhost_vsock", WHAT_WORKS];
        refuses(&["--kernel", &kernel, "--vsock", "cid=3"], 1, &parts);
    }
}

/// A process that listens, and does not speak or goes away.
#[test]
fn a_socket_that_serves_something_else() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("device-socket");
    let kernel = scratch.file("kernel", &elf());
    let socket = format!("{}/socket", scratch.0.display());
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || drop(listener.accept()));
    let fs = format!("tag=x,socket={socket}");
    let parts = ["--fs tag=x: the back end: it closed the connection"];
    refuses(&["--kernel", &kernel, "--fs", &fs], 1, &parts);
    server.join().unwrap();
}

/// Runs the binary where programs are looked for in `path` alone.
fn said(kernel: &str, device: [&str; 2], path: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--kernel", kernel])
        .args(device)
        .env("PATH", path)
        .env("HOME", path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    (output.status.code(), text)
}

#[test]
fn programs_that_are_missing_or_too_old() {
    use std::os::unix::fs::PermissionsExt;
    if !kvm() {
        return;
    }
    let known = [
        "/usr/libexec/virtiofsd",
        "/usr/lib/virtiofsd",
        "/usr/bin/passt",
    ];
    if known.iter().any(|place| Path::new(place).exists()) {
        eprintln!("skipped: this host has virtiofsd or passt, and they would be found");
        return;
    }
    let scratch = Scratch::new("device-programs");
    let kernel = scratch.file("kernel", &elf());
    let folder = ["--fs", "tag=x,path=/"];
    let net = ["--net", "user"];
    for (device, name) in [(folder, "virtiofsd"), (net, "passt")] {
        let (status, text) = said(&kernel, device, &scratch.0);
        assert_eq!(status, Some(1), "{text}");
        assert!(
            text.contains(&format!("{name} is neither in PATH nor in")),
            "{text}"
        );
        assert!(text.contains("; use "), "{text}");
        let program = scratch.file(name, b"#!/bin/sh\necho usage: --fd FD\n");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let (status, text) = said(&kernel, device, &scratch.0);
        assert_eq!(status, Some(1), "{text}");
        assert!(
            text.contains(&format!("{program} is too old: it has no option --")),
            "{text}"
        );
    }
}
