//! The files of `--serial file=PATH` and `--console file=PATH`: which files it may be, and from when it is the
//! guest's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::parts::Files;
use crate::config::{ConsoleConfig, FilterArg, PmuArg, SerialConfig, VmConfig};
use crate::sys::files::{FileFault, FileId, is_null_device};
use crate::sys::output_file::{Lock, OutputFile};

/// A file that cannot be the console.
#[derive(Debug, Error)]
pub enum SerialFileError {
    /// It cannot be opened, created or emptied.
    #[error("{flag}: cannot write {path}; expected: tty, null or file=PATH with a writable PATH")]
    Write {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no regular file.
    #[error("{flag}: file={path} is {kind}; use {instead}")]
    NotAFile {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What works.
        instead: &'static str,
    },
    /// The VM reads it.
    #[error(
        "{flag}: file={path} is the file of {other}, and would be overwritten; use another file"
    )]
    Same {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// The flag that names it too.
        other: &'static str,
    },
    /// Another process writes it.
    #[error(
        "{flag}: file={path} is the console of another VM; use another file, or end that VM first"
    )]
    InUse {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// The guest's console, if it is a file.
#[derive(Debug)]
pub(super) struct SerialFile {
    flag: &'static str,
    path: PathBuf,
    append: bool,
    output: OutputFile,
}

impl SerialFile {
    /// Opens the file of `--serial`, and locks it. Its content stays until
    /// [`SerialFile::take`]. `None` if the console is no file, or /dev/null.
    fn open(config: &VmConfig, files: Option<&Files>) -> Result<Option<Self>, SerialFileError> {
        match &config.serial {
            SerialConfig::File { path, append } => {
                Self::open_at("--serial", path, *append, config, files)
            }
            SerialConfig::Tty | SerialConfig::Socket(_) | SerialConfig::Null => Ok(None),
        }
    }

    /// Opens the file of `--console` in the same way.
    fn open_console(
        config: &VmConfig,
        files: Option<&Files>,
    ) -> Result<Option<Self>, SerialFileError> {
        match &config.console {
            Some(ConsoleConfig::File(path)) => {
                Self::open_at("--console", path, false, config, files)
            }
            _ => Ok(None),
        }
    }

    fn open_at(
        flag: &'static str,
        path: &Path,
        append: bool,
        config: &VmConfig,
        files: Option<&Files>,
    ) -> Result<Option<Self>, SerialFileError> {
        if is_null_device(path) {
            return Ok(None);
        }
        let output = OutputFile::open(path).map_err(|fault| match fault {
            FileFault::Io(source) => write_error(flag, path)(source),
            FileFault::Kind(kind) => SerialFileError::NotAFile {
                flag,
                path: path.to_owned(),
                kind,
                instead: instead_of(kind),
            },
        })?;
        let named = files.and_then(|files| files.flag_of(output.id()));
        if let Some(other) = named.or_else(|| filter(config, output.id())) {
            return Err(SerialFileError::Same {
                flag,
                path: path.to_owned(),
                other,
            });
        }
        match output.lock() {
            Lock::Ours => {}
            Lock::Another => {
                let path = path.to_owned();
                return Err(SerialFileError::InUse { flag, path });
            }
            Lock::NotPossible(error) => log::warn!(
                "{flag}: file={} cannot be locked against a second VM: {error}",
                path.display()
            ),
        }
        Ok(Some(Self {
            flag,
            path: path.to_owned(),
            append,
            output,
        }))
    }

    /// Where the guest's bytes go.
    pub(super) fn writer(&self) -> io::Result<File> {
        self.output.writer()
    }

    /// Empties the file, unless the bytes are to be appended: from here on it is the
    /// guest's.
    fn take(&mut self) -> Result<(), SerialFileError> {
        self.output
            .take(self.append)
            .map_err(write_error(self.flag, &self.path))
    }
}

/// The files of the guest's consoles.
#[derive(Debug)]
pub(super) struct ConsoleFiles {
    pub(super) serial: Option<SerialFile>,
    pub(super) console: Option<SerialFile>,
}

impl ConsoleFiles {
    /// Opens those that the configuration names. If the guest boots `again`, what they hold
    /// stays, whatever the flags say.
    pub(super) fn open(
        config: &VmConfig,
        files: Option<&Files>,
        again: bool,
    ) -> Result<Self, SerialFileError> {
        let mut opened = Self {
            serial: SerialFile::open(config, files)?,
            console: SerialFile::open_console(config, files)?,
        };
        for file in opened.serial.iter_mut().chain(&mut opened.console) {
            file.append |= again;
        }
        Ok(opened)
    }

    /// Makes them the guest's.
    pub(super) fn take(&mut self) -> Result<(), SerialFileError> {
        let mut files = self.serial.iter_mut().chain(&mut self.console);
        files.try_for_each(SerialFile::take)
    }
}

fn write_error(flag: &'static str, path: &Path) -> impl Fn(io::Error) -> SerialFileError {
    move |source| SerialFileError::Write {
        flag,
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
