//! A guest of whose state every part has a number of its own, which it looks at again and
//! again while it is saved, ended and restored, or moved: the binary, on `/dev/kvm`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, Guest, PATIENCE, Printed, from_hex, socket_path, tell, wait_for_socket};

/// How often it is saved and restored, or moved, unless `LIVES` says otherwise.
const LIVES: u32 = 20;
/// Letters that each life prints at least: as many looks at all of the state.
const LOOKS: usize = 3;

/// The guest; whether the KVM can do `all` that it does.
fn guest(all: bool) -> Option<Guest> {
    let mut code = from_hex(include_str!("guests/lives.hex"));
    code[4..8].copy_from_slice(&u32::from(all).to_le_bytes());
    Guest::new(&format!("lives-{all}"), &Code::default().raw(&code))
}

/// A process with the guest. It is killed when it is dropped.
struct Life {
    child: Child,
    printed: Option<Printed>,
    api: PathBuf,
}

impl Life {
    fn start(number: u32, args: &[&str]) -> Self {
        let api = socket_path(&format!("lives-{}", number % 2));
        drop(fs::remove_file(&api));
        let mut child = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["run", "--api-socket"])
            .arg(&api)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = Some(Printed::of(&mut child));
        Self {
            child,
            printed,
            api,
        }
    }

    fn boot(guest: &Path) -> Self {
        let pmu = "--pmu=type=software,model=intel-v2";
        let kernel = format!("--kernel={}", guest.display());
        Self::start(0, &[&kernel, "--memory=size=16M", pmu])
    }

    /// Waits until it has looked at its state some times; why not, if it has ended.
    fn looks(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while self.printed.as_ref().unwrap().get().len() < LOOKS {
            if self.child.try_wait().unwrap().is_some() {
                return Err(self.said());
            }
            assert!(start.elapsed() < PATIENCE, "the guest prints nothing");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn tell(&self, args: &[&str]) {
        wait_for_socket(&self.api);
        tell(&self.api, args);
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    /// The letters of a life that ends with this status.
    fn letters(mut self, status: i32) -> Vec<u8> {
        let ended = self.child.wait().unwrap().code();
        let letters = self.printed.take().unwrap().complete();
        let text = String::from_utf8_lossy(&letters);
        assert_eq!(ended, Some(status), "{text}: {}", self.said());
        letters
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.api));
    }
}

/// Some looks of each life, all of which find what there was before, and letters of which
/// none is missing or comes twice.
struct Letters(usize);

impl Letters {
    fn go_on(&mut self, life: u32, letters: &[u8]) {
        for letter in letters {
            let expected = b'a' + u8::try_from(self.0 % 16).unwrap();
            if *letter != expected {
                let text = String::from_utf8_lossy(letters);
                panic!(
                    "life {life}: {text}, of which {} is due",
                    char::from(expected)
                );
            }
            self.0 += 1;
        }
    }
}

fn lives() -> u32 {
    let wanted = std::env::var("LIVES").ok().and_then(|n| n.parse().ok());
    wanted.unwrap_or(LIVES)
}

/// The first life, with all that this KVM can do.
fn first() -> Option<(Guest, Life)> {
    for all in [true, false] {
        let guest = guest(all)?;
        let mut life = Life::boot(&guest.0);
        match life.looks() {
            Ok(()) => return Some((guest, life)),
            Err(said) if all && said.contains("KVM gave up") => {
                eprintln!("without x87, MXCSR and AVX: {said}");
            }
            Err(said) => panic!("{said}"),
        }
    }
    None
}

/// DESIGN.md, "Snapshots" and "Migration": general, control, debug and segment registers,
/// SSE, MSRs, local and I/O APIC, PICs, the UART, PCI's address and the PMU are as they
/// were; counters that run, and the TSC, do not go back.
#[test]
fn a_guest_finds_all_of_its_state_in_each_life() {
    let Some((guest, mut life)) = first() else {
        return;
    };
    let mut letters = Letters(0);
    let folder = socket_path("lives-folder");
    let at = socket_path("lives-in");
    for number in 1..=lives() {
        let mut next;
        if number % 2 == 1 {
            life.tell(&["snapshot", folder.to_str().unwrap(), "--stop"]);
            letters.go_on(number, &life.letters(0));
            next = Life::start(number, &["--restore", folder.to_str().unwrap()]);
            if let Err(said) = next.looks() {
                panic!("life {number}: {said}");
            }
            fs::remove_dir_all(&folder).unwrap();
        } else {
            let socket = format!("socket={}", at.display());
            next = Life::start(number, &["--incoming", &socket]);
            wait_for_socket(&at);
            life.tell(&["migrate", "--to", &socket]);
            letters.go_on(number, &life.letters(8));
            if let Err(said) = next.looks() {
                panic!("life {number}: {said}");
            }
        }
        life = next;
    }
    life.tell(&["shutdown", "--force"]);
    letters.go_on(lives() + 1, &life.letters(0));
    println!("{} lives, {} looks", lives(), letters.0);
    drop(guest);
}
