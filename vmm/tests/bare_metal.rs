//! The binary with guests of a few instructions, on `/dev/kvm`: the machine
//! contract of bare-metal payloads, and how the VMM ends.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Output};

use common::{Code, Guest};

fn check(output: &Output, status: i32, console: &str, reason: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), console);
    assert!(stderr.contains(reason), "{stderr}");
    assert!(stderr.lines().count() <= 1, "{stderr}");
}

#[test]
fn a_payload_prints_and_powers_off() {
    let code = Code::default().text("hi\n").power_off();
    if let Some(guest) = Guest::new("prints", &code) {
        check(&guest.run(&[]), 0, "hi\n", "");
        check(&guest.run(&["--cpus", "boot=4"]), 0, "hi\n", "");
        check(&guest.run(&["--serial", "null"]), 0, "", "");
        let log = guest.0.with_extension("log");
        let serial = format!("file={}", log.display());
        check(&guest.run(&["--serial", &serial]), 0, "", "");
        assert_eq!(fs::read(&log).unwrap(), b"hi\n");
        fs::remove_file(log).unwrap();
    }
}

#[test]
fn both_resets_end_the_vm_with_status_zero() {
    for (name, port, value) in [("acpi", 0x600, 0x01), ("i8042", 0x64, 0xfe)] {
        let code = Code::default().out(port, value).text("too late");
        if let Some(guest) = Guest::new(name, &code) {
            check(&guest.run(&[]), 0, "", "");
        }
    }
}

/// The guest boots again and again, its console's file goes on, and a signal ends the VM.
/// Lines of the log have the VM's name.
/// A signal ends it whenever it comes: it is not lost between two lives.
#[test]
fn a_guest_that_resets_itself_can_boot_again() {
    let code = Code::default().text("hi\n").out(0x600, 0x01);
    let Some(guest) = Guest::new("restart", &code) else {
        return;
    };
    for _ in 0..3 {
        boots_again_until_it_is_told_to_end(&guest);
    }
}

fn boots_again_until_it_is_told_to_end(guest: &Guest) {
    let log = guest.0.with_extension("log");
    let serial = format!("file={}", log.display());
    let args = [
        "--serial",
        &serial,
        "--on-reboot",
        "restart",
        "--name",
        "vm-7",
    ];
    let mut vm = guest.start_under(&["env", "PERFVISOR_LOG=info"], "off", &args);
    let is_there = || fs::read(&log).is_ok_and(|text| text.starts_with(b"hi\nhi\nhi\n"));
    while !is_there() {
        assert_eq!(vm.try_wait().unwrap(), None, "it goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = vm.id().to_string();
    let killed = std::process::Command::new("kill").arg(&id).status();
    assert!(killed.unwrap().success());
    let output = vm.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{said}");
    let line = format!(" vm-7[{id}] INFO ");
    assert!(said.contains(&line), "{said}");
    assert!(said.contains("the guest asked for a reset"), "{said}");
    fs::remove_file(log).unwrap();
}

#[test]
fn absent_ports_read_as_ones_and_port_61_as_zero() {
    let mut code = Code::default();
    for port in [0x71, 0x80, 0xcfc] {
        // cmp al, 0xff; je +2; ud2
        code = code
            .out(port, 0)
            .input(port)
            .raw(&[0x3c, 0xff, 0x74, 2, 0x0f, 0x0b]);
    }
    // add al, 'A'
    code = code.input(0x61).raw(&[0x04, b'A']).send().power_off();
    if let Some(guest) = Guest::new("ports", &code) {
        check(&guest.run(&[]), 0, "A", "");
    }
}

/// Each access of REP INS and REP OUTS is one of the device's, in order.
#[test]
fn string_instructions_access_a_port_once_for_each_item() {
    // cld; mov edi, 3 MiB; mov ecx, 5; mov dx, 0x3fd; rep insb: the line's status
    let code = Code::default()
        .raw(&[0xfc, 0xbf, 0, 0, 0x30, 0, 0xb9, 5, 0, 0, 0])
        .raw(&[0x66, 0xba, 0xfd, 0x03, 0xf3, 0x6c]);
    // mov esi, 3 MiB; mov ecx, 5; mov dx, 0x3f8; rep outsb
    let code = code
        .raw(&[0xbe, 0, 0, 0x30, 0, 0xb9, 5, 0, 0, 0])
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xf3, 0x6e])
        .power_off();
    if let Some(guest) = Guest::new("strings", &code) {
        check(&guest.run(&[]), 0, "`````", "");
    }
}

