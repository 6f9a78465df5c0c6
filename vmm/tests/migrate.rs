//! VMs that move from one process to another: the binary with guests of a few
//! instructions, on `/dev/kvm`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, Printed, Vm, connected, ctl, socket_path, wait_for_socket};

/// Adds one to a number in each of 64 pages, again and again, and prints a letter for each
/// time, from `b` to `p` and from `a` on. A number that is not as it was ends it with `!`.
fn counts() -> Code {
    Code::default()
        // xor ebx, ebx
        .raw(&[0x31, 0xdb])
        // outer: mov edi, 0x800000; mov ecx, 64
        .raw(&[0xbf, 0, 0, 0x80, 0, 0xb9, 64, 0, 0, 0])
        // inner: cmp [rdi], ebx; jne lost
        .raw(&[0x39, 0x1f, 0x75, 36])
        // inc dword [rdi]; add edi, 4096; dec ecx; jnz inner
        .raw(&[
            0xff, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf0,
        ])
        // inc ebx; mov eax, ebx; and al, 15; add al, 'a'
        .raw(&[0xff, 0xc3, 0x89, 0xd8, 0x24, 0x0f, 0x04, b'a'])
        .send()
        // mov ecx, 2000; wait: dec ecx; jnz wait; jmp outer
        .raw(&[0xb9, 0xd0, 0x07, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xeb, 0xce])
        // lost:
        .text("!")
        .power_off()
}

/// The letters come one behind the other, from `b`.
fn in_order(text: &[u8]) {
    for (n, letter) in text.iter().enumerate() {
        let expected = usize::from(b'a') + (n + 1) % 16;
        assert_eq!(
            usize::from(*letter),
            expected,
            "letter {n} of {}",
            text.len()
        );
    }
}

/// A process that waits for a VM, and runs it then. It is killed when it is dropped.
struct Destination {
    child: Child,
    /// Where the VM comes in.
    at: PathBuf,
    api: PathBuf,
}

impl Destination {
    fn start(name: &str) -> Self {
        let (at, api) = (
            socket_path(&format!("{name}-in")),
            socket_path(&format!("{name}-api")),
        );
        let child = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["run", "--incoming"])
            .arg(format!("socket={}", at.display()))
            .arg("--api-socket")
            .arg(&api)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let it = Self { child, at, api };
        wait_for_socket(&it.at);
        it
    }

    /// Waits for its end: its status and what it said.
    fn ends(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.at));
        drop(fs::remove_file(&self.api));
    }
}

fn migrate(api: &Path, to: &Path) -> Output {
    ctl(
        api,
        &["migrate", "--to", &format!("socket={}", to.display())],
    )
}

