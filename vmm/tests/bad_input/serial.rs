//! Files of `--serial file=`: which are refused, and that nothing is lost by it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Code, Scratch, WHAT_WORKS, cpio, elf, refuses};

/// Whether guests can run here; says so if not.
pub(crate) fn kvm() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        eprintln!("skipped: /dev/kvm does not open here ({error})");
    }
    kvm.is_ok()
}

/// Runs a guest that prints "new" and powers off; returns status and standard error.
fn run(kernel: &str, serial: &str) -> (Option<i32>, String) {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_perfvisor"), "run", "--pmu", "off"])
        .args(["--kernel", kernel, "--serial", serial])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

fn printing(scratch: &Scratch) -> String {
    scratch.file("guest", &Code::default().text("new").power_off().elf())
}

#[test]
fn only_a_regular_file_is_a_console() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("console-kinds");
    let kernel = scratch.file("kernel", &elf());
    let dir = scratch.0.display().to_string();
    let (fifo, link) = (scratch.fifo("fifo"), format!("{dir}/link"));
    let target = scratch.file("target", b"precious");
    symlink(&target, &link).unwrap();
    let socket = format!("{dir}/socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, parts) in [
        (dir.as_str(), ["a directory", "; use a regular file"]),
        (&fifo, ["a FIFO", "tail -f"]),
        (&socket, ["a socket", "tail -f"]),
        (&link, ["a symbolic link", "that it leads to"]),
        ("/dev/full", ["a character device", "tty for this terminal"]),
        ("/proc/self/mem", ["the kernel's own", "a regular file"]),
    ] {
        let serial = format!("file={path}");
        let parts = [&["--serial", path, WHAT_WORKS], &parts[..]].concat();
        refuses(&["--kernel", &kernel, "--serial", &serial], 2, &parts);
    }
    assert_eq!(fs::read(target).unwrap(), b"precious");
    let null = run(&printing(&scratch), "file=/dev/null");
    assert_eq!(null, (Some(0), String::new()));
}

/// By whatever name: the guest would write over what it is made of.
#[test]
fn the_console_is_no_file_of_another_flag() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("console-same");
    let kernel = scratch.file("kernel", &elf());
    let archive = scratch.file("archive", &cpio());
    let filter = scratch.file("filter", br#"{"allow": ["cycles"]}"#);
    let pmu = format!("type=software,filter=@{filter}");
    for (path, flag) in [
        (&kernel, "--kernel"),
        (&archive, "--initramfs"),
        (&filter, "--pmu filter="),
    ] {
        let before = fs::read(path).unwrap();
        let other_name = scratch.0.join("other-name").display().to_string();
        fs::hard_link(path, &other_name).unwrap();
        for name in [path, &other_name] {
            let serial = format!("file={name}");
            let args = [
                "--kernel",
                &kernel,
                "--initramfs",
                &archive,
                "--pmu",
                &pmu,
                "--serial",
                &serial,
            ];
            // The filter itself is warned of.
            let output = Command::new("timeout")
                .args(["60", env!("CARGO_BIN_EXE_perfvisor"), "run"])
                .args(args)
                .env("PERFVISOR_LOG", "error")
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains("--serial: "), "{said}");
            assert!(said.contains(&format!("is the file of {flag}, ")), "{said}");
        }
        fs::remove_file(other_name).unwrap();
        assert_eq!(fs::read(path).unwrap(), before, "{flag}");
    }
}

#[test]
fn two_vms_do_not_share_a_console() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("console-shared");
    let halted = scratch.file("halted", &elf());
    let kernel = printing(&scratch);
    let log = scratch.file("log", b"of yesterday");
    let serial = format!("file={log}");
    let socket = scratch.0.join("api").display().to_string();
    let mut first = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args([
            "run", "--pmu", "off", "--kernel", &halted, "--serial", &serial,
        ])
        .args(["--api-socket", &socket])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // It is emptied when the first VM runs.
    while !fs::read(&log).unwrap().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert!(first.try_wait().unwrap().is_none(), "the first VM ended");
    }
    let parts = ["--serial", &log, "another VM", WHAT_WORKS];
    refuses(&["--kernel", &kernel, "--serial", &serial], 2, &parts);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(run(&kernel, &serial), (Some(0), String::new()));
    assert_eq!(fs::read(&log).unwrap(), b"new");
}

#[test]
fn a_console_is_emptied_or_continued() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("console-append");
    let kernel = printing(&scratch);
    let log = scratch.file("log", b"old ");
    for (serial, after) in [
        (format!("file={log},append=on"), "old new"),
        (format!("file={log}"), "new"),
        (format!("file={log},append=off"), "new"),
    ] {
        assert_eq!(run(&kernel, &serial), (Some(0), String::new()));
        assert_eq!(fs::read_to_string(&log).unwrap(), after);
    }
    fs::remove_file(&log).unwrap();
    assert_eq!(run(&kernel, &format!("file={log},append=on")).0, Some(0));
    assert_eq!(fs::read_to_string(&log).unwrap(), "new");
}

/// A file that a later refusal has nothing to do with is left alone, or not made.
#[test]
fn a_refused_vm_empties_and_leaves_no_file() {
    if !kvm() {
        return;
    }
    let scratch = Scratch::new("serial");
    let kernel = scratch.file("kernel", &elf());
    let log = scratch.file("log", b"of yesterday");
    let new = scratch.0.join("new").display().to_string();
    for path in [&log, &new] {
        let serial = format!("file={path}");
        let amd = "type=software,model=amd-v2";
        let cpus = "boot=9,topology=1:1:9:1";
        let args = [
            "--kernel", &kernel, "--serial", &serial, "--cpus", cpus, "--pmu", amd,
        ];
        refuses(&args, 2, &["--cpus", "up to 8 dies"]);
        // The file of the console is opened before the socket is bound over it.
        let args = [
            "--kernel",
            &kernel,
            "--pmu",
            "off",
            "--serial",
            &serial,
            "--api-socket",
            &new,
        ];
        if path == &new {
            refuses(&args, 2, &["--api-socket", "no socket"]);
        }
    }
    assert_eq!(fs::read(&log).unwrap(), b"of yesterday");
    assert!(!Path::new(&new).exists());
}
