//! A vCPU can always be taken out of the guest: with no signal queue left, and while
//! it has the VMM work.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::process::Command;
use std::time::Instant;

use common::{Code, PATIENCE, Vm};

/// The user's queue of signals is full from the start: the limit is 0.
const NO_QUEUE: [&str; 2] = ["prlimit", "--sigpending=0"];

/// `jmp` to itself: no exit but by a kick.
fn spin() -> Code {
    Code::default().raw(&[0xeb, 0xfe])
}

/// `guests/scans.s`: each vCPU asks for scans of 256 MiB, one after the other.
fn scans() -> Code {
    Code::default().raw(&common::from_hex(include_str!("guests/scans.hex")))
}

/// How many vCPU threads of a VM have used the host's CPUs.
fn busy_vcpus(vm: &Vm) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", vm.child.id())).unwrap();
    let has_worked = |task: &fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let time = stat.split(' ').next().and_then(|time| time.parse().ok());
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        // More than its start takes.
        name.starts_with("vcpu") && time.is_some_and(|ns: u64| ns > 1_000_000)
    };
    tasks.flatten().filter(has_worked).count()
}

#[test]
fn a_vm_whose_vcpus_all_ask_for_scans_pauses_and_ends() {
    let cpus = ["--cpus", "boot=64"];
    let vm = Vm::start("scans", &scans(), "type=software,model=intel-v2", &cpus);
    let Some(vm) = vm else { return };
    let start = Instant::now();
    while busy_vcpus(&vm) < 64 {
        assert!(start.elapsed() < PATIENCE, "{} vCPUs run", busy_vcpus(&vm));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for _ in 0..3 {
        vm.tell(&["pause"]);
        vm.tell(&["resume"]);
        vm.tell(&["info"]);
    }
    let (status, log) = terminate(vm);
    assert_eq!(status, Some(143), "{log}");
}

/// Sends SIGTERM; the status and the log of a VM that ends.
fn terminate(mut vm: Vm) -> (Option<i32>, String) {
    let pid = vm.child.id().to_string();
    let kill = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(kill.unwrap().success());
    let start = Instant::now();
    while vm.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    vm.wait()
}

#[test]
fn a_vm_of_a_user_without_a_signal_queue_pauses_and_ends() {
    let start = |name| Vm::start_under(&NO_QUEUE, name, &spin(), "off", &["--cpus", "boot=2"]);
    let Some(vm) = start("no-queue") else { return };
    vm.tell(&["pause"]);
    vm.tell(&["resume"]);
    vm.tell(&["pmu"]);
    let (status, log) = terminate(vm);
    assert_eq!(status, Some(143), "{log}");
    assert!(!log.contains("cannot kick"), "{log}");
    let vm = start("no-queue-forced").unwrap();
    let (status, log) = vm.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("cannot kick"), "{log}");
}

/// A PMU's timers are taken from the queue when the VM starts.
#[test]
fn a_pmu_without_a_signal_queue_is_refused_with_the_limit() {
    let guest = common::Guest::new("no-timer", &spin());
    let Some(guest) = guest else { return };
    let child = guest.start_under(&NO_QUEUE, "type=software", &[]);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("RLIMIT_SIGPENDING"), "{text}");
    assert!(text.contains("ulimit -i"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
