//! vCPUs that come and go, with guests of a few instructions on `/dev/kvm`:
//! refusals, and that nothing is left of a vCPU that went.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use common::{Code, PATIENCE, Vm};
use serde_json::Value;

/// What a guest does whose ACPI methods are a loop: for each vCPU, looks at the
/// registers of `devices::cpu_hotplug`, takes what comes and gives what is to go.
fn willing() -> Code {
    looking(&[
        // mov byte [rdi+4], 4; mov byte [rdi+4], 8: seen, ejected
        0xc6, 0x47, 0x04, 0x04, 0xc6, 0x47, 0x04, 0x08,
    ])
}

/// As [`willing`], but it keeps what it has, and says so: `_OST` of an eject
/// request, device busy.
fn unwilling() -> Code {
    looking(&[
        // mov byte [rdi+4], 4; mov word [rdi+6], 3; mov dword [rdi+8], 0x82
        0xc6, 0x47, 0x04, 0x04, 0x66, 0xc7, 0x47, 0x06, 0x03, 0x00, 0xc7, 0x47, 0x08, 0x82, 0, 0, 0,
    ])
}

/// As [`starting`]: the vCPU prints `.` if SYSENTER_EIP and LSTAR, which INIT
/// leaves alone, are 0, else `X`; it sets both and halts.
fn looking_around() -> Code {
    starting(&[
        0x31, 0xdb, // xor bx, bx
        0x66, 0xb9, 0x76, 0x01, 0x00, 0x00, // mov ecx, 0x176
        0x0f, 0x32, // rdmsr
        0x09, 0xc3, // or bx, ax
        0x66, 0xb8, 0x34, 0x12, 0x00, 0x00, // mov eax, 0x1234
        0x0f, 0x30, // wrmsr
        0x66, 0xb9, 0x82, 0x00, 0x00, 0xc0, // mov ecx, 0xc0000082
        0x0f, 0x32, // rdmsr
        0x09, 0xc3, // or bx, ax
        0x66, 0xb8, 0x34, 0x12, 0x00, 0x00, // mov eax, 0x1234
        0x0f, 0x30, // wrmsr
        0xb0, b'.', // mov al, '.'
        0x85, 0xdb, // test bx, bx
        0x74, 0x02, // jz +2
        0xb0, b'X', // mov al, 'X'
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xee, // out dx, al
        0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; jmp hlt
    ])
}

/// As [`starting`]: vCPU 1 prints `.` and ejects itself, and would print `!`
/// then. It tries often: vCPU 0 may select another in between, which ACPI's
/// methods have a lock against.
fn leaving() -> Code {
    let mut program = vec![
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, b'.', // mov al, '.'
        0xee, // out dx, al
        0x2e, 0x0f, 0x01, 0x16, 0x80, 0x00, // lgdt cs:[0x80]
        0x0f, 0x20, 0xc0, // mov eax, cr0
        0x0c, 0x01, // or al, 1
        0x0f, 0x22, 0xc0, // mov cr0, eax
        0x66, 0xea, 0x1c, 0x00, 0x03, 0x00, 0x10, 0x00, // jmp 0x10:0x3001c, 32 bits
        0x66, 0xbb, 0x08, 0x00, // mov bx, 8
        0x8e, 0xdb, // mov ds, ebx
        0xbf, 0x00, 0x00, 0x00, 0xfd, // mov edi, registers
        0xb9, 0xe8, 0x03, 0x00, 0x00, // mov ecx, 1000
        0xc7, 0x07, 0x01, 0x00, 0x00, 0x00, // again: mov dword [edi], 1
        0xc6, 0x47, 0x04, 0x08, // mov byte [edi+4], 8
        0xe2, 0xf4, // loop again
        0xb0, b'!', // mov al, '!'
        0xee, // out dx, al
        0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; jmp hlt
    ];
    // Segments: none, flat data, flat code; and their table's register.
    program.resize(0x68, 0);
    program.extend([0; 8]);
    program.extend([0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0]);
    program.extend([0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0]);
    program.extend([0x17, 0, 0x68, 0x00, 0x03, 0]);
    starting(&program)
}

