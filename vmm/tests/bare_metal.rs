//! The binary with guests of a few instructions, on `/dev/kvm`: the machine
//! contract of bare-metal payloads, and how the VMM ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Output};

use common::{Code, Guest};

fn check(output: &Output, status: i32, console: &str, reason: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), console);
    assert!(stderr.contains(reason), "{stderr}");
    assert!(stderr.lines().count() <= 1, "{stderr}");
}

#[test]
fn a_payload_prints_and_powers_off() {
    let code = Code::default().text("hi\n").power_off();
    if let Some(guest) = Guest::new("prints", &code) {
        check(&guest.run(&[]), 0, "hi\n", "");
        check(&guest.run(&["--cpus", "boot=4"]), 0, "hi\n", "");
        check(&guest.run(&["--serial", "null"]), 0, "", "");
        let log = guest.0.with_extension("log");
        let serial = format!("file={}", log.display());
        check(&guest.run(&["--serial", &serial]), 0, "", "");
        assert_eq!(fs::read(&log).unwrap(), b"hi\n");
        fs::remove_file(log).unwrap();
    }
}

#[test]
fn both_resets_end_the_vm_with_status_zero() {
    for (name, port, value) in [("acpi", 0x600, 0x01), ("i8042", 0x64, 0xfe)] {
        let code = Code::default().out(port, value).text("too late");
        if let Some(guest) = Guest::new(name, &code) {
            check(&guest.run(&[]), 0, "", "");
        }
    }
}

#[test]
fn absent_ports_read_as_ones_and_port_61_as_zero() {
    let mut code = Code::default();
    for port in [0x71, 0x80, 0xcfc] {
        // cmp al, 0xff; je +2; ud2
        code = code
            .out(port, 0)
            .input(port)
            .raw(&[0x3c, 0xff, 0x74, 2, 0x0f, 0x0b]);
    }
    // add al, 'A'
    code = code.input(0x61).raw(&[0x04, b'A']).send().power_off();
    if let Some(guest) = Guest::new("ports", &code) {
        check(&guest.run(&[]), 0, "A", "");
    }
}

#[test]
fn a_triple_fault_is_an_error_with_a_reason() {
    let code = Code::default().raw(&[0x0f, 0x0b]);
    if let Some(guest) = Guest::new("ud2", &code) {
        check(&guest.run(&[]), 1, "", "triple-faulted on vCPU 0");
    }
}

/// Prints `R`, then sends back what it receives.
fn echo() -> Code {
    Code::default()
        .text("R")
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz again
        .raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xf7])
        // mov dx, 0x3f8; in al, dx; out dx, al; jmp again
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef])
}

fn read(child: &mut Child, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn input_reaches_the_guest_and_a_signal_ends_it() {
    let Some(guest) = Guest::new("echo", &echo()) else {
        return;
    };
    let mut child = guest.start(&[]);
    assert_eq!(read(&mut child, 1), b"R");
    // More than the port's buffer holds; not a terminal, so Ctrl-A is data.
    let typed: Vec<u8> = (0..=255u8).cycle().take(700).collect();
    child.stdin.as_mut().unwrap().write_all(&typed).unwrap();
    assert_eq!(read(&mut child, typed.len()), typed);
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    check(&output, 143, "", "ended by signal 15");
}

/// The host CPUs that a thread of `child` may run on, in the kernel's words.
fn allowed(child: &Child, thread: &str) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    for task in tasks.flatten() {
        let file = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if file("comm").trim() == thread {
            let status = file("status");
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            return line.map(|list| list.trim().to_owned());
        }
    }
    None
}

#[test]
fn a_vcpu_runs_where_it_is_told_and_the_others_where_the_vmm_may() {
    let Some(guest) = Guest::new("affinity", &echo()) else {
        return;
    };
    let mut child = guest.start(&["--cpus", "boot=2,affinity=[1@[0]]"]);
    assert_eq!(read(&mut child, 1), b"R");
    assert_eq!(allowed(&child, "vcpu1").as_deref(), Some("0"));
    assert_eq!(allowed(&child, "vcpu0"), allowed(&child, "perfvisor"));
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    check(
        &child.wait_with_output().unwrap(),
        143,
        "",
        "ended by signal 15",
    );
}
