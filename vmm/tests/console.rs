//! The serial console with guests of a few instructions, on `/dev/kvm`: nothing
//! typed is lost, nothing printed is lost to a reader that reads, and a console
//! that nobody reads holds nobody up.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, Guest, PATIENCE, Vm};

/// Ends the guest's input.
const END: u8 = 4;

/// Sends back what it gets until [`END`], by interrupts. As drivers do, its handler
/// asks IIR for a cause, and reads no more than 24 bytes for each.
fn echo_by_interrupts() -> Code {
    let handler_and_end = Code::default()
        // again: mov dx, 0x3fa; in al, dx; test al, 1; jnz done; mov ecx, 24
        .raw(&[0x66, 0xba, 0xfa, 0x03, 0xec, 0xa8, 0x01, 0x75, 0x1e])
        .raw(&[0xb9, 24, 0, 0, 0])
        // next: mov dx, 0x3fd; in al, dx; test al, 1; jz again
        .raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xe9])
        // mov dx, 0x3f8; in al, dx; cmp al, 4; je end; out dx, al
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xec, 0x3c, END, 0x74, 0x0d, 0xee])
        // dec ecx; jnz next; jmp again
        .raw(&[0xff, 0xc9, 0x75, 0xe9, 0xeb, 0xd9])
        // done: mov al, 0x20; out 0x20, al; iretq; end:
        .raw(&[0xb0, 0x20, 0xe6, 0x20, 0x48, 0xcf])
        .power_off();
    pic_and_received_interrupt()
        // lea rax, handler; mov edi, 0x300000 (the IDT)
        .raw(&[0x48, 0x8d, 0x05, 0x57, 0, 0, 0, 0xbf, 0, 0, 0x30, 0])
        // The gate of vector 0x24: mov [rdi + 0x240], ax; mov dx, cs
        .raw(&[0x66, 0x89, 0x87, 0x40, 2, 0, 0, 0x66, 0x8c, 0xca])
        // mov [rdi + 0x242], dx; mov word [rdi + 0x244], 0x8e00
        .raw(&[0x66, 0x89, 0x97, 0x42, 2, 0, 0])
        .raw(&[0x66, 0xc7, 0x87, 0x44, 2, 0, 0, 0, 0x8e])
        // shr rax, 16; mov [rdi + 0x246], ax; shr rax, 16; mov [rdi + 0x248], rax
        .raw(&[0x48, 0xc1, 0xe8, 0x10, 0x66, 0x89, 0x87, 0x46, 2, 0, 0])
        .raw(&[0x48, 0xc1, 0xe8, 0x10, 0x48, 0x89, 0x87, 0x48, 2, 0, 0])
        // mov word [rdi + 0x1000], 0xfff; mov [rdi + 0x1002], rdi; lidt [rdi + 0x1000]
        .raw(&[0x66, 0xc7, 0x87, 0, 0x10, 0, 0, 0xff, 0x0f])
        .raw(&[
            0x48, 0x89, 0xbf, 2, 0x10, 0, 0, 0x0f, 0x01, 0x9f, 0, 0x10, 0, 0,
        ])
        // lea rsp, [rdi + 0x3000]; sti; idle: hlt; jmp idle
        .raw(&[0x48, 0x8d, 0xa7, 0, 0x30, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd])
        .append(&handler_and_end)
}

/// IRQ 4 as vector 0x24 by the 8259, and nothing else; IER: received bytes.
fn pic_and_received_interrupt() -> Code {
    Code::default()
        .out(0x20, 0x11)
        .out(0x21, 0x20)
        .out(0x21, 0x04)
        .out(0x21, 0x01)
        .out(0x21, 0xef)
        .out(0xa1, 0xff)
        .out(0x3fa, 0x01)
        .out(0x3f9, 0x01)
}

/// Text without [`END`].
fn typed(len: usize) -> Vec<u8> {
    (b'a'..=b'z').chain(b'0'..=b'9').cycle().take(len).collect()
}

#[test]
fn a_paste_of_any_length_arrives() {
    let Some(guest) = Guest::new("paste", &echo_by_interrupts()) else {
        return;
    };
    for len in [1, 63, 64, 65, 1_500, 1 << 16] {
        let text = typed(len);
        let mut child = guest.start(&[]);
        let mut input = child.stdin.take().unwrap();
        let mut paste = text.clone();
        paste.push(END);
        let feeder = thread::spawn(move || input.write_all(&paste).unwrap());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{len}");
        assert!(output.stdout == text, "{len}: {} came", output.stdout.len());
    }
}

/// Prints without end.
fn chatty() -> Code {
    // mov dx, 0x3f8; again: out dx, al; jmp again
    Code::default().raw(&[0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd])
}

/// Prints `len` letters and powers off, without a look at the transmitter.
fn prints(len: u32) -> Code {
    Code::default()
        // mov ecx, len; mov dx, 0x3f8; mov al, 'A'; next: out dx, al; dec ecx; jnz next
        .raw(&[0xb9])
        .raw(&len.to_le_bytes())
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'A'])
        .raw(&[0xee, 0xff, 0xc9, 0x75, 0xfb])
        .power_off()
}

/// A guest that halts with interrupts off.
fn halted() -> Code {
    Code::default().raw(&[0xfa, 0xf4, 0xeb, 0xfd])
}

fn kill(vm: &Vm, signal: i32) {
    let signal = format!("-{signal}");
    let pid = vm.child.id().to_string();
    let status = Command::new("kill").args([signal, pid]).status().unwrap();
    assert!(status.success());
}

/// The status of a VM that ends, where one that does not would stand for ever.
fn ended(vm: &mut Vm) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = vm.child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