/// As [`willing`], and it starts each vCPU that comes: INIT and SIPI to its APIC
/// id, which is its number. The vCPU runs `program`, in real mode.
fn starting(program: &[u8]) -> Code {
    let mut code = Code::default();
    for (at, byte) in (0x3_0000_u32..).zip(program) {
        // mov byte [at], byte
        let [a, b, c, d] = at.to_le_bytes();
        code = code.raw(&[0xc6, 0x04, 0x25, a, b, c, d, *byte]);
    }
    // mov r8d, 0xfee00000; enable the APIC: mov dword [r8+0xf0], 0x1ff
    let code = code
        .raw(&[0x41, 0xb8, 0, 0, 0xe0, 0xfe])
        .raw(&[0x41, 0xc7, 0x80, 0xf0, 0, 0, 0, 0xff, 0x01, 0, 0]);
    looking_with(
        code,
        &[
            // mov edx, esi; shl edx, 24; mov [r8+0x310], edx
            0x89, 0xf2, 0xc1, 0xe2, 24, 0x41, 0x89, 0x90, 0x10, 0x03, 0, 0,
            // mov dword [r8+0x300], INIT
            0x41, 0xc7, 0x80, 0, 0x03, 0, 0, 0x00, 0x45, 0, 0,
            // mov dword [r8+0x300], SIPI to 0x30000
            0x41, 0xc7, 0x80, 0, 0x03, 0, 0, 0x30, 0x46, 0, 0,
        ],
        &[0xc6, 0x47, 0x04, 0x04, 0xc6, 0x47, 0x04, 0x08],
    )
}

fn looking(gives: &[u8]) -> Code {
    looking_with(Code::default(), &[], gives)
}

fn looking_with(before: Code, takes: &[u8], gives: &[u8]) -> Code {
    let short = |len: usize| u8::try_from(len).unwrap();
    // mov byte [rdi+4], 2; mov word [rdi+6], 1; mov dword [rdi+8], 0
    let mut taken = vec![0xc6, 0x47, 0x04, 0x02, 0x66, 0xc7, 0x47, 0x06, 1, 0];
    taken.extend([0xc7, 0x47, 0x08, 0, 0, 0, 0]);
    taken.extend(takes);
    // select: mov [rdi], esi; mov al, [rdi+4]; test al, 2; jz over
    let mut body = vec![
        0x89,
        0x37,
        0x8a,
        0x47,
        0x04,
        0xa8,
        0x02,
        0x74,
        short(taken.len()),
    ];
    body.extend(taken);
    // test al, 4; jz over
    body.extend([0xa8, 0x04, 0x74, short(gives.len())]);
    body.extend(gives);
    // inc esi; cmp esi, 4; jb body; jmp start
    body.extend([0xff, 0xc6, 0x83, 0xfe, 0x04]);
    let back = -(i32::try_from(body.len()).unwrap() + 6);
    body.extend([0x0f, 0x82]);
    body.extend(back.to_le_bytes());
    let back = -(i32::try_from(body.len()).unwrap() + 5 + 5);
    body.push(0xe9);
    body.extend(back.to_le_bytes());
    // mov edi, registers; start: mov esi, 0
    before
        .raw(&[0xbf, 0, 0, 0, 0xfd, 0xbe, 0, 0, 0, 0])
        .raw(&body)
}

fn start(name: &str, code: &Code, pmu: &str, cpus: &str) -> Option<Vm> {
    Vm::start(&format!("hotplug-{name}"), code, pmu, &["--cpus", cpus])
}

fn states(vm: &Vm) -> Vec<String> {
    let list: Value = vm.ask(&["vcpu", "list"]);
    let vcpus = list["vcpus"].as_array().unwrap();
    let state = |vcpu: &Value| vcpu["state"].as_str().unwrap().to_owned();
    vcpus.iter().map(state).collect()
}

fn info(vm: &Vm) -> Value {
    vm.ask(&["info"])
}

fn proc(vm: &Vm, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{what}", vm.child.id()))
}

/// How many entries a folder of its has.
fn count(vm: &Vm, what: &str) -> usize {
    fs::read_dir(proc(vm, what)).unwrap().count()
}

