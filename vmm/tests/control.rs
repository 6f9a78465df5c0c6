//! The control API with guests of a few instructions, on `/dev/kvm`: what it
//! does to a guest, what it stands, and what is left of its socket.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;
#[path = "control/monitors.rs"]
mod monitors;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, Vm, socket_path};
use serde_json::Value;

/// A guest that prints a dot now and then.
fn ticking() -> Code {
    Code::default()
        // again: mov ecx, 1000; loop: dec ecx; jnz loop
        .raw(&[0xb9, 0xe8, 0x03, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc])
        // mov dx, 0x3f8; mov al, '.'; out dx, al; jmp again
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xeb, 0xee])
}

/// A guest that halts with interrupts off.
fn halted() -> Code {
    Code::default().raw(&[0xfa, 0xf4, 0xeb, 0xfd])
}

/// Sends bytes as they are; returns the whole answer.
fn raw(vm: &Vm, bytes: &[u8]) -> String {
    let mut stream = vm.connect();
    // The server may have refused before it read all.
    drop(stream.write_all(bytes));
    read_answer(&mut stream)
}

fn read_answer(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

fn status_of(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status
        .parse()
        .unwrap_or_else(|_| panic!("no answer: {answer:?}"))
}

#[test]
fn info_tells_what_runs() {
    let Some(vm) = Vm::start_watched("info", &halted(), "off", &["--cpus", "boot=3"]) else {
        return;
    };
    let info = vm.ask(&["info"]);
    assert_eq!(info["name"], "perfvisor");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["pid"], vm.child.id());
    assert_eq!(info["state"], "running");
    assert_eq!(info["vcpus"], 3);
    assert_eq!(info["memory_bytes"], 16 << 20);
    assert_eq!(info["kernel"], vm.guest.0.display().to_string());
    assert_eq!(info["pmu"], Value::Null);
    let text = vm.tell(&["info"]);
    assert!(text.contains("memory    16 MiB"), "{text}");
    assert!(vm.tell(&["pmu"]).contains("no PMU"));
    assert_eq!(vm.end(), (Some(0), String::new()));
}

