//! A vCPU can always be taken out of the guest: with no signal queue left, and while
//! it has the VMM work.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::process::Command;
use std::time::Instant;

use common::{Code, PATIENCE, Vm};

/// The user's queue of signals is full from the start: the limit is 0.
const NO_QUEUE: [&str; 2] = ["prlimit", "--sigpending=0"];

/// `jmp` to itself: no exit but by a kick.
fn spin() -> Code {
    Code::default().raw(&[0xeb, 0xfe])
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