/// Each vCPU takes a descriptor. The soft limit is what a login has, the hard one what
/// may be used.
#[test]
fn a_soft_limit_of_open_files_does_not_limit_the_vcpus() {
    let code = Code::default().text("hi\n").power_off();
    let Some(guest) = Guest::new("open-files", &code) else {
        return;
    };
    let limit = ["prlimit", "--nofile=40:1024"];
    let child = guest.start_under(&limit, "off", &["--cpus", "boot=48"]);
    check(&child.wait_with_output().unwrap(), 0, "hi\n", "");
}

#[test]
fn a_triple_fault_is_an_error_with_a_reason() {
    let code = Code::default().raw(&[0x0f, 0x0b]);
    if let Some(guest) = Guest::new("ud2", &code) {
        check(&guest.run(&[]), 1, "", "triple-faulted on vCPU 0");
    }
}

/// What a multiboot kernel may rely on ("Multiboot Specification", "Machine
/// state", "Boot information format").
#[test]
fn a_multiboot_payload_finds_what_it_is_promised() {
    let guest = Guest::of("multiboot", &multiboot_code().multiboot());
    let Some(guest) = guest else { return };
    let module = guest.0.with_extension("module");
    fs::write(&module, b"NR_CPUS=1").unwrap();
    let name = module.display().to_string();
    let args = ["--debug-exit", "--cmdline", "-x", "--initramfs", &name];
    let output = guest.run(&args);
    fs::remove_file(module).unwrap();
    let path = guest.0.display().to_string();
    let first = path.chars().next().unwrap();
    // The name of the kernel; the module; 639 KiB and 15 MiB; the map's first
    // range; the loader.
    check(
        &output,
        33,
        &format!("{first}N\u{2}<\u{14}P"),
        "with 0x10 at port 0xf4",
    );
    let status = guest.run(&["--serial", "null"]).status.code();
    assert_eq!(status, Some(0), "without the port it goes on to power off");
}

/// A suite of multiboot payloads may stay in 32-bit mode, where no RDPMC is
/// rewritten: its counters are there, and it is said once.
#[test]
fn a_payload_in_32_bit_mode_has_counters() {
    // mov ecx, index; mov eax, value; xor edx, edx; wrmsr
    let write = |code: Code, index: u32, value: u32| {
        code.raw(&[0xb9])
            .raw(&index.to_le_bytes())
            .raw(&[0xb8])
            .raw(&value.to_le_bytes())
            .raw(&[0x31, 0xd2, 0x0f, 0x30])
    };
    let code = write(Code::default(), 0xc1, 0x1234);
    // xor eax, eax; rdmsr; cmp eax, 0x1234; je +2; ud2
    let code = code
        .raw(&[0x31, 0xc0, 0x0f, 0x32, 0x3d, 0x34, 0x12, 0, 0])
        .raw(&[0x74, 2, 0x0f, 0x0b]);
    let code = write(write(code, 0x38f, 1), 0x186, 0x0043_003c);
    // mov ecx, 0xc1; rdmsr; cmp eax, 0x1234; ja +2; ud2
    let code = code
        .raw(&[0xb9, 0xc1, 0, 0, 0, 0x0f, 0x32, 0x3d, 0x34, 0x12, 0, 0])
        .raw(&[0x77, 2, 0x0f, 0x0b]);
    let image = code.text("ok").power_off().multiboot();
    let Some(guest) = Guest::of("counters-32", &image) else {
        return;
    };
    let child = guest.start_with_pmu("type=software,model=intel-v2", &[]);
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_eq!(output.stdout, b"ok");
    assert_eq!(log.matches("only RDMSR reads counters").count(), 1, "{log}");
}