fn threads(vm: &Vm) -> Vec<String> {
    let name = |entry: Result<fs::DirEntry, _>| {
        let path = entry.ok()?.path().join("comm");
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    };
    let mut names: Vec<_> = fs::read_dir(proc(vm, "task"))
        .unwrap()
        .filter_map(name)
        .filter(|name| name.starts_with("vcpu"))
        .collect();
    names.sort();
    names
}

/// KiB, by a name of /proc/PID/status.
fn memory(vm: &Vm, name: &str) -> u64 {
    let status = fs::read_to_string(proc(vm, "status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ends it; what it printed.
fn end(mut vm: Vm) -> String {
    vm.tell(&["shutdown", "--force"]);
    let mut text = String::new();
    let mut stdout = vm.child.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(vm.child.wait().unwrap().code(), Some(0));
    text
}

#[test]
fn a_vcpu_comes_and_goes_and_its_thread_with_it() {
    let Some(vm) = start("one", &willing(), "type=software", "boot=2,max=4") else {
        return;
    };
    assert_eq!(info(&vm)["vcpus"], 2);
    assert_eq!(info(&vm)["possible_vcpus"], 4);
    assert_eq!(threads(&vm), ["vcpu0", "vcpu1"]);
    assert_eq!(vm.tell(&["vcpu", "add", "3"]), "vCPU 3: plugged in\n");
    assert_eq!(threads(&vm), ["vcpu0", "vcpu1", "vcpu3"]);
    assert_eq!(states(&vm), ["present", "present", "absent", "present"]);
    assert_eq!(info(&vm)["vcpus"], 3);
    let text = vm.tell(&["info"]);
    assert!(text.contains("vCPUs     3 of 4\n"), "{text}");
    // One that was there from the start may go as well, and come back.
    assert_eq!(
        vm.tell(&["vcpu", "remove", "1"]),
        "vCPU 1: not plugged in\n"
    );
    assert_eq!(threads(&vm), ["vcpu0", "vcpu3"]);
    vm.tell(&["vcpu", "add", "1"]);
    // All but one.
    vm.tell(&["vcpu", "remove", "1"]);
    vm.tell(&["vcpu", "remove", "3"]);
    assert_eq!(threads(&vm), ["vcpu0"]);
    assert_eq!(info(&vm)["vcpus"], 1);
    vm.tell(&["pause"]);
    vm.tell(&["resume"]);
    end(vm);
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let Some(vm) = start("no", &willing(), "off", "boot=2,max=4") else {
        return;
    };
    for (args, part) in [
        (["vcpu", "remove", "0"], "accepted: 1 to 3"),
        (["vcpu", "remove", "2"], "not plugged in"),
        (["vcpu", "remove", "4"], "accepted: 0 to 3"),
        (["vcpu", "add", "4"], "accepted: 0 to 3"),
        (["vcpu", "add", "0"], "plugged in already"),
        (["vcpu", "add", "1"], "plugged in already"),
    ] {
        let text = vm.refused(&args);
        assert!(text.contains(part), "{args:?}: {text}");
    }
    vm.tell(&["vcpu", "remove", "1"]);
    assert!(
        vm.refused(&["vcpu", "remove", "1"])
            .contains("not plugged in")
    );
    vm.tell(&["pause"]);
    assert!(
        vm.refused(&["vcpu", "add", "1"])
            .contains("resume it first")
    );
    vm.tell(&["resume"]);
    vm.tell(&["vcpu", "add", "1"]);
    let output = vm.ctl(&["vcpu", "add", "x"]);
    assert_eq!(output.status.code(), Some(2));
    end(vm);
}

/// Guest-contract §7.4: the guest's answer is passed on at once.
#[test]
fn a_guest_that_refuses_is_quoted() {
    let Some(vm) = start("busy", &unwilling(), "off", "boot=2,max=2") else {
        return;
    };
    for _ in 0..3 {
        let text = vm.refused(&["vcpu", "remove", "1"]);
        assert!(text.contains("0x82: device busy"), "{text}");
        assert_eq!(states(&vm), ["present", "present"]);
    }
    end(vm);
}

/// A guest without ACPI: the request runs into its time-out, and what was begun
/// is undone.
#[test]
fn a_guest_that_does_not_look_times_out() {
    let halted = Code::default().raw(&[0xfa, 0xf4, 0xeb, 0xfd]);
    let Some(vm) = start("deaf", &halted, "off", "boot=2,max=3") else {
        return;
    };
    let outcomes = thread::scope(|scope| {
        let add = scope.spawn(|| vm.refused(&["vcpu", "add", "2"]));
        let remove = scope.spawn(|| vm.refused(&["vcpu", "remove", "1"]));
        thread::sleep(Duration::from_secs(1));
        assert!(vm.refused(&["vcpu", "add", "2"]).contains("being added"));
        assert!(
            vm.refused(&["vcpu", "remove", "1"])
                .contains("being removed")
        );
        // The API serves others meanwhile.
        assert_eq!(info(&vm)["state"], "running");
        [add.join().unwrap(), remove.join().unwrap()]
    });
    assert!(
        outcomes[0].contains("did not look at vCPU 2 within 30 s"),
        "{outcomes:?}"
    );
    assert!(
        outcomes[1].contains("did not let vCPU 1 go within 30 s"),
        "{outcomes:?}"
    );
    assert_eq!(states(&vm), ["present", "present", "absent"]);
    assert_eq!(threads(&vm), ["vcpu0", "vcpu1"]);
    end(vm);
}

/// Rule G-704: what the vCPU did before is not to be seen, though KVM's vCPU is
/// the same.
#[test]
fn a_vcpu_that_comes_again_is_fresh() {
    let Some(vm) = start("fresh", &looking_around(), "type=software", "boot=1,max=3") else {
        return;
    };
    for vcpu in ["1", "2", "1", "1", "2"] {
        vm.tell(&["vcpu", "add", vcpu]);
        // It says its word and halts.
        thread::sleep(Duration::from_millis(100));
        vm.tell(&["vcpu", "remove", vcpu]);
    }
    assert_eq!(end(vm), ".....");
}

/// The eject is a register write by the thread that has to end.
#[test]
fn a_vcpu_may_eject_itself() {
    let Some(vm) = start("self", &leaving(), "type=software", "boot=1,max=2") else {
        return;
    };
    for _ in 0..5 {
        // It may be gone again before it is seen to be there.
        vm.ctl(&["vcpu", "add", "1"]);
        let start = Instant::now();
        while states(&vm) != ["present", "absent"] {
            assert!(start.elapsed() < PATIENCE, "{:?}", states(&vm));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(threads(&vm), ["vcpu0"]);
    }
    assert_eq!(end(vm), ".....");
}

/// Nothing is left over: no descriptor, thread or memory. `STORM` sets how many
/// operations.
#[test]
fn a_storm_leaves_nothing_behind() {
    let wanted = std::env::var("STORM").ok().and_then(|n| n.parse().ok());
    let operations: u32 = wanted.unwrap_or(1_000);
    let Some(vm) = start("storm", &looking_around(), "type=software", "boot=1,max=4") else {
        return;
    };
    let (mut there, mut random) = ([true, false, false, false], 1_u32);
    let mut change = |vm: &Vm| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let vcpu = usize::try_from((random >> 16) % 3).unwrap() + 1;
        let what = if there[vcpu] { "remove" } else { "add" };
        vm.tell(&["vcpu", what, &vcpu.to_string()]);
        there[vcpu] = !there[vcpu];
        there
    };
    // What is allocated once.
    for _ in 0..20 {
        change(&vm);
    }
    let fds = count(&vm, "fd");
    let others = count(&vm, "task") - threads(&vm).len();
    let before = memory(&vm, "VmRSS");
    for n in 0..operations {
        let there = change(&vm);
        let due = (0..4).filter(|&n| there[n]).map(|n| format!("vcpu{n}"));
        let due: Vec<_> = due.collect();
        assert_eq!(threads(&vm), due, "after {n}");
        assert_eq!(count(&vm, "task"), others + due.len(), "after {n}");
    }
    // The last client's descriptor goes by itself.
    let start = Instant::now();
    while count(&vm, "fd") != fds {
        assert!(
            start.elapsed() < PATIENCE,
            "{} descriptors, not {fds}",
            count(&vm, "fd")
        );
        thread::sleep(Duration::from_millis(5));
    }
    let grown = memory(&vm, "VmRSS").saturating_sub(before);
    assert!(
        grown < 1024,
        "{grown} KiB more after {operations} operations"
    );
    end(vm);
}
