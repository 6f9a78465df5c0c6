//! Commands and flags that do not exist, or go without a value that others demand.

use std::process::Command;

use super::{Scratch, WHAT_WORKS, elf, refuses};

/// Runs the binary, which refuses with status 2, and returns its line.
fn refusal(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    text
}

#[test]
fn a_missing_command_is_named_with_the_choices() {
    let ctl = |word: &'static str| ["ctl", "--api-socket", "/x", word];
    let (vcpu, monitor) = (ctl("vcpu"), ctl("monitor"));
    for (args, command, accepted) in [
        (&[][..], "perfvisor", "run, exec, doctor or ctl"),
        (
            &vcpu[..3],
            "perfvisor ctl",
            "vcpu, snapshot, migrate or shutdown",
        ),
        (&vcpu, "perfvisor ctl vcpu", "add, remove or list"),
        (&monitor, "perfvisor ctl monitor", "add, remove or list"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(
            text.starts_with("perfvisor: no command given; use "),
            "{text}"
        );
        let end = format!("{accepted} (see {command} --help)\n");
        assert!(text.ends_with(&end), "{text}");
    }
}

#[test]
fn a_misspelt_command_or_flag_is_told_the_right_one() {
    for (args, said) in [
        (
            &["rnu", "--kernel", "x"][..],
            "no command 'rnu'; did you mean 'run'? (see perfvisor --help)",
        ),
        (&["docter"], "did you mean 'doctor'?"),
        (
            &["start"],
            "no command 'start'; use run, exec, doctor or ctl",
        ),
        (
            &["ctl", "--api-socket", "/x", "puase"],
            "did you mean 'pause'? (see perfvisor ctl --help)",
        ),
        (
            &["ctl", "--api-socket", "/x", "vcpu", "ad", "1"],
            "did you mean 'add'? (see perfvisor ctl vcpu --help)",
        ),
        (
            &["run", "--kernel", "x", "--memroy", "size=1G"],
            "no flag --memroy; did you mean --memory?",
        ),
        (
            &["run", "--kernel", "x", "--colour"],
            "no flag --colour (see perfvisor run --help)",
        ),
        (
            &["--kernel", "x"],
            "no command before --kernel; use perfvisor run --kernel",
        ),
    ] {
        let text = refusal(args);
        assert!(text.contains(said), "{args:?}: {text}");
    }
}

/// Nobody who comes from another VMM is told that a similar argument exists.
#[test]
fn the_flags_of_other_vmms_are_known() {
    for (args, said) in [
        (
            &["-drive", "file=a.img"][..],
            "-drive is no flag of perfvisor run; use --disk path=P",
        ),
        (&["--rwdisk=a.img"], "use --disk path=P"),
        (&["-nic", "user"], "use --net "),
        (&["-virtfs", "x"], "use --fs tag=NAME,path=FOLDER"),
        (&["--cid", "3"], "use --vsock cid=N"),
        (&["-chardev", "stdio"], "use --serial or --console"),
        (&["-rng", "x"], "use --rng on"),
        (&["--balloon", "size=0"], "no balloons yet; use --memory"),
        (&["--tpm", "socket=x"], "no TPMs yet; use "),
        (&["--config-file", "vm.json"], "use --config FILE"),
        (&["-loadvm", "x"], "use --restore DIR"),
        (&["-incoming", "x"], "no live migrations yet; use "),
        (&["--seccomp", "true"], "no sandboxes yet; use "),
        (
            &["-m", "512M"],
            "-m is no flag of perfvisor run; use --memory size=512M",
        ),
        (
            &["--mem", "512"],
            "--mem is no flag of perfvisor run; use --memory",
        ),
        (
            &["-smp", "4"],
            "-smp is no flag of perfvisor run; use --cpus boot=N",
        ),
        (&["--vcpus", "4"], "use --cpus boot=N"),
        (
            &["-append", "quiet"],
            "-append is no flag of perfvisor run; use --cmdline",
        ),
        (
            &["-initrd", "x"],
            "-initrd is no flag of perfvisor run; use --initramfs",
        ),
        (&["-machine", "q35"], "use none"),
        (&["--api-sock", "/x"], "use --api-socket path=PATH"),
    ] {
        let text = refusal(&[&["run", "--kernel", "x"], args].concat());
        assert!(text.contains(said), "{args:?}: {text}");
        assert!(!text.contains("similar"), "{text}");
        let at_top = refusal(args);
        assert!(at_top.contains(said), "{args:?}: {at_top}");
    }
}

/// `run` and `ctl` take the socket's path with its key and without.
#[test]
fn a_socket_may_be_written_in_both_ways() {
    let scratch = Scratch::new("socket-words");
    let kernel = scratch.file("kernel", &elf());
    let dir = scratch.0.display();
    for prefix in ["path=", ""] {
        let socket = format!("{prefix}{dir}/none/api");
        let parts = ["--api-socket", "cannot open its directory", WHAT_WORKS];
        refuses(&["--kernel", &kernel, "--api-socket", &socket], 2, &parts);
        let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
            .args(["ctl", "--api-socket", &socket, "info"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!(" {dir}/none/api")), "{text}");
    }
    let text = refusal(&["ctl", "--api-socket", "file=/x", "info"]);
    assert!(text.contains("path=PATH or PATH"), "{text}");
}

/// The host PMU is the default also of a value that says something else.
#[test]
fn a_pmu_without_a_type_is_of_type_auto() {
    let scratch = Scratch::new("type");
    let kernel = scratch.file("kernel", &elf());
    let none = scratch.0.join("kvm").display().to_string();
    let args = [
        "--kernel",
        &kernel,
        "--kvm-device",
        &none,
        "--pmu",
        "model=intel-v2,gp=4",
    ];
    refuses(&args, 1, &["--kvm-device: cannot open"]);
}

/// Values that no flag takes are refused by the parser, whatever looks at the words before.
#[test]
fn an_empty_value_and_one_that_is_no_text_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let no_text = OsStr::from_bytes(b"\xff\xfe");
    for args in [
        ["--kernel", ""].map(OsStr::new),
        ["--restore", ""].map(OsStr::new),
        [OsStr::new("--cmdline"), no_text],
        [OsStr::new("--pmu"), no_text],
    ] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_perfvisor"));
        let output = run.arg("run").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    }
}