#[test]
fn a_paused_guest_stands_and_goes_on_again() {
    let Some(vm) = Vm::start_watched("pause", &ticking(), "off", &["--cpus", "boot=2"]) else {
        return;
    };
    vm.goes_on();
    for _ in 0..5 {
        // Twice is once.
        assert_eq!(vm.tell(&["pause"]), "paused\n");
        assert_eq!(vm.tell(&["pause"]), "paused\n");
        // What it had printed before is on its way.
        thread::sleep(Duration::from_millis(100));
        let printed = vm.printed();
        thread::sleep(Duration::from_millis(200));
        assert_eq!(vm.printed(), printed, "a paused guest prints");
        assert_eq!(vm.ask(&["info"])["state"], "paused");
        assert_eq!(vm.tell(&["resume"]), "running\n");
        assert_eq!(vm.tell(&["resume"]), "running\n");
        vm.goes_on();
        assert_eq!(vm.ask(&["info"])["state"], "running");
    }
    vm.tell(&["pause"]);
    let refused = vm.ctl(&["shutdown"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("resume it first"), "{text}");
    assert_eq!(vm.end(), (Some(0), String::new()));
}

/// Counts cycles on fixed counter 1, forever. A reader makes the VMM take the
/// guest for one whose reads it serves.
fn counting() -> Code {
    Code::default()
        // jmp over the reader
        .raw(&[0xeb, 0x5a])
        .raw(&[0x90; 80])
        // rdpmc; shl rdx, 32; or rax, rdx; ret
        .raw(&[0x0f, 0x33, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3])
        // mov ecx, FIXED_CTR_CTRL; mov eax, 0x30; xor edx, edx; wrmsr
        .raw(&[
            0xb9, 0x8d, 0x03, 0, 0, 0xb8, 0x30, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30,
        ])
        // mov ecx, GLOBAL_CTRL; xor eax, eax; mov edx, 2; wrmsr
        .raw(&[
            0xb9, 0x8f, 0x03, 0, 0, 0x31, 0xc0, 0xba, 2, 0, 0, 0, 0x0f, 0x30,
        ])
        .text("R")
        .raw(&[0xeb, 0xfe])
}

fn fixed1(pmu: &Value) -> &Value {
    let counters = pmu["vcpus"][0]["counters"].as_array().unwrap();
    counters.iter().find(|c| c["counter"] == "fixed1").unwrap()
}

#[test]
fn counters_are_shown_and_do_not_count_while_paused() {
    let Some(vm) = Vm::start_watched("count", &counting(), "type=software", &["--cpus", "boot=2"])
    else {
        return;
    };
    while vm.printed() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    vm.tell(&["pause"]);
    let pmu = vm.ask(&["pmu"]);
    let counter = fixed1(&pmu);
    assert_eq!(pmu["vcpus"].as_array().unwrap().len(), 2);
    assert_eq!(counter["event"], "cycles");
    assert_eq!(counter["host_event"], "guest time");
    assert_eq!(counter["state"], "counting");
    assert_eq!(counter["clock_derived"], true);
    assert_eq!(pmu["vcpus"][0]["counters"][0]["state"], "off");
    let before = counter["value"].as_u64().unwrap();
    assert!(before > 0);
    assert!(counter["enabled_ns"].as_u64().unwrap() > 0);
    assert_eq!(counter["enabled_ns"], counter["running_ns"]);
    assert_eq!(counter["scaled"], false);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(&vm.ask(&["pmu"]), &pmu, "paused, and it counts");
    let resumed = Instant::now();
    vm.tell(&["resume"]);
    thread::sleep(Duration::from_millis(50));
    vm.tell(&["pause"]);
    let ran = resumed.elapsed();
    let counted = fixed1(&vm.ask(&["pmu"]))["value"].as_u64().unwrap() - before;
    assert!(counted > 0, "it does not count again");
    // 10 GHz is above any TSC: the half second of the pause is not in it.
    let most = u64::try_from(ran.as_nanos()).unwrap() * 10;
    assert!(counted < most, "{counted} cycles in {ran:?}");
    assert_eq!(vm.ask(&["info"])["pmu"]["totals"]["overflows"], 0);
    let text = vm.tell(&["pmu"]);
    assert!(text.contains("clock-derived"), "{text}");
    vm.end();
}

#[test]
fn halted_and_waiting_vcpus_answer_too() {
    let Some(vm) = Vm::start_watched("halt", &halted(), "type=software", &["--cpus", "boot=4"])
    else {
        return;
    };
    for _ in 0..3 {
        assert_eq!(vm.ask(&["pmu"])["vcpus"].as_array().unwrap().len(), 4);
        vm.tell(&["pause"]);
        assert_eq!(vm.ask(&["pmu"])["vcpus"].as_array().unwrap().len(), 4);
        vm.tell(&["resume"]);
    }
    vm.end();
}

#[test]
fn malformed_and_oversized_requests_are_refused_while_the_guest_runs() {
    let Some(vm) = Vm::start_watched("abuse", &ticking(), "off", &[]) else {
        return;
    };
    let put = |path: &str, body: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let cases: [(u16, Vec<u8>, &str); 15] = [
        (
            400,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            "the request is not HTTP/1.1",
        ),
        (400, b"GET\r\n\r\n".to_vec(), "the request is not HTTP/1.1"),
        (
            400,
            b"PUT /pause HTTP/1.1\r\nContent-Length: 1x\r\n\r\n".to_vec(),
            "1x",
        ),
        (
            400,
            put("/shutdown", "{\"force\": 1}").into(),
            "{\\\"force\\\": true}",
        ),
        (400, put("/shutdown", "{\"farce\": true}").into(), "farce"),
        (404, b"GET /vcpu HTTP/1.1\r\n\r\n".to_vec(), "/info, /pmu"),
        (405, b"POST /pause HTTP/1.1\r\n\r\n".to_vec(), "Allow: PUT"),
        (400, put("/vcpus/one", "").into(), "'one' is no number"),
        (400, put("/vcpus/-1", "").into(), "'-1' is no number"),
        (404, put("/vcpus/1", "").into(), "accepted: 0\""),
        (409, put("/vcpus/0", "").into(), "plugged in already"),
        (
            413,
            put("/shutdown", &" ".repeat(1 << 20)).into(),
            "expected: at most 65536",
        ),
        (431, vec![b'A'; 1 << 20], "8192 bytes"),
        (
            431,
            format!("GET /info HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000)).into(),
            "64 headers",
        ),
        (
            501,
            b"PUT /pause HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            "Content-Length",
        ),
    ];
    for (status, bytes, part) in cases {
        let answer = raw(&vm, &bytes);
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(status_of(&answer), status, "{start:?}: {answer}");
        assert!(answer.contains(part), "{start:?}: {answer}");
        assert!(answer.contains("{\"error\":\""), "{start:?}: {answer}");
        vm.goes_on();
    }
    assert_eq!(vm.ask(&["info"])["state"], "running");
    assert_eq!(vm.end(), (Some(0), String::new()));
}

#[test]
fn clients_that_say_or_read_nothing_disturb_nobody() {
    let Some(vm) = Vm::start_watched("silent", &ticking(), "off", &[]) else {
        return;
    };
    // More than are served at once: some say nothing, some ask and do not read.
    let silent: Vec<_> = (0..50).map(|_| vm.connect()).collect();
    let deaf: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = vm.connect();
            stream.write_all(b"GET /info HTTP/1.1\r\n\r\n").unwrap();
            stream
        })
        .collect();
    vm.goes_on();
    let asked = Instant::now();
    assert_eq!(vm.ask(&["info"])["state"], "running");
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
    vm.goes_on();
    for mut stream in silent {
        assert_eq!(status_of(&read_answer(&mut stream)), 408);
    }
    drop(deaf);
    assert_eq!(vm.end(), (Some(0), String::new()));
}

