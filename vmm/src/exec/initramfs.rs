//! The guest's initramfs, made in memory: its first program, the job, a few modules.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use guest_words::{FOLDER, JOB, Job, MODULES};
use rustix::fs::{MemfdFlags, memfd_create};

use super::modules::GuestModule;

/// The static program that build.rs has built from `vmm/init`.
const INIT: &[u8] = include_bytes!(env!("PERFVISOR_INIT"));

/// File types of cpio(5), with their permissions.
const FOLDER_MODE: u32 = 0o040_755;
const PROGRAM_MODE: u32 = 0o100_755;
const FILE_MODE: u32 = 0o100_600;
const DEVICE_MODE: u32 = 0o020_600;
/// The numbers of `/dev/console`, which Linux opens for the first program.
const CONSOLE: (u32, u32) = (5, 1);

/// An initramfs in a file that has no name and goes with this value.
#[derive(Debug)]
pub(super) struct GuestInitramfs {
    file: File,
}

impl GuestInitramfs {
    /// The archive of a job with these modules.
    ///
    /// # Errors
    /// If the host has no memory for it.
    pub(super) fn create(job: &Job, modules: &[GuestModule]) -> io::Result<Self> {
        let mut archive = NewArchive::default();
        archive.entry("dev", FOLDER_MODE, (0, 0), &[]);
        archive.entry("dev/console", DEVICE_MODE, CONSOLE, &[]);
        archive.entry("init", PROGRAM_MODE, (0, 0), INIT);
        let folder = FOLDER.trim_start_matches('/');
        archive.entry(folder, FOLDER_MODE, (0, 0), &[]);
        archive.entry(
            &format!("{folder}/{JOB}"),
            FILE_MODE,
            (0, 0),
            &job.to_bytes(),
        );
        archive.entry(&format!("{folder}/{MODULES}"), FOLDER_MODE, (0, 0), &[]);
        for (number, module) in modules.iter().enumerate() {
            let name = format!("{folder}/{MODULES}/{number:02}-{}", module.name);
            archive.entry(&name, FILE_MODE, (0, 0), &module.bytes);
        }
        let mut file = File::from(memfd_create("perfvisor-initramfs", MemfdFlags::CLOEXEC)?);
        file.write_all(&archive.finish())?;
        Ok(Self { file })
    }

    /// A path to the file, for this process, as long as this value lives.
    #[must_use]
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// A cpio archive ("newc": Linux, initramfs buffer format).
#[derive(Debug, Default)]
struct NewArchive {
    bytes: Vec<u8>,
    inode: u32,
}

impl NewArchive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let (major, minor) = device;
        let fields = [
            self.inode,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            length(data.len()),
            0, // the file system's device
            0,
            major,
            minor,
            length(name.len() + 1),
            0, // checksum
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// A length in a header: modules and programs are far below 4 GiB.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_archive_holds_program_job_and_modules_in_order() {
        let job = Job {
            command: vec!["true".into()],
            ..Job::default()
        };
        let modules = ["fuse.ko.xz", "virtiofs.ko.xz"].map(|name| GuestModule {
            name: name.into(),
            bytes: vec![1, 2, 3],
        });
        let initramfs = GuestInitramfs::create(&job, &modules).unwrap();
        let bytes = fs::read(initramfs.path()).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut at = 0;
        let mut names = Vec::new();
        let field = |at: usize, number: usize| {
            let start = at + 6 + number * 8;
            let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name) = (field(at, 6), field(at, 11));
            names.push(String::from_utf8_lossy(&bytes[at + 110..at + 110 + name - 1]).into_owned());
            at = (at + 110 + name).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(
            names,
            [
                "dev",
                "dev/console",
                "init",
                "perfvisor",
                "perfvisor/job",
                "perfvisor/modules",
                "perfvisor/modules/00-fuse.ko.xz",
                "perfvisor/modules/01-virtiofs.ko.xz",
                "TRAILER!!!"
            ]
        );
    }

    /// The guest's first program assumes nothing of the host's libraries.
    #[test]
    fn the_first_program_is_static() {
        assert_eq!(&INIT[..4], b"\x7fELF");
        assert!(!INIT.windows(14).any(|bytes| bytes == b"/ld-linux-x86-"));
    }
}
