//! Guests of a few instructions, for the tests that run the binary.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of it"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Machine code, put together by hand.
#[derive(Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out(mut self, port: u16, value: u8) -> Self {
        self = self.port(port);
        self.0.extend([0xb0, value, 0xee]);
        self
    }

    /// `mov dx, port; in al, dx`
    pub fn input(mut self, port: u16) -> Self {
        self = self.port(port);
        self.0.push(0xec);
        self
    }

    /// Sends AL to the console.
    pub fn send(mut self) -> Self {
        self = self.port(0x3f8);
        self.0.push(0xee);
        self
    }

    pub fn text(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(0x3f8, byte))
    }

    fn port(mut self, port: u16) -> Self {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn power_off(self) -> Self {
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
pub struct Guest(pub PathBuf);

impl Guest {
    /// `None`, loudly, where there is no KVM.
    pub fn new(name: &str, code: &Code) -> Option<Self> {
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

    /// Without a PMU.
    pub fn start(&self, args: &[&str]) -> Child {
        self.start_with_pmu("off", args)
    }

    pub fn start_with_pmu(&self, pmu: &str, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["run", "--pmu", pmu, "--memory", "size=16M", "--kernel"])
            .arg(&self.0)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.start(args).wait_with_output().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