#[test]
fn a_thousand_clients_at_once_are_all_served() {
    let Some(vm) = Vm::start_watched("many", &ticking(), "type=software", &[]) else {
        return;
    };
    vm.goes_on();
    let before = vm.printed();
    let barrier = std::sync::Barrier::new(1000);
    let client = |number: usize| {
        barrier.wait();
        let path = if number.is_multiple_of(2) {
            "/info"
        } else {
            "/pmu"
        };
        raw(&vm, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
    };
    let answers: Vec<_> = thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..1000)
            .map(|number| {
                thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn_scoped(scope, move || client(number))
                    .unwrap()
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    for answer in answers {
        assert_eq!(status_of(&answer), 200, "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(serde_json::from_str::<Value>(body).is_ok(), "{answer}");
    }
    assert!(vm.printed() > before, "the guest stood");
    vm.goes_on();
    let (status, _) = vm.end();
    assert_eq!(status, Some(0));
}

#[test]
fn the_socket_is_private_and_gone_at_every_end() {
    let Some(vm) = Vm::start_watched("mode", &halted(), "off", &[]) else {
        return;
    };
    let file = fs::symlink_metadata(&vm.socket).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o600);
    // A live one is refused.
    let flag = format!("path={}", vm.socket.display());
    let second = vm.guest.run(&["--api-socket", &flag]);
    let text = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(2), "{text}");
    assert!(text.contains("in use by a running process"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(vm.ask(&["info"])["state"], "running");
    assert_eq!(vm.end(), (Some(0), String::new()));

    for signal in ["-TERM", "-INT", "-HUP"] {
        let mut vm = Vm::start_watched("signal", &halted(), "off", &[]).unwrap();
        let pid = vm.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let (status, text) = vm.wait();
        assert!(
            status.is_some_and(|status| status > 128),
            "{signal}: {text}"
        );
    }
    // mov dx, 0x3fd; wait: in al, dx; test al, 1; jz wait; ud2
    let fault = Code::default().raw(&[
        0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xfb, 0x0f, 0x0b,
    ]);
    let mut vm = Vm::start_watched("fault", &fault, "off", &[]).unwrap();
    vm.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    let (status, text) = vm.wait();
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("triple-faulted"), "{text}");
}

#[test]
fn the_socket_of_a_killed_vmm_is_replaced() {
    let Some(mut vm) = Vm::start_watched("stale", &halted(), "off", &[]) else {
        return;
    };
    vm.child.kill().unwrap();
    vm.child.wait().unwrap();
    assert!(vm.socket.exists());
    let flag = format!("path={}", vm.socket.display());
    let child = vm.guest.start(&["--api-socket", &flag]);
    vm.child = child;
    let start = Instant::now();
    while UnixStream::connect(&vm.socket).is_err() {
        assert!(start.elapsed() < PATIENCE, "no socket");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(vm.ask(&["info"])["pid"], vm.child.id());
    assert_eq!(vm.end(), (Some(0), String::new()));
}

/// These need no KVM.
#[test]
fn bad_sockets_are_refused_in_one_line() {
    let perfvisor = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        (output.status.code().unwrap(), text)
    };
    let path = socket_path("free");
    let free = path.display().to_string();
    let (status, text) = perfvisor(&["ctl", "--api-socket", &free, "info"]);
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains(&free) && text.contains("cannot reach a VMM"),
        "{text}"
    );
    let (status, text) = perfvisor(&["ctl", "--api-socket", &free, "vcpu"]);
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("see perfvisor ctl vcpu --help"), "{text}");
    let run = |value: &str| perfvisor(&["run", "--kernel", "k", "--api-socket", value]);
    for value in ["path=", "file=x"] {
        let (status, text) = run(value);
        assert_eq!(status, 2, "{text}");
        assert!(
            text.contains("--api-socket") && text.contains("path=PATH"),
            "{text}"
        );
    }
    fs::write(&path, "mine").unwrap();
    let (status, text) = run(&format!("path={free}"));
    assert_eq!(status, 2, "{text}");
    assert!(
        text.contains(&free) && text.contains("is no socket"),
        "{text}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let (status, text) = run(&format!("path={free}/x"));
    assert_eq!(status, 2, "{text}");
    fs::remove_file(&path).unwrap();
    let (status, text) = run(&format!("path={free}/x"));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("cannot open its directory"), "{text}");
    let listener = UnixListener::bind(&path).unwrap();
    let (status, text) = run(&format!("path={free}"));
    assert_eq!(status, 2, "{text}");
    assert!(text.contains("in use by a running process"), "{text}");
    drop(listener);
    fs::remove_file(&path).unwrap();
}
