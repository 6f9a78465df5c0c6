//! `perfvisor doctor` on the machine that runs the tests, and the kernels that
//! `perfvisor run` refuses there.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn perfvisor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn report(args: &[&str]) -> (Value, i32) {
    let output = perfvisor(&[&["doctor", "--json"], args].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.is_empty(), "{stderr}");
    let json = serde_json::from_slice(&output.stdout).unwrap();
    (json, output.status.code().unwrap())
}

/// `null` in the report's own words.
fn is_unknown(value: &Value) -> bool {
    value["unknown"]
        .as_str()
        .is_some_and(|why| !why.trim().is_empty())
}

fn kvm_opens() -> bool {
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

#[test]
fn it_agrees_with_the_machine() {
    let (json, status) = report(&[]);
    let verdict = &json["linux_guest_with_pmu"];
    assert_eq!(status, i32::from(verdict["possible"] != true));
    let kvm = &json["kvm"];
    assert_eq!(kvm["present"], Path::new("/dev/kvm").exists());
    assert_eq!(kvm["api_version"] == 12, kvm_opens(), "{kvm}");
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    assert_eq!(kvm["extension"].is_string(), has("vmx") || has("svm"));
    if Path::new("/sys/module/kvm_pvm").exists() && kvm["extension"].is_null() && kvm_opens() {
        assert_eq!(kvm["kind"], "emulated");
        assert_eq!(kvm["linux_guest"]["possible"], false);
    }
    let pmus = json["pmus"].as_array().unwrap();
    let listed = fs::read_dir("/sys/bus/event_source/devices").map_or(0, Iterator::count);
    assert_eq!(pmus.len(), listed);
    let events = json["backing"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 8);
    let shared = json["uncore"].as_array().unwrap();
    assert_eq!(shared.len(), 4);
    for option in shared {
        let is_listed = |name: &str| {
            Path::new("/sys/bus/event_source/devices")
                .join(name)
                .exists()
        };
        let name = match option["option"].as_str().unwrap() {
            "amd_umc" => "amd_umc_0",
            name => name,
        };
        let count = option["instances"].as_u64();
        assert!(
            count.is_some() || is_unknown(&option["instances"]),
            "{option}"
        );
        assert!(count.is_none() || is_listed(name), "{option}");
        assert!(option["denied"] == false || is_listed(name), "{option}");
    }
    let names: Vec<_> = pmus.iter().map(|pmu| &pmu["name"]).collect();
    if !names
        .iter()
        .any(|name| name.as_str().is_some_and(|n| n.starts_with("cpu")))
    {
        assert_eq!(events[0]["event"], "cycles");
        assert_eq!(events[0]["backing"], "clock-derived");
        assert!(json["backing"]["note"].is_string());
        assert_eq!(json["counters"], Value::Array(Vec::new()));
    }
}

#[test]
fn what_needs_kvm_is_known_where_kvm_opens() {
    if !kvm_opens() {
        eprintln!("skipped: /dev/kvm does not open here");
        return;
    }
    let (json, _) = report(&[]);
    let class = json["rdpmc"]["class"].as_str().unwrap();
    assert!(["gp-fault", "silent-zero", "value"].contains(&class));
    let limit = json["rdpmc"]["user_reads"].as_str().unwrap();
    assert!(limit.starts_with("served"), "{limit}");
    assert!(json["kvm"]["instruction_ps"].as_u64().unwrap() > 0);
    assert!(json["kvm"]["exit_ns"].as_u64().unwrap() > 0);
    let memory = &json["memory"];
    assert_eq!(memory["guest_ram_kib"], 64 << 10);
    let pss = memory["pss_kib"].as_u64().unwrap();
    assert!((100..32 << 10).contains(&pss), "{memory}");
}

#[test]
fn no_kvm_is_reported_and_not_a_failure_to_report() {
    let (json, status) = report(&["--kvm-device", "/nonexistent/kvm"]);
    assert_eq!(status, 1);
    assert_eq!(json["kvm"]["present"], false);
    assert_eq!(json["kvm"]["kind"], "none");
    for topic in ["rdpmc", "memory"] {
        assert!(is_unknown(&json[topic]), "{topic}");
    }
    assert!(!json["advice"].as_array().unwrap().is_empty());
    assert!(!is_unknown(&json["cpu"]));
}

#[test]
fn the_text_has_every_section() {
    let output = perfvisor(&["doctor", "--verbose"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("A Linux guest with a PMU can"), "{text}");
    let sections = [
        "KVM",
        "Host",
        "Permission",
        "Guest PMU",
        "Memory",
        "Advice",
        "Summary",
    ];
    for section in sections {
        assert!(
            text.lines().any(|line| line.starts_with(section)),
            "{section}"
        );
    }
    let codes: Vec<_> = [&["doctor", "--xml"][..], &["doctor", "--help"]]
        .map(|args| perfvisor(args).status.code())
        .into();
    assert_eq!(codes, [Some(2), Some(0)]);
}

#[test]
fn three_lines_say_what_works_what_does_not_and_what_to_change() {
    let text = |args: &[&str]| String::from_utf8(perfvisor(args).stdout).unwrap();
    let short = text(&["doctor"]);
    assert_eq!(short.lines().count(), 3, "{short}");
    let long = text(&["doctor", "--verbose"]);
    let last: Vec<_> = long.lines().rev().take(3).collect();
    for text in [short.lines().collect(), last.into_iter().rev().collect()] {
        let text: Vec<&str> = text;
        for (line, label) in text
            .iter()
            .zip(["Works: ", "Does not work: ", "To change: "])
        {
            assert!(line.starts_with(label), "{text:?}");
            assert!(line.len() > label.len(), "{text:?}");
        }
    }
    let broken = text(&["doctor", "--kvm-device", "/nonexistent/kvm"]);
    assert_eq!(
        broken.contains("To change: use --kvm-device /dev/kvm"),
        Path::new("/dev/kvm").exists(),
        "{broken}"
    );
    assert!(
        broken.starts_with("Works: nothing\nDoes not work: Linux guests"),
        "{broken}"
    );
}

/// A device that this user may not open: the advice has its real owner and mode.
#[test]
fn advice_about_a_closed_device_names_its_owner_and_mode() {
    const NOBODY: u32 = 65534;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("closed-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let device = dir.join("kvm");
    fs::write(&device, b"").unwrap();
    fs::write(dir.join("bzImage"), bzimage()).unwrap();
    let kernel = format!("--kernel={}/bzImage", dir.display());
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let mode = if is_root {
        chown(&device, Some(0), Some(7)).unwrap();
        0o640
    } else {
        0
    };
    fs::set_permissions(&device, Permissions::from_mode(mode)).unwrap();
    for (command, flag) in [("doctor", "--verbose"), ("run", kernel.as_str())] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_perfvisor"));
        program.args([command, flag, "--kvm-device"]).arg(&device);
        if is_root {
            program.uid(NOBODY).gid(NOBODY);
        }
        let output = match program.stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("skipped: another user may not run the binary ({error})");
                break;
            }
        };
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let mode = format!("mode {mode:04o}");
        for part in [device.to_str().unwrap(), "belongs to", &mode, "run as root"] {
            assert!(text.contains(part), "{command}: no '{part}' in: {text}");
        }
        if is_root {
            let group = fs::read_to_string("/etc/group").unwrap();
            let group = group
                .lines()
                .find(|line| line.split(':').nth(2) == Some("7"));
            let group = group.map_or("7", |line| line.split(':').next().unwrap());
            assert!(text.contains(&format!("root:{group}")), "{text}");
        }
    }
    fs::remove_dir_all(&dir).unwrap();
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
    bytes[0x260..0x264].copy_from_slice(&0x100_0000u32.to_le_bytes());
    bytes
}

#[test]
fn an_emulated_kvm_refuses_linux_before_anything_starts() {
    if report(&[]).0["kvm"]["kind"] != "emulated" {
        eprintln!("skipped: the KVM of this machine is real, or there is none");
        return;
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let kernel = dir.join("bzImage");
    fs::write(&kernel, bzimage()).unwrap();
    let serial = dir.join("serial");
    let kernel = kernel.display().to_string();
    let output = perfvisor(&[
        "run",
        "--kernel",
        &kernel,
        "--serial",
        &format!("file={}", serial.display()),
    ]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        "--kernel",
        &kernel,
        "use an ELF program of at most 1 MiB",
        "vmx or svm",
        "cargo xtask nested",
    ] {
        assert!(text.contains(part), "no '{part}' in: {text}");
    }
    assert!(!serial.exists(), "nothing is left behind");
    fs::remove_dir_all(&dir).unwrap();
}
