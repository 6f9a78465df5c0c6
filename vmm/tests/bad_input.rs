//! What the binary says to bad input: one line that names the flag, the value
//! and what would be accepted, with status 2 (usage) or 1 (host).

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;
#[path = "bad_input/devices.rs"]
mod devices;
#[path = "bad_input/disks.rs"]
mod disks;
#[path = "bad_input/exec.rs"]
mod exec;
#[path = "bad_input/files.rs"]
mod files;
#[path = "bad_input/serial.rs"]
mod serial;
#[path = "bad_input/words.rs"]
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Code;

/// A directory of this test's own, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("bad-input-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A kernel that halts.
fn elf() -> Vec<u8> {
    Code::default().raw(&[0xf4]).elf()
}

/// A bzImage header that announces 64 KiB.
fn bzimage() -> Vec<u8> {
    let mut bytes = vec![0u8; 0x400 + 0x1_0000];
    bytes[0x1f1] = 1;
    bytes[0x1f4..0x1f8].copy_from_slice(&0x1000u32.to_le_bytes());
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x236] = 1;
    bytes[0x260..0x264].copy_from_slice(&0x400_0000u32.to_le_bytes());
    bytes
}

/// An archive without members but with its trailer.
fn cpio() -> Vec<u8> {
    let mut bytes = b"070701".to_vec();
    for number in [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0] {
        bytes.extend(format!("{number:08x}").bytes());
    }
    bytes.extend(b"TRAILER!!!\0\0\0\0");
    bytes
}

/// The words before input that works.
const ADVICE: [&str; 3] = ["accepted: ", "expected: ", "; use "];
/// A part of a refusal: one of [`ADVICE`].
const WHAT_WORKS: &str = "(what works)";

/// Runs the binary and checks that it refuses, with `parts` in its one line. One
/// that starts a VM instead is stopped, and its status is another.
fn refuses(args: &[&str], status: i32, parts: &[&str]) {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_perfvisor"), "run"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(text.starts_with("perfvisor: "), "{text}");
    let advice: usize = ADVICE.map(|word| text.matches(word).count()).iter().sum();
    assert!(advice <= 1, "{args:?} has two pieces of advice: {text}");
    for part in parts {
        if *part == WHAT_WORKS {
            assert_eq!(advice, 1, "{args:?}: nothing that works in: {text}");
            continue;
        }
        assert!(text.contains(part), "{args:?}: no '{part}' in: {text}");
    }
}

/// Refuses a kernel.
fn refuses_kernel(path: &str, parts: &[&str]) {
    let mut all = vec!["--kernel", path, WHAT_WORKS];
    all.extend(parts);
    refuses(&["--kernel", path], 2, &all);
}

#[test]
fn kernels() {
    let scratch = Scratch::new("kernels");
    let dir = scratch.0.display().to_string();
    refuses_kernel(&format!("{dir}/none"), &["No such file"]);
    refuses_kernel(&dir, &["not a regular file"]);
    refuses_kernel("/dev/zero", &["not a regular file"]);
    refuses_kernel(&scratch.file("empty", b""), &["it is empty"]);
    let text = b"This is not a kernel.\n".repeat(100);
    refuses_kernel(&scratch.file("text", &text), &["not a kernel"]);
    let whole = bzimage();
    let half = scratch.file("half", &whole[..whole.len() / 2]);
    refuses_kernel(&half, &["truncated", "33280 of"]);
    let whole = elf();
    let half = scratch.file("half-elf", &whole[..whole.len() - 1]);
    refuses_kernel(&half, &["truncated", "120 of 121"]);
    let mut arm = elf();
    arm[18] = 183;
    refuses_kernel(&scratch.file("arm", &arm), &["not of x86-64"]);
    let mut short = elf();
    short[4] = 1;
    let short = scratch.file("elf32", &short);
    refuses_kernel(&short, &["without a multiboot header", "multiboot-1"]);
}

#[test]
fn a_kernel_must_be_named() {
    refuses(&[], 2, &["--kernel"]);
}

#[test]
fn scoped_pmus() {
    let scratch = Scratch::new("uncore");
    let kernel = scratch.file("kernel", &elf());
    let refused = |pmu: &str, uncore: &str, status, parts: &[&str]| {
        let args = ["--kernel", &kernel, "--pmu", pmu, "--uncore", uncore];
        refuses(&args, status, &[&["--uncore", WHAT_WORKS], parts].concat());
    };
    let intel = "type=software,model=intel-v2";
    let amd = "type=software,model=amd-v2";
    refused(intel, "power=yes", 2, &["'yes'", "on or off"]);
    refused("off", "power=on", 2, &["--pmu off"]);
    refused(intel, "amd_l3=on", 2, &["intel-v2", "amd-core or amd-v2"]);
    refused(
        "type=software,model=amd-core",
        "amd_umc=on",
        2,
        &["model=amd-v2"],
    );
    if Path::new("/sys/bus/event_source/devices/amd_umc_0").exists() {
        eprintln!("not looked at: this host has memory controllers that count");
    } else {
        let parts = ["amd_umc=on", "this host", "no PMU amd_umc_0"];
        refused(amd, "amd_umc=on", 1, &parts);
    }
}

#[test]
fn initramfs_archives() {
    let scratch = Scratch::new("initramfs");
    let kernel = scratch.file("kernel", &elf());
    let dir = scratch.0.display().to_string();
    let whole = cpio();
    for (path, part) in [
        (format!("{dir}/none"), "No such file"),
        (dir.clone(), "not a regular file"),
        (scratch.file("empty", b""), "is empty"),
        (scratch.file("text", b"hello there"), "not an archive"),
        (scratch.file("half", &whole[..whole.len() / 2]), "truncated"),
    ] {
        refuses(
            &["--kernel", &kernel, "--initramfs", &path],
            2,
            &["--initramfs", &path, part, WHAT_WORKS],
        );
    }
    let good = scratch.file("good", &whole);
    let bad = scratch.file("bad", b"x");
    refuses(
        &[
            "--kernel",
            &kernel,
            "--initramfs",
            &good,
            "--initramfs",
            &bad,
        ],
        2,
        &["--initramfs", &bad],
    );
}

