//! A file that a flag names for output: opened without following a link or waiting for
//! anybody, locked against a second writer, and untouched until it is taken.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::file_lock::{self, LockKind, LockRefusal};
use super::files::{FileFault, FileId, must_be_regular};

/// File systems whose files are the kernel's words and switches (statfs(2)): what is written
/// there is an order, and not kept.
const OF_THE_KERNEL: [i64; 9] = [
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::SECURITYFS_MAGIC,
    libc::SELINUX_MAGIC,
    libc::BPF_FS_MAGIC,
];

fn is_the_kernels(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    Ok(OF_THE_KERNEL.contains(&kind))
}

/// Whether this process is the only writer.
#[derive(Debug)]
pub enum Lock {
    /// It is, until the file is closed.
    Ours,
    /// Another process has locked the file for writing.
    Another,
    /// The host has no such locks here, or a reader holds one against writers: whoever
    /// may only read must not keep others from writing.
    NotPossible(io::Error),
}

/// A regular file that is open for writing.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    id: FileId,
    path: PathBuf,
    /// Whether the file goes with this value: it was created, and is not taken yet.
    goes: bool,
}

impl OutputFile {
    /// Opens a regular file, or creates it. Does not follow a link at the end of the
    /// path. A file that was there stays as it is until [`OutputFile::take`]; a new
    /// one goes with the value unless it was taken.
    ///
    /// # Errors
    /// If it is of another kind, or the host refuses it.
    pub fn open(path: &Path) -> Result<Self, FileFault> {
        // To open a device may already do something: look first.
        let new = match std::fs::symlink_metadata(path) {
            Ok(metadata) => {
                must_be_regular(&metadata)?;
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error.into()),
        };
        let file = OpenOptions::new()
            .append(true)
            .create_new(new)
            // Another file may have taken its place meanwhile: a link, a FIFO.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        must_be_regular(&metadata)?;
        if is_the_kernels(&file)? {
            return Err(FileFault::Kind("a file of the kernel's own"));
        }
        Ok(Self {
            file,
            id: FileId::of(&metadata),
            path: path.to_owned(),
            goes: new,
        })
    }

    /// Which file it is.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Another handle to write by, at the end of the file.
    ///
    /// # Errors
    /// If the host gives no descriptor.
    pub fn writer(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Takes the file: it stays, and is emptied unless `append`.
    ///
    /// # Errors
    /// If the host does not empty it.
    pub fn take(&mut self, append: bool) -> io::Result<()> {
        if !append {
            self.file.set_len(0)?;
        }
        self.goes = false;
        Ok(())
    }

    /// Locks the file against other writers who lock (fcntl(2), "open file description
    /// locks").
    pub fn lock(&self) -> Lock {
        match file_lock::lock(&self.file, LockKind::Write) {
            Ok(()) => Lock::Ours,
            Err(LockRefusal::Writer) => Lock::Another,
            // Only who may write can hold a lock for writing.
            Err(LockRefusal::Reader) => {
                Lock::NotPossible(io::Error::other("a reader has locked it"))
            }
            Err(LockRefusal::Host(error)) => Lock::NotPossible(error),
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        let ours = |metadata| FileId::of(&metadata) == self.id;
        if self.goes && std::fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // What cannot be removed is an empty file: the refusal says more.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_file_stays_as_it_is_until_it_is_taken() {
        let scratch = Scratch::new("output-taken");
        let path = scratch.0.join("log");
        drop(OutputFile::open(&path).unwrap());
        assert!(!path.exists(), "a new file that nobody took is gone");
        fs::write(&path, "old").unwrap();
        drop(OutputFile::open(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut output = OutputFile::open(&path).unwrap();
        output.take(true).unwrap();
        output.writer().unwrap().write_all(b" and new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old and new");
        output.take(false).unwrap();
        output.writer().unwrap().write_all(b"new").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_of_the_kernels_own_is_none() {
        for path in ["/proc/self/mem", "/proc/self/oom_score_adj"] {
            let fault = OutputFile::open(Path::new(path)).unwrap_err();
            assert!(
                matches!(fault, FileFault::Kind("a file of the kernel's own")),
                "{path}: {fault:?}"
            );
        }
    }

    #[test]
    fn there_is_one_writer() {
        let scratch = Scratch::new("output-lock");
        let path = scratch.0.join("log");
        fs::write(&path, "old").unwrap();
        let first = OutputFile::open(&path).unwrap();
        let second = OutputFile::open(&path).unwrap();
        assert!(matches!(first.lock(), Lock::Ours));
        assert!(matches!(second.lock(), Lock::Another));
        drop(first);
        assert!(matches!(second.lock(), Lock::Ours));
    }

    /// Whoever may read the file can lock it so, also against its owner.
    #[test]
    fn a_lock_of_a_reader_keeps_nobody_from_writing() {
        let scratch = Scratch::new("output-reader");
        let path = scratch.0.join("log");
        fs::write(&path, "old").unwrap();
        let writer = OutputFile::open(&path).unwrap();
        let reader = File::open(&path).unwrap();
        file_lock::lock(&reader, LockKind::Read).unwrap();
        assert!(matches!(writer.lock(), Lock::NotPossible(_)));
        // The older kind of lock excludes other locks of its kind only.
        let old_kind = File::open(&path).unwrap();
        old_kind.lock().unwrap();
        drop(reader);
        assert!(matches!(writer.lock(), Lock::Ours));
    }
}
