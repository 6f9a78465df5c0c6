//! VMs that are saved and restored: the binary with guests of a few instructions, on
//! `/dev/kvm`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Code, Guest, Printed, Vm, socket_path, tell, wait_for_socket};

/// Prints the letters from `a` to `p` again and again, with some time in between. The
/// number is in a register alone.
fn letters() -> Code {
    Code::default()
        // xor ebx, ebx
        .raw(&[0x31, 0xdb])
        .letters()
}

/// A folder that is not there, nor afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(socket_path(&format!("snap-{name}")))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A VM from a snapshot. It is killed when it is dropped.
struct Restored {
    child: Child,
    socket: PathBuf,
}

impl Restored {
    /// With a socket of its own.
    fn start(folder: &str, name: &str) -> Self {
        let socket = socket_path(name);
        Self {
            child: restore(folder, &socket),
            socket,
        }
    }

    fn tell(&self, args: &[&str]) {
        tell(&self.socket, args);
    }

    /// Waits for its end, which is a good one.
    fn ends_well(&mut self) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(
            (self.child.wait().unwrap().code(), said.as_str()),
            (Some(0), "")
        );
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.socket));
    }
}

fn restore(folder: &str, socket: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--restore", folder, "--api-socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The letters that come one behind the other, from `a`.
fn in_order(text: &[u8]) -> Result<(), usize> {
    let wrong = |(n, letter): (usize, &u8)| usize::from(*letter) != usize::from(b'a') + n % 16;
    text.iter().enumerate().position(wrong).map_or(Ok(()), Err)
}

/// Saved and ended, restored, and again: the console of all lives together has no letter
/// too few and none twice.
#[test]
fn a_guest_goes_on_where_it_was() {
    const LIVES: usize = 5;
    let Some(mut vm) = Vm::start("saved", &letters(), "off", &[]) else {
        return;
    };
    let printed = Printed::of(&mut vm.child);
    printed.more(100);
    let folder = Folder::new("goes-on-0");
    vm.tell(&["snapshot", folder.text(), "--stop"]);
    let (status, said) = vm.wait();
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let mut all = printed.complete();
    let mut last = folder;
    for life in 1..=LIVES {
        let mut vm = Restored::start(last.text(), &format!("goes-on-{life}"));
        let printed = Printed::of(&mut vm.child);
        printed.more(50);
        let next = Folder::new(&format!("goes-on-{life}"));
        vm.tell(&["snapshot", next.text(), "--stop"]);
        vm.ends_well();
        all.extend(printed.complete());
        assert_eq!(in_order(&all), Ok(()), "life {life}");
        last = next;
    }
    assert!(all.len() >= 100 + LIVES * 50, "{}", all.len());
}

/// The VM that is saved goes on, two others start from the same snapshot, and none of them
/// sees the others.
#[test]
fn a_snapshot_can_be_restored_more_than_once() {
    let Some(mut vm) = Vm::start("twice", &letters(), "off", &["--cpus", "boot=2"]) else {
        return;
    };
    let printed = Printed::of(&mut vm.child);
    printed.more(100);
    let folder = Folder::new("twice");
    assert_eq!(vm.tell(&["snapshot", folder.text()]).trim_end(), "running");
    printed.more(100);
    let mut first = Vec::new();
    for life in 0..2 {
        let mut other = Restored::start(folder.text(), &format!("twice-{life}"));
        let printed = Printed::of(&mut other.child);
        printed.more(100);
        other.tell(&["shutdown", "--force"]);
        other.ends_well();
        first.push(printed.get()[..100].to_vec());
    }
    assert_eq!(first[0], first[1]);
    assert_eq!(in_order(&printed.get()), Ok(()));
    let again = vm.refused(&["snapshot", folder.text()]);
    assert!(again.contains("is there already"), "{again}");
    vm.end();
}

/// `paused=on`: nothing of the guest runs before the word.
#[test]
fn a_restored_guest_can_wait_for_the_word() {
    let Some(mut vm) = Vm::start("waits", &letters(), "off", &[]) else {
        return;
    };
    let printed = Printed::of(&mut vm.child);
    printed.more(20);
    vm.tell(&["pause"]);
    let folder = Folder::new("waits");
    assert_eq!(vm.tell(&["snapshot", folder.text()]).trim_end(), "paused");
    vm.end();
    let mut vm = Restored::start(&format!("{},paused=on", folder.text()), "waits-2");
    let printed = Printed::of(&mut vm.child);
    wait_for_socket(&vm.socket);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(printed.get(), b"");
    vm.tell(&["resume"]);
    printed.more(20);
    vm.tell(&["shutdown", "--force"]);
    vm.ends_well();
}

/// One line for each, and status 2.
#[test]
fn a_folder_that_is_no_snapshot_is_refused() {
    let Some(guest) = Guest::new("no-snapshot", &letters()) else {
        return;
    };
    drop(guest);
    let folder = Folder::new("foreign");
    let said = |folder: &str| {
        let output = restore(folder, &socket_path("foreign-api")).wait_with_output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        said(folder.text()).contains("No such file"),
        "{}",
        said(folder.text())
    );
    fs::create_dir(&folder.0).unwrap();
    fs::write(folder.0.join("state"), b"pvsnapst\x09\0\0\0").unwrap();
    let later = said(folder.text());
    assert!(later.contains("version 9"), "{later}");
    assert_eq!(later.lines().count(), 1);
}