/// The field `stage` of the API's answer.
fn stage(api: &Path) -> String {
    let mut stream = UnixStream::connect(api).unwrap();
    stream
        .write_all(b"GET /migration HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let json = answer.split_once("\r\n\r\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    json["stage"].as_str().unwrap().to_owned()
}

/// From process to process: every number is as it was, no letter is missing and none comes
/// twice, and each source ends when its guest runs elsewhere.
#[test]
fn a_guest_moves_and_loses_nothing() {
    const MOVES: usize = 6;
    let Some(mut vm) = Vm::start("moves", &counts(), "off", &["--cpus", "boot=2"]) else {
        return;
    };
    let mut letters = Printed::of(&mut vm.child);
    letters.more(50);
    let (mut all, mut last): (Vec<u8>, Option<Destination>) = (Vec::new(), None);
    for number in 0..MOVES {
        let mut next = Destination::start(&format!("moves-{number}"));
        let mode = fs::metadata(&next.at).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let api = last.as_ref().map_or(&vm.socket, |last| &last.api);
        let output = migrate(api, &next.at);
        let said = String::from_utf8(output.stdout).unwrap();
        let failed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{number}: {failed}");
        let line = said.lines().last().unwrap();
        println!("{line}");
        assert!(line.starts_with("moved: the guest stood for "), "{said}");
        let (status, said) = match &mut last {
            None => vm.wait(),
            Some(last) => last.ends(),
        };
        assert_eq!(status, Some(8));
        let end = said.lines().last().unwrap();
        assert!(end.contains("the VM has moved to"), "{said}");
        let there = Printed::of(&mut next.child);
        there.more(50);
        all.extend(std::mem::replace(&mut letters, there).complete());
        last = Some(next);
    }
    let mut last = last.unwrap();
    assert!(ctl(&last.api, &["shutdown", "--force"]).status.success());
    assert_eq!(last.ends(), (Some(0), String::new()));
    all.extend(letters.complete());
    in_order(&all);
}

/// A guest that is paused is so at its destination.
#[test]
fn a_paused_guest_moves_paused() {
    let Some(mut vm) = Vm::start("moves-paused", &counts(), "off", &[]) else {
        return;
    };
    let letters = Printed::of(&mut vm.child);
    letters.more(10);
    vm.tell(&["pause"]);
    let mut next = Destination::start("moves-paused");
    assert!(migrate(&vm.socket, &next.at).status.success());
    assert_eq!(vm.wait().0, Some(8));
    let mut all = letters.complete();
    let there = Printed::of(&mut next.child);
    wait_for_socket(&next.api);
    let info = String::from_utf8(ctl(&next.api, &["info"]).stdout).unwrap();
    assert!(info.contains("paused"), "{info}");
    assert_eq!(there.get(), b"");
    assert!(ctl(&next.api, &["resume"]).status.success());
    there.more(10);
    drop(next);
    all.extend(there.complete());
    in_order(&all);
}

/// A destination of the test's: what it does is the argument.
struct FakeDestination {
    at: PathBuf,
    thread: JoinHandle<Vec<u8>>,
}

impl FakeDestination {
    fn start(name: &str, serve: impl FnOnce(UnixStream) -> Vec<u8> + Send + 'static) -> Self {
        let at = socket_path(&format!("fake-{name}"));
        drop(fs::remove_file(&at));
        let listener = UnixListener::bind(&at).unwrap();
        let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
        Self { at, thread }
    }

    fn end(self) -> Vec<u8> {
        fs::remove_file(&self.at).unwrap();
        self.thread.join().unwrap()
    }
}

/// Reads to the end of the stream.
fn read_all(mut from: UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A connection that is cut may end by an error.
    drop(from.read_to_end(&mut all));
    all
}

/// A failure in each phase: the line says that the guest goes on here, and it does.
#[test]
fn the_source_goes_on_whatever_its_destination_does() {
    let Some(mut vm) = Vm::start("aborts", &counts(), "off", &[]) else {
        return;
    };
    let letters = Printed::of(&mut vm.child);
    letters.more(10);
    let stays = |name: &str, to: &Path| {
        let output = migrate(&vm.socket, to);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("goes on here"), "{name}: {said}");
        assert_eq!(stage(&vm.socket), "failed", "{name}");
        letters.more(20);
        said
    };
    let said = stays("nobody is there", Path::new("/nowhere"));
    assert!(said.contains("run --incoming"), "{said}");
    let at_once = FakeDestination::start("at-once", |_| Vec::new());
    stays("it ends at once", &at_once.at);
    at_once.end();
    let copying = FakeDestination::start("copying", |mut stream| {
        stream.read_exact(&mut [0; 40]).unwrap();
        Vec::new()
    });
    stays("it ends while the memory is copied", &copying.at);
    copying.end();
    let refuses = FakeDestination::start("refuses", |mut stream| {
        stream.write_all(b"\x02\x07\0not now").unwrap();
        stream.read_exact(&mut [0; 40]).unwrap();
        Vec::new()
    });
    let said = stays("it refuses", &refuses.at);
    assert!(said.contains("the destination says: not now"), "{said}");
    refuses.end();
    // The state is the last record: the stream stands still when it is there.
    let late = FakeDestination::start("late", |mut stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut all = Vec::new();
        assert!(stream.read_to_end(&mut all).is_err(), "the source ended it");
        all
    });
    stays("it ends when it has everything", &late.at);
    late.end();
    let later = Destination::start("aborts");
    assert!(migrate(&vm.socket, &later.at).status.success());
    assert_eq!(vm.wait().0, Some(8));
    in_order(&letters.complete());
}