#[test]
fn flag_values() {
    let scratch = Scratch::new("flags");
    let kernel = scratch.file("kernel", &elf());
    for (flag, value, part) in [
        ("--memory", "size=0", "8M to 1023G"),
        ("--memory", "size=4M", "8M to 1023G"),
        ("--memory", "size=lots", "8M to 1023G"),
        ("--memory", "512M", "size=N"),
        ("--memory", "size=512M,hotplug=on", "size=N"),
        ("--cpus", "boot=0", "1 to 254"),
        ("--cpus", "boot=300", "1 to 254"),
        ("--cpus", "boot=4,max=2", "max from 4 to 254"),
        ("--cpus", "boot=4,topology=2:4:1:1", "product is 4"),
        ("--cpus", "boot=4,sockets=1", "topology="),
        ("--pmu", "type=", "type number"),
        ("--pmu", "type=no/such", "type number"),
        ("--pmu", "type=hybrid", "core-types="),
        ("--pmu", "type=hybrid,gp=4", "policy=, filter= and rdpmc="),
        ("--cpus", "boot=2,affinity=[2@[0]]", "0@[2,3]"),
        ("--cpus", "boot=1,affinity=[0@[65535]]", "are online"),
        (
            "--cpus",
            "boot=2,core-types=[core=[0]]",
            "each vCPU exactly once",
        ),
        ("--cpus", "boot=1,core-types=[core=[0]]", "type=hybrid"),
        ("--pmu", "type=auto,gp=99", "2 to 8"),
        ("--pmu", "type=auto,colour=red", "gp=N"),
        ("--pmu", "type=auto,model=p6", "intel-v5, amd-k7"),
        (
            "--pmu",
            "type=auto,model=amd-v2,gp=3",
            "model=amd-v2; accepted: 4 to 6",
        ),
        (
            "--pmu",
            "type=software,model=intel-v2,fixed=0",
            "accepted: 1 to 3",
        ),
        ("--pmu", "on", "type=auto"),
        ("--serial", "pty", "tty, null, file=PATH"),
    ] {
        refuses(
            &["--kernel", &kernel, flag, value],
            2,
            &[flag, WHAT_WORKS, part],
        );
    }
    let long = "x".repeat(2048);
    refuses(
        &["--kernel", &kernel, "--cmdline", &long],
        2,
        &["--cmdline", "2048", "2047"],
    );
    refuses(&["--kernel", &kernel, "--color", "red"], 2, &["--color"]);
}

#[test]
fn hosts_without_kvm() {
    let scratch = Scratch::new("kvm");
    let kernel = scratch.file("kernel", &elf());
    let none = scratch.0.join("kvm").display().to_string();
    let args = |device| ["--kernel", kernel.as_str(), "--kvm-device", device];
    let advice = if Path::new("/dev/kvm").exists() {
        "; use --kvm-device /dev/kvm"
    } else {
        "there is no KVM on this host; use modprobe"
    };
    refuses(&args(&none), 1, &[&none, "No such file", advice]);
    refuses(&args("/dev/null"), 1, &["/dev/null", "not a KVM device"]);
}

/// These are decided after KVM is open.
#[test]
fn memory_and_serial_with_kvm() {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        eprintln!("skipped: /dev/kvm does not open here");
        return;
    }
    let scratch = Scratch::new("late");
    let big = scratch.file("big", &bzimage());
    refuses(
        &["--kernel", &big, "--memory", "size=32M"],
        2,
        &["--memory", "32 MiB", "at least"],
    );
    let kernel = scratch.file("kernel", &elf());
    let nowhere = format!("file={}/none/log", scratch.0.display());
    refuses(
        &["--kernel", &kernel, "--serial", &nowhere],
        2,
        &["--serial", "No such file"],
    );
}

/// Also what nothing would come of.
#[test]
fn a_pmu_that_cannot_be_is_refused_with_rdpmc_off() {
    let scratch = Scratch::new("rdpmc-off");
    let kernel = scratch.file("kernel", &elf());
    for (pmu, part) in [
        ("type=nosuch,rdpmc=off", "nosuch"),
        ("type=software,filter=@/nope,rdpmc=off", "/nope"),
    ] {
        refuses(&["--kernel", &kernel, "--pmu", pmu], 2, &["--pmu", part]);
    }
}

#[test]
fn help_goes_to_standard_output() {
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "Examples:",
        "--kernel",
        "Ctrl-A x",
        "type=auto",
        "size=512M",
    ] {
        assert!(text.contains(word), "{word}");
    }
}

/// A log level that does not exist must not silence the warnings without a word.
#[test]
fn a_misspelt_log_level_is_named_and_the_default_is_used() {
    let said = |level: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_perfvisor"));
        let output = program.arg("--version").env("PERFVISOR_LOG", level);
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{level}");
        String::from_utf8(output.stderr).unwrap()
    };
    for level in ["off", "WARN", "trace", "vmm::pmu=debug,error", ""] {
        assert_eq!(said(level), "", "{level}");
    }
    for level in ["wran", "vmm=wran", "info,wran", "3"] {
        let text = said(level);
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            "PERFVISOR_LOG",
            level,
            "accepted: off, error, warn, info, debug, trace",
            "using warn",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