/// Prints the first letter of the CPU's vendor.
#[test]
fn a_guest_whose_pmu_was_taken_away_sees_the_cpu_of_pmu_off() {
    // xor eax, eax; cpuid; mov al, bl
    let code = Code::default().raw(&[0x31, 0xc0, 0x0f, 0xa2, 0x88, 0xd8]);
    let Some(guest) = Guest::new("vendor", &code.send().power_off()) else {
        return;
    };
    let vendor = |pmu| {
        let child = guest.start_with_pmu(pmu, &[]);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{pmu}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let own = vendor("off");
    assert_eq!(vendor("type=software,rdpmc=off"), own);
    let other = if own == "A" { "intel-v2" } else { "amd-v2" };
    let named = format!("type=software,model={other},rdpmc=off");
    assert_eq!(vendor(&named), own, "no PMU of another vendor either");
}

/// Checks EAX, CR0 and flags, and prints bytes from the information structure.
fn multiboot_code() -> Code {
    // cmp eax, imm32; je +2; ud2
    let code = Code::default().raw(&[0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x74, 2, 0x0f, 0x0b]);
    // mov eax, cr0; and eax, 0x80000001; cmp eax, 1; je +2; ud2
    let code = code
        .raw(&[0x0f, 0x20, 0xc0, 0x25, 1, 0, 0, 0x80])
        .raw(&[0x83, 0xf8, 1, 0x74, 2, 0x0f, 0x0b]);
    // mov esi, [ebx + n]; mov al, [esi]
    let byte_at = |code: Code, field: u8| code.raw(&[0x8b, 0x73, field, 0x8a, 0x06]).send();
    let code = byte_at(code, 16);
    // mov esi, [ebx + 24]; mov esi, [esi]; mov al, [esi]: the first module
    let code = code.raw(&[0x8b, 0x73, 24, 0x8b, 0x36, 0x8a, 0x06]).send();
    // mov al, [ebx + 5]: the second byte of 639 is 2; mov al, [ebx + 9]: 15,360 is 0x3c00
    let code = code
        .raw(&[0x8a, 0x43, 5])
        .send()
        .raw(&[0x8a, 0x43, 9])
        .send();
    // The length of an entry of the memory map is 20; the loader's name.
    byte_at(byte_at(code, 48), 64).out(0xf4, 0x10).power_off()
}

/// Prints `R`, then sends back what it receives.
fn echo() -> Code {
    Code::default()
        .text("R")
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz again
        .raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 1, 0x74, 0xf7])
        // mov dx, 0x3f8; in al, dx; out dx, al; jmp again
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xef])
}

fn read(child: &mut Child, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

#[test]
fn input_reaches_the_guest_and_a_signal_ends_it() {
    let Some(guest) = Guest::new("echo", &echo()) else {
        return;
    };
    let mut child = guest.start(&[]);
    assert_eq!(read(&mut child, 1), b"R");
    // More than the port's buffer holds; not a terminal, so Ctrl-A is data.
    let typed: Vec<u8> = (0..=255u8).cycle().take(700).collect();
    child.stdin.as_mut().unwrap().write_all(&typed).unwrap();
    assert_eq!(read(&mut child, typed.len()), typed);
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    check(&output, 143, "", "ended by signal 15");
}

/// The host CPUs that a thread of `child` may run on, in the kernel's words.
fn allowed(child: &Child, thread: &str) -> Option<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    for task in tasks.flatten() {
        let file = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if file("comm").trim() == thread {
            let status = file("status");
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            return line.map(|list| list.trim().to_owned());
        }
    }
    None
}

#[test]
fn a_vcpu_runs_where_it_is_told_and_the_others_where_the_vmm_may() {
    let Some(guest) = Guest::new("affinity", &echo()) else {
        return;
    };
    let mut child = guest.start(&["--cpus", "boot=2,affinity=[1@[0]]"]);
    assert_eq!(read(&mut child, 1), b"R");
    assert_eq!(allowed(&child, "vcpu1").as_deref(), Some("0"));
    assert_eq!(allowed(&child, "vcpu0"), allowed(&child, "perfvisor"));
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    check(
        &child.wait_with_output().unwrap(),
        143,
        "",
        "ended by signal 15",
    );
}
