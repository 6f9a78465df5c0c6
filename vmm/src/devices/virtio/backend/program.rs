//! Where a backend's program is, and whether it can do all that is asked of it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::sys::child;

/// How long a program may take to print its help.
const HELP_TIME: Duration = Duration::from_secs(120);
/// How much of it is read, in bytes.
const HELP_BYTES: u64 = 1 << 20;

/// A program that serves a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// The name of its file.
    pub name: &'static str,
    /// Where it is if it is not in `PATH`; `~/` is the user's home.
    pub places: &'static [&'static str],
    /// The options that its help must name.
    pub options: &'static [&'static str],
    /// How to get it, as the end of an error.
    pub install: &'static str,
}

/// Why there is no such program.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// It is nowhere.
    #[error("{name} is neither in PATH nor in {places}; {install}")]
    Missing {
        /// The program.
        name: &'static str,
        /// Where it was looked for.
        places: String,
        /// How to get it.
        install: &'static str,
    },
    /// It is too old, or another program of that name.
    #[error("{path} is too old: it has no option {option}; {install}", path = path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// The first option that it does not have.
        option: &'static str,
        /// How to get a newer one.
        install: &'static str,
    },
    /// It does not run.
    #[error("cannot run {path}; {install}", path = path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// How to get another one.
        install: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Program {
    /// The first file of that name that has all options.
    ///
    /// # Errors
    /// If there is none: what is wrong with the first one.
    pub(super) fn find(&self) -> Result<PathBuf, ProgramError> {
        self.find_in(std::env::var_os("PATH").as_deref(), std::env::home_dir())
    }

    /// The error of a file that cannot be started.
    pub(super) fn does_not_run(&self, path: PathBuf, source: io::Error) -> ProgramError {
        ProgramError::Run {
            path,
            install: self.install,
            source,
        }
    }

    fn find_in(
        &self,
        path: Option<&OsStr>,
        home: Option<PathBuf>,
    ) -> Result<PathBuf, ProgramError> {
        let mut fault = None;
        for file in self.candidates(path, home) {
            match self.check(&file) {
                Ok(()) => return Ok(file),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        Err(fault.unwrap_or_else(|| ProgramError::Missing {
            name: self.name,
            places: self.places.join(", "),
            install: self.install,
        }))
    }

    /// The executable files with that name, in order.
    fn candidates(&self, path: Option<&OsStr>, home: Option<PathBuf>) -> Vec<PathBuf> {
        let in_path = path.into_iter().flat_map(std::env::split_paths);
        // An empty part is the working directory: a folder that others write to, perhaps.
        let in_path = in_path.filter(|dir| dir.is_absolute());
        let in_path = in_path.map(|dir| dir.join(self.name));
        let known = self
            .places
            .iter()
            .filter_map(|place| match place.strip_prefix("~/") {
                Some(rest) => home.as_ref().map(|home| home.join(rest)),
                None => Some(PathBuf::from(place)),
            });
        let mut files: Vec<PathBuf> = Vec::new();
        for file in in_path.chain(known) {
            if is_executable(&file) && !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    fn check(&self, file: &Path) -> Result<(), ProgramError> {
        let help = help_of(file).map_err(|error| self.does_not_run(file.to_owned(), error))?;
        let missing = self.options.iter().find(|option| !names(&help, option));
        missing.map_or(Ok(()), |option| {
            Err(ProgramError::TooOld {
                path: file.to_owned(),
                option,
                install: self.install,
            })
        })
    }
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether a help text names an option as a word of its own.
fn names(help: &str, option: &str) -> bool {
    help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
        .any(|word| word == option)
}

/// What the program prints for `--help`, on standard output and standard error.
fn help_of(file: &Path) -> io::Result<String> {
    let (mut reader, writer) = io::pipe()?;
    let mut command = Command::new(file);
    command
        .arg("--help")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    child::tie_to_us(&mut command, None);
    let mut program = command.spawn()?;
    // It holds our ends of the pipe.
    drop(command);
    let reader = thread::Builder::new().spawn(move || {
        let mut text = Vec::new();
        // A part is as good as nothing: the option is missing then.
        drop((&mut reader).take(HELP_BYTES).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    })?;
    let end = Instant::now() + HELP_TIME;
    while !reader.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
    let finished = reader.is_finished();
    child::kill_group(&mut program);
    if !finished {
        let text = format!("it did not print its help within {} s", HELP_TIME.as_secs());
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    }
    reader
        .join()
        .map_err(|_| io::Error::other("its help is not readable"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::scratch::Scratch;

    const PROGRAM: Program = Program {
        name: "served",
        places: &["~/served", "/does/not/exist/served"],
        options: &["--fd", "--readonly"],
        install: "use the package served",
    };

    fn write(file: &Path, script: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_program_is_found_by_what_it_can_do() {
        let scratch = Scratch::new("backend-program");
        let dir = |name: &str| scratch.0.join(name);
        let find = || {
            let path = std::env::join_paths([dir("a"), dir("b")]).unwrap();
            PROGRAM.find_in(Some(&path), Some(dir("home")))
        };
        let text = find().unwrap_err().to_string();
        assert!(text.contains("neither in PATH nor in ~/served"), "{text}");
        assert!(text.ends_with("use the package served"), "{text}");

        write(
            &dir("a").join("served"),
            "echo 'old: --fd=N --readonly-not'",
        );
        let text = find().unwrap_err().to_string();
        assert!(
            text.contains("a/served is too old: it has no option --readonly;"),
            "{text}"
        );

        write(
            &dir("home").join("served"),
            "echo '--fd <FD>, [--readonly]' >&2; exit 1",
        );
        assert_eq!(find().unwrap(), dir("home").join("served"));
        write(&dir("b").join("served"), "echo '--fd --readonly'");
        assert_eq!(find().unwrap(), dir("b").join("served"));
    }

    #[test]
    fn a_file_that_does_not_run_is_told() {
        let scratch = Scratch::new("backend-program-runs");
        let file = scratch.0.join("served");
        fs::write(&file, "#!/does/not/exist\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let error = PROGRAM
            .find_in(Some(scratch.0.as_os_str()), None)
            .unwrap_err();
        assert!(matches!(error, ProgramError::Run { .. }), "{error}");
    }
}
