//! Guests of a few instructions, for the tests that run the binary.

#![allow(
    clippy::len_without_is_empty,
    clippy::panic,
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

mod printed;
mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

pub use printed::{Printed, connected, wait_for_socket};
pub use vm::{PATIENCE, Vm, ctl, socket_path, tell};

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

    /// Prints the lowest four bits of EBX as a letter from `a` to `p`, adds one to EBX and
    /// waits for some time, again and again.
    pub fn letters(self) -> Self {
        // loop: mov eax, ebx; and al, 15; add al, 'a'
        self.raw(&[0x89, 0xd8, 0x24, 0x0f, 0x04, b'a'])
            .send()
            // inc ebx; mov ecx, 100; wait: dec ecx; jnz wait
            .raw(&[0xff, 0xc3, 0xb9, 100, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc])
            // jmp loop
            .raw(&[0xeb, 0xe8])
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

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn append(self, other: &Self) -> Self {
        self.raw(&other.0)
    }

    pub fn power_off(self) -> Self {
        self.out(0x600, 0x34).raw(&[0xeb, 0xfe])
    }

    /// A multiboot-1 ELF32 file with it at 1 MiB, entered in 32-bit mode. All
    /// that [`Code`] writes means the same there.
    pub fn multiboot(&self) -> Vec<u8> {
        const HEADERS: u32 = 96;
        let len = u32::try_from(self.0.len()).unwrap();
        let mut bytes = b"\x7fELF\x01\x01".to_vec();
        bytes.resize(16, 0);
        let words = |bytes: &mut Vec<u8>, words: &[u32]| {
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        // ET_EXEC, EM_386; version, entry, program headers; their size and number.
        words(&mut bytes, &[0x0003_0002, 1, 0x10_000c, 52, 0, 0]);
        words(&mut bytes, &[0x0020_0034, 1, 0]);
        words(
            &mut bytes,
            &[1, HEADERS, 0, 0x10_0000, 12 + len, 12 + len, 7, 4],
        );
        bytes.resize(HEADERS as usize, 0);
        let magic = 0x1bad_b002_u32;
        words(
            &mut bytes,
            &[magic, 3, 0u32.wrapping_sub(magic).wrapping_sub(3)],
        );
        bytes.extend(&self.0);
        bytes
    }

    /// An ELF file with it at 2 MiB.
    pub fn elf(&self) -> Vec<u8> {
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

/// The bytes of a file of `guests`.
pub fn from_hex(text: &str) -> Vec<u8> {
    let hex: String = text.split_whitespace().collect();
    let bytes = hex.as_bytes().chunks(2).map(|digits| {
        let digits = std::str::from_utf8(digits).unwrap();
        u8::from_str_radix(digits, 16).unwrap()
    });
    bytes.collect()
}

/// A guest in a file, gone afterwards.
pub struct Guest(pub PathBuf);

impl Guest {
    /// `None`, loudly, where there is no KVM.
    pub fn new(name: &str, code: &Code) -> Option<Self> {
        Self::of(name, &code.elf())
    }

    /// The same, of any image.
    pub fn of(name: &str, image: &[u8]) -> Option<Self> {
        let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
        if let Err(error) = kvm {
            eprintln!("skipped: {name}: /dev/kvm does not open here ({error})");
            return None;
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.elf", std::process::id()));
        fs::write(&path, image).unwrap();
        Some(Self(path))
    }

    /// Without a PMU.
    pub fn start(&self, args: &[&str]) -> Child {
        self.start_with_pmu("off", args)
    }

    pub fn start_with_pmu(&self, pmu: &str, args: &[&str]) -> Child {
        self.start_under(&[], pmu, args)
    }

    /// Started by another command, such as `prlimit` with a limit.
    pub fn start_under(&self, command: &[&str], pmu: &str, args: &[&str]) -> Child {
        let words = [command, &[env!("CARGO_BIN_EXE_perfvisor")]].concat();
        let (first, others) = words.split_first().unwrap();
        Command::new(first)
            .args(others)
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
