//! What `perfvisor exec` says: status 2 for a wrong flag, 125 for a guest that cannot be.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Scratch;

/// Runs `perfvisor exec` in a folder; returns its status and its only line.
fn exec(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .arg("exec")
        .args(args)
        .args(["--", "true"])
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}");
    (output.status.code().unwrap(), text)
}

/// A bzImage as far as `exec` looks for its version.
fn kernel(version: &str) -> Vec<u8> {
    let mut bytes = super::bzimage();
    bytes[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    bytes[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
    bytes
}

#[test]
fn a_wrong_flag_is_status_2() {
    let scratch = Scratch::new("exec-flags");
    for (args, said) in [
        (&["--cpus", "0"][..], "--cpus"),
        (&["--cpus", "many"], "--cpus"),
        (&["--memory", "1K"], "--memory"),
        (&["--pmu", "type=none"], "--pmu"),
        (&["--timeout", "0"], "--timeout"),
        (&["--user", "no such user"], "--user"),
        (&["--env", "=x"], "--env"),
        (&["--bogus"], "no flag --bogus"),
    ] {
        let (status, text) = exec(&scratch.0, args);
        assert_eq!(status, 2, "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_perfvisor"))
        .arg("exec")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("COMMAND") && text.lines().count() == 1,
        "{text}"
    );
}

#[test]
fn a_folder_that_cannot_be_shared_is_status_125() {
    let scratch = Scratch::new("exec-folders");
    let file = scratch.file("file", b"");
    fs::create_dir_all(scratch.0.join("a/b")).unwrap();
    for (args, said) in [
        (&["--rw", "missing"][..], "--rw: cannot use missing"),
        (&["--ro", &file], "is no folder"),
        (&["--rw", "a", "--ro", "a/b"], "lies inside --rw"),
        (&["--rw", "a/b", "--rw", "a"], "lies inside --rw"),
        (&["--rw", "/"], "--rw: / cannot be shared"),
        (&["--root", "missing"], "--root: cannot use missing"),
    ] {
        let (status, text) = exec(&scratch.0, args);
        assert_eq!(status, 125, "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
    for folder in ["/", "/proc"] {
        let (status, text) = exec(Path::new(folder), &[]);
        assert_eq!(status, 125, "{folder}: {text}");
        assert!(text.contains("the working directory"), "{text}");
    }
}

#[test]
fn a_kernel_that_cannot_be_the_guests_is_status_125() {
    let scratch = Scratch::new("exec-kernel");
    let no_kernel = scratch.file("text", b"text");
    let bare = scratch.file("bare", &kernel("9.9-without-modules"));
    for (path, said) in [
        ("missing", "cannot read missing"),
        (".", "is not a regular file but a directory"),
        (&no_kernel, "is no Linux bzImage"),
        (
            &bare,
            "/lib/modules/9.9-without-modules has no modules.builtin",
        ),
    ] {
        let (status, text) = exec(&scratch.0, &["--kernel", path]);
        assert_eq!(status, 125, "{path}: {text}");
        assert!(text.contains(said), "{path}: {text}");
    }
    // Its package beside it, with a driver missing.
    let boot = scratch.0.join("boot");
    let modules = scratch.0.join("lib/modules/9.9");
    fs::create_dir_all(&boot).unwrap();
    fs::create_dir_all(&modules).unwrap();
    fs::write(boot.join("vmlinuz-9.9"), kernel("9.9")).unwrap();
    fs::write(modules.join("modules.dep"), "kernel/overlay.ko:\n").unwrap();
    let built_in = "kernel/virtio_pci.ko\nkernel/virtio_console.ko\n";
    fs::write(modules.join("modules.builtin"), built_in).unwrap();
    let (status, text) = exec(&scratch.0, &["--kernel", "boot/vmlinuz-9.9"]);
    assert_eq!(status, 125, "{text}");
    assert!(text.contains("has no virtiofs, which exec needs"), "{text}");
}

/// With a kernel whose drivers are all built in: nothing is started before this is seen.
#[test]
fn a_memory_too_small_for_the_kernel_is_status_125_with_one_that_is_enough() {
    let scratch = Scratch::new("exec-memory");
    let boot = scratch.0.join("boot");
    let modules = scratch.0.join("lib/modules/9.9");
    fs::create_dir_all(&boot).unwrap();
    fs::create_dir_all(&modules).unwrap();
    fs::write(boot.join("vmlinuz-9.9"), kernel("9.9")).unwrap();
    let all = "a/virtio_pci.ko\na/virtio_console.ko\na/virtiofs.ko\na/overlay.ko\n";
    fs::write(modules.join("modules.builtin"), all).unwrap();
    fs::write(modules.join("modules.dep"), "").unwrap();
    let args = ["--kernel", "boot/vmlinuz-9.9", "--memory", "8M"];
    let (status, text) = exec(&scratch.0, &args);
    assert_eq!(status, 125, "{text}");
    assert!(
        text.contains("--memory: 8 MiB are too little") && text.contains("at least"),
        "{text}"
    );
}
