//! Files that flags name: of the wrong kind, or larger than anything can be.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::{Scratch, WHAT_WORKS, bzimage, cpio, elf, refuses};

impl Scratch {
    /// A FIFO, on which nobody waits at the other end.
    pub(super) fn fifo(&self, name: &str) -> String {
        let path = self.0.join(name);
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success(), "{name}");
        path.display().to_string()
    }

    /// A file with a hole behind its bytes.
    fn sparse(&self, name: &str, bytes: &[u8], size: u64) -> String {
        let path = self.file(name, bytes);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        path
    }
}

/// A newc archive with one file of `len` zeros.
fn cpio_with(len: usize) -> Vec<u8> {
    let mut bytes = b"070701".to_vec();
    for number in [1, 0o100_644, 0, 0, 1, 0, len, 0, 0, 0, 0, 2, 0] {
        bytes.extend(format!("{number:08x}").bytes());
    }
    bytes.extend(b"a\0");
    bytes.resize(bytes.len() + len, 0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(cpio());
    bytes
}

/// Each flag that names a file to read takes regular files only, and says so at once.
#[test]
fn nothing_is_read_but_regular_files() {
    let scratch = Scratch::new("kinds");
    let kernel = scratch.file("kernel", &elf());
    let fifo = scratch.fifo("fifo");
    let socket = scratch.0.join("socket").display().to_string();
    let _listener = UnixListener::bind(&socket).unwrap();
    let dir = scratch.0.display().to_string();
    for (path, kind) in [
        (fifo.as_str(), "a FIFO"),
        (&socket, "a socket"),
        (&dir, "a directory"),
        ("/dev/zero", "a character device"),
        ("/dev/tty", "a character device"),
    ] {
        refuses(
            &["--kernel", path],
            2,
            &["--kernel", path, kind, WHAT_WORKS],
        );
        let parts = ["--initramfs", path, kind, WHAT_WORKS];
        refuses(&["--kernel", &kernel, "--initramfs", path], 2, &parts);
        let filter = format!("type=software,filter=@{path}");
        let parts = ["--config", path, kind, WHAT_WORKS];
        refuses(&["--config", path], 2, &parts);
        let parts = ["--pmu filter=", path, kind, WHAT_WORKS];
        refuses(&["--kernel", &kernel, "--pmu", &filter], 2, &parts);
    }
}

/// A filter is short; whatever else is behind the name is not read to its end.
#[test]
fn a_filter_of_any_size_is_refused_at_once() {
    let scratch = Scratch::new("filter");
    let kernel = scratch.file("kernel", &elf());
    let huge = scratch.sparse("huge", b"{}", 1 << 40);
    let filter = format!("type=software,filter=@{huge}");
    let parts = ["--pmu filter=", "too long", WHAT_WORKS];
    refuses(&["--kernel", &kernel, "--pmu", &filter], 2, &parts);
}

/// The size of a file comes before its bytes.
#[test]
fn an_initramfs_larger_than_the_memory_is_not_read() {
    let scratch = Scratch::new("holes");
    let kernel = scratch.file("kernel", &elf());
    for (name, bytes) in [("cpio", cpio()), ("gzip", b"\x1f\x8b".to_vec())] {
        let huge = scratch.sparse(name, &bytes, 20 << 30);
        refuses(
            &["--kernel", &kernel, "--initramfs", &huge],
            2,
            &["--memory: 512 MiB", "at least 20483 MiB"],
        );
    }
}

/// A memory that a refusal names has room for the kernel, the archive, and a tmpfs that
/// holds its files in half of what is free.
#[test]
fn the_least_memory_counts_the_unpacked_files() {
    let scratch = Scratch::new("room");
    let kernel = scratch.file("kernel", &bzimage());
    let archive = scratch.file("archive", &cpio_with(20 << 20));
    let args = |size: &'static str, cmdline: &'static str| {
        [
            "--kernel",
            &kernel,
            "--initramfs",
            &archive,
            "--memory",
            size,
            "--cmdline",
            cmdline,
        ]
    };
    // 65 of the kernel, 20 of the archive, 40 for its files, 4 for Linux, and 1/64.
    let parts = ["--memory: 100 MiB", "at least 132 MiB", WHAT_WORKS];
    refuses(&args("size=100M", "console=ttyS0"), 2, &parts);
    // Also where the files alone are too large: the size is enough at the first try.
    let parts = ["--memory: 80 MiB", "at least 132 MiB", WHAT_WORKS];
    refuses(&args("size=80M", "console=ttyS0"), 2, &parts);
    // No limit for a ramfs.
    let parts = ["--memory: 100 MiB", "at least 111 MiB", WHAT_WORKS];
    refuses(&args("size=100M", "rootfstype=ramfs"), 2, &parts);
}
