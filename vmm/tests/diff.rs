//! Snapshots with a base: the binary with guests of a few instructions, on `/dev/kvm`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Code, Vm, socket_path, tell, wait_for_socket};

const PAGE: usize = 4096;
/// Pages that the guest writes, by their addresses.
const ZEROED: usize = 0x60_0000;
const KEPT: usize = 0x70_0000;
const FIRST: usize = 0x68_3000;
const LAST: usize = 0xff_f000;

/// `mov byte [address], value`
fn store(code: Code, address: usize, value: u8) -> Code {
    let address = u32::try_from(address).unwrap();
    code.raw(&[0xc6, 0x04, 0x25])
        .raw(&address.to_le_bytes())
        .raw(&[value])
}

/// Waits for a byte of the console, and takes it.
fn wait_for_byte(code: Code) -> Code {
    code.input(0x3fd)
        // test al, 1; jz back to the port
        .raw(&[0xa8, 0x01, 0x74, 0xf7])
        .input(0x3f8)
}

/// Writes pages in two steps, each after a byte, and says so.
fn steps() -> Code {
    let code = store(Code::default(), ZEROED, 0x11);
    // The guest's page tables have the "dirty" bits of 2 MiB each: set before the first step.
    let code = store(store(code, KEPT, 0x12), LAST & !0x1f_ffff, 1).text("a");
    let code = store(wait_for_byte(code), ZEROED, 0);
    let code = store(store(code, FIRST, 0x21), LAST, 0x22).text("b");
    let code = store(wait_for_byte(code), FIRST, 0).text("c");
    wait_for_byte(code).power_off()
}

/// A folder of snapshots, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Self(socket_path(&format!("diff-{name}")));
        fs::create_dir(&folder.0).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// But for the generation id, which is another in each life.
    fn memory(&self, name: &str) -> Vec<u8> {
        let mut memory = fs::read(self.0.join(name).join("memory")).unwrap();
        memory[0xf_f000..0xf_f010].fill(0);
        memory
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Has the guest go a step further: it answers with this letter.
fn step(child: &mut Child, letter: u8) {
    if letter != b'a' {
        child.stdin.as_mut().unwrap().write_all(b".").unwrap();
    }
    let mut said = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(said, [letter]);
}

/// A restored VM's whole memory, and what it says where it goes on.
fn restored_memory(folder: &Folder, name: &str, next: &[u8]) -> Vec<u8> {
    let socket = folder.path(&format!("{name}-socket"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--api-socket", &socket, "--restore"])
        .arg(format!("{},paused=on", folder.path(name)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let socket = Path::new(&socket);
    wait_for_socket(socket);
    let whole = format!("{name}-again");
    tell(socket, &["snapshot", &folder.path(&whole)]);
    tell(socket, &["resume"]);
    next.iter().for_each(|letter| step(&mut child, *letter));
    tell(socket, &["shutdown", "--force"]);
    assert!(child.wait().unwrap().success());
    folder.memory(&whole)
}

fn refusal(folder: &Folder, name: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--restore", &folder.path(name)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn pages_with_bytes(memory: &[u8]) -> Vec<usize> {
    let pages = memory.chunks(PAGE).enumerate();
    let pages = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    pages.map(|(number, _)| number * PAGE).collect()
}

/// The base has everything, a snapshot on it the pages alone that were written, zeros
/// included, and a restore has what the VM had.
#[test]
fn a_snapshot_with_a_base_has_what_was_written_since() {
    let Some(mut vm) = Vm::start("diff", &steps(), "off", &[]) else {
        return;
    };
    let folder = Folder::new("steps");
    step(&mut vm.child, b'a');
    vm.tell(&["snapshot", &folder.path("base"), "--track"]);
    step(&mut vm.child, b'b');
    vm.tell(&["pause"]);
    let base = folder.path("base");
    vm.tell(&["snapshot", &folder.path("one"), "--base", &base]);
    assert_eq!(pages_with_bytes(&folder.memory("one")), [FIRST, LAST]);
    vm.tell(&["resume"]);
    step(&mut vm.child, b'c');
    vm.tell(&["pause"]);
    let one = folder.path("one");
    vm.tell(&["snapshot", &folder.path("two"), "--base", &one]);
    assert_eq!(pages_with_bytes(&folder.memory("two")), [0usize; 0]);
    let other = vm.refused(&["snapshot", &folder.path("x"), "--base", &one]);
    assert!(other.contains(&folder.path("two")), "{other}");
    // Ends the notes.
    vm.tell(&["snapshot", &folder.path("whole")]);
    let two = folder.path("two");
    let ended = vm.refused(&["snapshot", &folder.path("x"), "--base", &two]);
    assert!(ended.contains("--track"), "{ended}");
    let whole = folder.memory("whole");
    assert_eq!((whole[ZEROED], whole[KEPT], whole[FIRST]), (0, 0x12, 0));
    vm.end();
    assert!(
        restored_memory(&folder, "two", b"") == whole,
        "another memory"
    );
    let one = restored_memory(&folder, "one", b"c");
    assert_eq!((one[ZEROED], one[KEPT], one[FIRST]), (0, 0x12, 0x21));
    let base = restored_memory(&folder, "base", b"bc");
    assert_eq!((base[ZEROED], base[FIRST]), (0x11, 0));
}

/// A base that is missing, or another than it was: one line with its path, status 2.
#[test]
fn a_base_that_is_not_there_is_named() {
    let Some(mut vm) = Vm::start("no-base", &steps(), "off", &[]) else {
        return;
    };
    let folder = Folder::new("no-base");
    step(&mut vm.child, b'a');
    let (base, diff) = (folder.path("base"), folder.path("diff"));
    let untracked = vm.refused(&["snapshot", &diff, "--base", &base]);
    assert!(untracked.contains("--track"), "{untracked}");
    vm.tell(&["snapshot", &base, "--track"]);
    vm.tell(&["snapshot", &diff, "--base", &base]);
    vm.tell(&["snapshot", &folder.path("other")]);
    let moved = folder.path("moved");
    fs::rename(&base, &moved).unwrap();
    let missing = refusal(&folder, "diff");
    assert!(
        missing.contains(&base) && missing.contains("No such file"),
        "{missing}"
    );
    fs::rename(folder.path("other"), &base).unwrap();
    let another = refusal(&folder, "diff");
    assert!(
        another.contains(&base) && another.contains("another snapshot"),
        "{another}"
    );
    fs::remove_dir_all(&base).unwrap();
    fs::rename(&moved, &base).unwrap();
    fs::File::options()
        .write(true)
        .open(PathBuf::from(&base).join("memory"))
        .unwrap()
        .set_len(4096)
        .unwrap();
    let cut = refusal(&folder, "diff");
    assert!(cut.contains(&base) && cut.contains("size"), "{cut}");
    vm.end();
}
