//! A snapshot's state that an earlier release wrote, on `/dev/kvm`: today's reads it, and its
//! guest goes on.
//!
//! `tests/data/snapshot/vN/state` is a file of version N. Without such a file of the present
//! version, `UPDATE_STATES=1 cargo test -p perfvisor --test saved_state` writes one. It
//! overwrites nothing: a file of a version that a release has written never changes.

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

use common::{Code, Guest, Printed, wait_for_socket};
use vmm::snapshot::VERSION;

/// Counts in EBX alone, and prints the lowest four bits as a letter from `a` to `p`.
fn letters() -> Code {
    Code::default()
        // mov ebx, 0x5a5a5a00; mov esi, 0x01234567
        .raw(&[0xbb, 0, 0x5a, 0x5a, 0x5a, 0xbe, 0x67, 0x45, 0x23, 0x01])
        .letters()
}

/// A folder with a guest, its disk and its snapshots. Its files have short names: they are
/// in the state.
struct Place(PathBuf);

impl Place {
    /// `None`, loudly, where there is no KVM.
    fn new(name: &str) -> Option<Self> {
        drop(Guest::new(name, &letters())?);
        let name = format!("{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("guest.elf"), letters().elf()).unwrap();
        fs::write(path.join("disk.img"), vec![0; 64 << 10]).unwrap();
        Some(Self(path))
    }

    fn run(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["run", "--api-socket", "path=api"])
            .args(args)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn tell(&self, args: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["ctl", "--api-socket", "api"])
            .args(args)
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Runs the guest for a while, and saves it.
    fn save(&self, folder: &str) {
        let mut vm = self.run(&[
            "--kernel=guest.elf",
            "--memory=size=16M",
            "--cpus=boot=1,max=2",
            "--pmu=type=software",
            "--disk=path=disk.img",
            "--console=null",
            "--debug-exit",
            "--rng=on",
        ]);
        let printed = Printed::of(&mut vm);
        printed.more(100);
        wait_for_socket(&self.0.join("api"));
        self.tell(&["snapshot", folder, "--stop"]);
        assert!(vm.wait().unwrap().success());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn golden(version: u32) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/data/snapshot/v{version}/state"))
}

/// DESIGN.md, "Snapshots": each version is read for ever. The memory is that of the same
/// guest today: it has nothing in it.
#[test]
fn a_guest_of_each_version_goes_on() {
    let Some(place) = Place::new("golden") else {
        return;
    };
    place.save("today");
    if std::env::var_os("UPDATE_STATES").is_some() && !golden(VERSION).exists() {
        fs::create_dir_all(golden(VERSION).parent().unwrap()).unwrap();
        fs::copy(place.0.join("today/state"), golden(VERSION)).unwrap();
    }
    // Its disk is a copy, which may have been written at any time.
    fs::rename(place.0.join("disk.img"), place.0.join("copy.img")).unwrap();
    for version in 1..=VERSION {
        fs::copy(golden(version), place.0.join("today/state")).unwrap();
        let mut vm = place.run(&["--restore=today", "--disk=path=copy.img"]);
        let printed = Printed::of(&mut vm);
        while printed.get().len() < 40 && vm.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        if vm.try_wait().unwrap().is_none() {
            place.tell(&["shutdown", "--force"]);
        }
        let mut said = String::new();
        vm.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = vm.wait().unwrap();
        // The file is of another host's CPU, whose KVM may have had more.
        if ["this host lacks", "KVM does not take the saved state"]
            .iter()
            .any(|reason| said.contains(reason))
        {
            eprintln!("skipped: version {version}: {said}");
            continue;
        }
        assert!(status.success(), "version {version}: {said}");
        let text = printed.get();
        for pair in text.windows(2) {
            let next = b'a' + (pair[0] - b'a' + 1) % 16;
            assert_eq!(pair[1], next, "version {version}");
        }
    }
}