/// `--cancel`, while the memory is copied and while the guest stands.
#[test]
fn a_migration_can_be_cancelled_in_each_phase() {
    let Some(mut vm) = Vm::start("cancels", &counts(), "off", &[]) else {
        return;
    };
    let letters = Printed::of(&mut vm.child);
    letters.more(10);
    let none = vm.refused(&["migrate", "--cancel"]);
    assert!(none.contains("not being moved"), "{none}");
    for phase in ["copying", "finishing"] {
        let reads = phase == "finishing";
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let fake = FakeDestination::start(&format!("cancel-{phase}"), move |stream| {
            let all = if reads {
                read_all(stream.try_clone().unwrap())
            } else {
                Vec::new()
            };
            assert!(held.recv().is_err());
            all
        });
        let (api, at) = (vm.socket.clone(), fake.at.clone());
        let order = thread::spawn(move || migrate(&api, &at));
        let start = Instant::now();
        while stage(&vm.socket) != phase {
            assert!(start.elapsed() < PATIENCE, "{phase}: {}", stage(&vm.socket));
            thread::sleep(Duration::from_millis(10));
        }
        if reads {
            // Nobody else pauses it, or has it run on, meanwhile.
            let busy = vm.refused(&["resume"]);
            assert!(busy.contains("being moved"), "{busy}");
        }
        let twice = vm.refused(&["migrate", "--to", "socket=/nowhere"]);
        assert!(twice.contains("already"), "{twice}");
        let said = vm.tell(&["migrate", "--cancel"]);
        assert!(said.contains("cancelled: the VM goes on here"), "{said}");
        let output = order.join().unwrap();
        assert_eq!(output.status.code(), Some(1), "it was to move the VM");
        letters.more(20);
        drop(hold);
        fake.end();
    }
    // The notes of the migration are gone, and a snapshot may have its own.
    let folder = socket_path("cancels-snap");
    vm.tell(&["snapshot", folder.to_str().unwrap(), "--track"]);
    fs::remove_dir_all(&folder).unwrap();
    letters.more(20);
    vm.end();
    in_order(&letters.complete());
}

/// All that a destination gets of a VM that then stays.
fn record(vm: &Vm) -> Vec<u8> {
    let records = FakeDestination::start("records", |mut stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut all = Vec::new();
        drop(stream.read_to_end(&mut all));
        all
    });
    assert_eq!(migrate(&vm.socket, &records.at).status.code(), Some(1));
    records.end()
}

/// Streams that are no VM, cut off or damaged: one line, status 1 or 2, and nothing runs.
#[test]
fn hostile_streams_are_refused() {
    let Some(mut vm) = Vm::start("hostile", &counts(), "off", &[]) else {
        return;
    };
    let letters = Printed::of(&mut vm.child);
    letters.more(10);
    let stream = record(&vm);
    vm.end();
    let changed = |at: usize, to: u8| {
        let mut changed = stream.clone();
        changed[at] ^= to;
        changed
    };
    let flags = u32::from_le_bytes(stream[20..24].try_into().unwrap()) as usize;
    let first = 24 + flags;
    for (name, bytes) in [
        ("empty", Vec::new()),
        (
            "http",
            b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
        ),
        ("version", changed(8, 8)),
        ("memory", changed(14, 1)),
        ("long-flags", changed(23, 0x7f)),
        ("other-flags", changed(24, 0x20)),
        ("kind", changed(first, 0x40)),
        ("page", changed(first + 7, 0x40)),
        ("count", changed(first + 15, 0x40)),
        ("cut-early", stream[..first + 100].to_vec()),
        ("cut-late", stream[..stream.len() - 1].to_vec()),
        ("state", changed(stream.len() - 1, 1)),
    ] {
        let mut destination = Destination::start(&format!("hostile-{name}"));
        let mut to = connected(&destination.at);
        // It may end the connection before it has read all.
        drop(to.write_all(&bytes));
        drop(to.shutdown(std::net::Shutdown::Write));
        let (status, said) = destination.ends();
        println!("{name}: {status:?} {}", said.trim_end());
        assert!(matches!(status, Some(1 | 2)), "{name}: {status:?} {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
        let mut answer = Vec::new();
        drop(to.read_to_end(&mut answer));
        assert_ne!(answer.first(), Some(&1), "{name}: it says that it runs");
        assert_eq!(
            Printed::of(&mut destination.child).complete(),
            b"",
            "{name}"
        );
    }
    whole_without_a_source(&stream);
}

/// The same stream, whole, is a VM: but its source has gone, and so nothing runs.
fn whole_without_a_source(stream: &[u8]) {
    let mut destination = Destination::start("hostile-whole");
    let mut to = connected(&destination.at);
    to.write_all(stream).unwrap();
    drop(to);
    let (status, said) = destination.ends();
    assert_eq!(status, Some(1), "{said}");
    assert_eq!(Printed::of(&mut destination.child).complete(), b"");
}