fn lost(vm: &Vm) -> u64 {
    vm.ask(&["info"])["console"]["lost_bytes"].as_u64().unwrap()
}

fn sent(vm: &Vm) -> u64 {
    vm.ask(&["info"])["console"]["sent_bytes"].as_u64().unwrap()
}

#[test]
fn a_vm_whose_console_nobody_reads_pauses_and_ends() {
    for (name, losing, signal) in [
        ("unread-term", false, Some(15)),
        ("unread-force", false, None),
        ("losing-hup", true, Some(1)),
        ("losing-force", true, None),
    ] {
        let Some(mut vm) = Vm::start(name, &chatty(), "type=software", &[]) else {
            return;
        };
        // Until the pipe is full; then until the vCPU no longer waits for a reader.
        let start = Instant::now();
        let mut before = u64::MAX;
        while std::mem::replace(&mut before, sent(&vm)) != before || (losing && lost(&vm) == 0) {
            assert!(start.elapsed() < 4 * PATIENCE, "the pipe is never full");
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(vm.tell(&["pause"]), "paused\n");
        assert_eq!(vm.tell(&["resume"]), "running\n");
        assert_eq!(vm.ask(&["info"])["pmu"]["totals"]["overflows"], 0);
        match signal {
            Some(signal) => kill(&vm, signal),
            None => assert_eq!(vm.tell(&["shutdown", "--force"]), "the VM ends\n"),
        }
        let status = ended(&mut vm).code();
        let (_, told) = vm.wait();
        assert_eq!(
            status,
            Some(signal.map_or(0, |signal| 128 + signal)),
            "{name}: {told}"
        );
        assert!(
            told.contains("bytes that the guest printed are lost"),
            "{told}"
        );
    }
}

#[test]
fn a_late_reader_gets_everything() {
    const LEN: u32 = 600_000;
    let Some(guest) = Guest::new("late", &prints(LEN)) else {
        return;
    };
    let mut child = guest.start(&[]);
    // More than the pipe and the queue hold has been printed by then, or is held.
    thread::sleep(Duration::from_secs(1));
    let mut text = Vec::new();
    let mut console = child.stdout.take().unwrap();
    console.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text.len(), LEN as usize);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn output_that_the_host_refuses_is_counted_and_ends_nothing() {
    let Some(guest) = Guest::new("refused", &prints(100_000)) else {
        return;
    };
    let file = guest.0.with_extension("refused");
    let serial = format!("file={}", file.display());
    let command = "ulimit -f 8; exec \"$0\" run --pmu off --kernel \"$1\" --serial \"$2\"";
    let output = Command::new("sh")
        .args(["-c", command, env!("CARGO_BIN_EXE_perfvisor")])
        .arg(&guest.0)
        .arg(&serial)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let written = fs::metadata(&file).unwrap().len();
    fs::remove_file(file).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let end = format!(
        "{} bytes that the guest printed are lost",
        100_000 - written
    );
    assert!(told.contains(&end), "{told}");
}

#[test]
fn a_standard_error_that_cannot_be_written_is_no_failure() {
    let Some(guest) = Guest::new("full-stderr", &prints(3)) else {
        return;
    };
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--pmu", "type=software", "--kernel"])
        .arg(&guest.0)
        .env("PERFVISOR_LOG", "debug")
        .stdin(Stdio::null())
        .stderr(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"AAA");
}

/// Of signals that end a process by default, each ends the VM in order, does
/// nothing, or kills and leaves no socket.
#[test]
fn every_signal_leaves_no_socket() {
    const ENDS: [i32; 16] = [1, 2, 3, 10, 12, 14, 15, 16, 24, 26, 27, 30, 34, 35, 40, 64];
    const IGNORED: [i32; 6] = [13, 17, 23, 25, 28, 29];
    const KILLS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];
    for signal in ENDS.into_iter().chain(IGNORED).chain(KILLS) {
        let Some(mut vm) = Vm::start("signal", &halted(), "off", &[]) else {
            return;
        };
        kill(&vm, signal);
        if IGNORED.contains(&signal) {
            vm.tell(&["info"]);
            assert_eq!(vm.end(), (Some(0), String::new()), "{signal}");
            continue;
        }
        let status = ended(&mut vm);
        if KILLS.contains(&signal) {
            assert_eq!(status.signal(), Some(signal));
        } else {
            assert_eq!(status.code(), Some(128 + signal));
        }
        // It looks for the socket.
        vm.wait();
    }
}

/// `--help`, "Console": the keys are perfvisor's, and the guest goes on.
#[test]
fn ctrl_a_shows_the_keys_and_ends_the_vm() {
    let up = Code::default().text("up").append(&halted());
    let Some(guest) = Guest::new("keys", &up) else {
        return;
    };
    let line = format!(
        "{} run --pmu off --memory size=16M --serial tty --kernel {}",
        env!("CARGO_BIN_EXE_perfvisor"),
        guest.0.display()
    );
    let mut terminal = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = terminal.stdin.take().unwrap();
    let mut shown = terminal.stdout.take().unwrap();
    shows(&mut shown, "up");
    keys.write_all(b"\x01?").unwrap();
    let help = shows(&mut shown, "shows this\r\n");
    assert!(help.contains("Ctrl-A x ends the VM"), "{help}");
    keys.write_all(b"\x01x").unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(0));
}

/// Reads until `end` was shown.
fn shows(terminal: &mut impl Read, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        assert_eq!(terminal.read(&mut byte).unwrap(), 1, "it ended: {text}");
        text.push(char::from(byte[0]));
    }
    text
}
