//! The binary with guests of a few instructions, on `/dev/kvm`: the machine
//! contract of bare-metal payloads, and how the VMM ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Machine code, put together by hand.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    /// `mov dx, port; mov al, value; out dx, al`
    fn out(mut self, port: u16, value: u8) -> Self {
        self = self.port(port);
        self.0.extend([0xb0, value, 0xee]);
        self
    }

    /// `mov dx, port; in al, dx`
    fn input(mut self, port: u16) -> Self {
        self = self.port(port);
        self.0.push(0xec);
        self
    }

    /// Sends AL to the console.
    fn send(mut self) -> Self {
        self = self.port(0x3f8);
        self.0.push(0xee);
        self
    }

    fn text(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(0x3f8, byte))
    }

    fn port(mut self, port: u16) -> Self {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn power_off(self) -> Self {
        self.out(0x600, 0x34).raw(&[0xeb, 0xfe])
    }

    /// An ELF file with it at 2 MiB.
    fn elf(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; 120];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16] = 2;
        bytes[18] = 62;
        bytes[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 1;
        bytes[72] = 120;
        bytes[88..96].copy_from_slice(&0x20_0000u64.to_le_bytes());
        let len = (self.0.len() as u64).to_le_bytes();
        bytes[96..104].copy_from_slice(&len);
        bytes[104..112].copy_from_slice(&len);
        bytes.extend(&self.0);
        bytes
    }
}

/// A guest in a file, gone afterwards.
struct Guest(PathBuf);

impl Guest {
    /// `None`, loudly, where there is no KVM.
    fn new(name: &str, code: &Code) -> Option<Self> {
        let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
        if let Err(error) = kvm {
            eprintln!("skipped {name}: /dev/kvm does not open here ({error})");
            return None;
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.elf", std::process::id()));
        fs::write(&path, code.elf()).unwrap();
        Some(Self(path))
    }

    fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["run", "--pmu", "off", "--memory", "size=16M", "--kernel"])
            .arg(&self.0)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.start(args).wait_with_output().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

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
