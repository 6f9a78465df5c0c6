//! The file of `--serial file=PATH`: which files it may be, and from when it is the
//! guest's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::parts::Files;
use crate::config::{FilterArg, PmuArg, SerialConfig, VmConfig};
use crate::sys::files::{FileFault, FileId, is_null_device};
use crate::sys::output_file::{Lock, OutputFile};

/// A file that cannot be the console.
#[derive(Debug, Error)]
pub enum SerialFileError {
    /// It cannot be opened, created or emptied.
    #[error("--serial: cannot write {path}; expected: tty, null or file=PATH with a writable PATH")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no regular file.
    #[error("--serial: file={path} is {kind}; use {instead}")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What works.
        instead: &'static str,
    },
    /// The VM reads it.
    #[error(
        "--serial: file={path} is the file of {flag}, and would be overwritten; use another file"
    )]
    Same {
        /// The file.
        path: PathBuf,
        /// The flag that names it too.
        flag: &'static str,
    },
    /// Another process writes it.
    #[error(
        "--serial: file={path} is the console of another VM; use another file, or end that VM first"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

/// The guest's console, if it is a file.
#[derive(Debug)]
pub(super) struct SerialFile {
    path: PathBuf,
    append: bool,
    output: OutputFile,
}

impl SerialFile {
    /// Opens the file of `--serial`, and locks it. Its content stays until
    /// [`SerialFile::take`]. `None` if the console is no file, or /dev/null.
    pub(super) fn open(config: &VmConfig, files: &Files) -> Result<Option<Self>, SerialFileError> {
        let SerialConfig::File { path, append } = &config.serial else {
            return Ok(None);
        };
        if is_null_device(path) {
            return Ok(None);
        }
        let output = OutputFile::open(path).map_err(|fault| match fault {
            FileFault::Io(source) => write_error(path)(source),
            FileFault::Kind(kind) => SerialFileError::NotAFile {
                path: path.clone(),
                kind,
                instead: instead_of(kind),
            },
        })?;
        if let Some(flag) = files
            .flag_of(output.id())
            .or_else(|| filter(config, output.id()))
        {
            return Err(SerialFileError::Same {
                path: path.clone(),
                flag,
            });
        }
        match output.lock() {
            Lock::Ours => {}
            Lock::Another => return Err(SerialFileError::InUse { path: path.clone() }),
            Lock::NotPossible(error) => log::warn!(
                "--serial: file={} cannot be locked against a second VM: {error}",
                path.display()
            ),
        }
        Ok(Some(Self {
            path: path.clone(),
            append: *append,
            output,
        }))
    }

    /// Where the guest's bytes go.
    pub(super) fn writer(&self) -> io::Result<File> {
        self.output.writer()
    }

    /// Empties the file, unless the bytes are to be appended: from here on it is the
    /// guest's.
    pub(super) fn take(&mut self) -> Result<(), SerialFileError> {
        self.output
            .take(self.append)
            .map_err(write_error(&self.path))
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> SerialFileError {
    move |source| SerialFileError::Write {
        path: path.to_owned(),
        source,
    }
}

/// What to write instead of `file=` with something of this kind.
fn instead_of(kind: &str) -> &'static str {
    match kind {
        "a symbolic link" => "the path of the file that it leads to",
        "a FIFO" | "a socket" => "a regular file, which tail -f can follow, tty or null",
        "a character device" => "tty for this terminal, null or a regular file",
        _ => "a regular file, tty or null",
    }
}

/// The flag of the filter file, if it is this one.
fn filter(config: &VmConfig, id: FileId) -> Option<&'static str> {
    let PmuArg::On(pmu) = &config.pmu else {
        return None;
    };
    let FilterArg::File(path) = &pmu.filter else {
        return None;
    };
    let same = fs::metadata(path).is_ok_and(|file| FileId::of(&file) == id);
    same.then_some("--pmu filter=")
}
