//! `--restore DIR`, `--incoming socket=S`: the flags of the guest come with it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::CommandFactory;
use clap::parser::ValueSource;
use thiserror::Error;

use super::Cli;
use super::config_file::{self, ConfigFileError};
use crate::snapshot::{FLAGS, IncomingError, IncomingVm, SavedVm, SnapshotError, SnapshotFolder};

/// Flags that belong to the process, and not to the guest.
const OF_THE_PROCESS: [&str; 7] = [
    "api-socket",
    "name",
    "kvm-device",
    "on-reboot",
    "restore",
    "incoming",
    "config",
];
/// Flags of where the guest's bytes are and go, which may be others than before.
const OF_PLACES: [&str; 3] = ["serial", "console", "disk"];

/// The reason why `--restore` cannot be used.
#[derive(Debug, Error)]
pub enum RestoreFlagError {
    /// Its value means nothing.
    #[error("--restore: '{value}' is no folder with options; expected: DIR or DIR,paused=on|off")]
    Value {
        /// The value.
        value: String,
    },
    /// The snapshot cannot be read.
    #[error("--restore")]
    Folder(#[source] SnapshotError),
    /// A flag is the guest's.
    #[error("--{with}: --{flag} is the guest's, and cannot be another; use --{with} without it")]
    Guests {
        /// The flag that the guest comes by.
        with: &'static str,
        /// The flag.
        flag: String,
    },
    /// The value of `--incoming` means nothing.
    #[error("--incoming: '{value}' is no socket; expected: socket=PATH")]
    Incoming {
        /// The value.
        value: String,
    },
    /// No VM comes.
    #[error(transparent)]
    Source(#[from] IncomingError),
    /// A guest that boots again would begin with the snapshot again.
    #[error("--{flag}: not with --on-reboot restart; use --on-reboot exit")]
    OnReboot {
        /// The flag that the guest comes by.
        flag: &'static str,
    },
    /// The guest's flags are none of this version.
    #[error("the flags of the guest")]
    Flags(#[from] ConfigFileError),
}

/// The value of `--restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreArg {
    /// The folder.
    pub dir: PathBuf,
    /// The guest waits for `perfvisor ctl resume`.
    pub paused: bool,
}

impl RestoreArg {
    /// Reads `DIR[,paused=on|off]`; `DIR` may have commas.
    ///
    /// # Errors
    /// If there is no folder.
    pub fn parse(value: &OsStr) -> Result<Self, RestoreFlagError> {
        let bytes = value.as_bytes();
        let options = [(&b",paused=on"[..], true), (b",paused=off", false)];
        let found = options.into_iter().find_map(|(words, paused)| {
            let dir = bytes.strip_suffix(words)?;
            Some((dir, paused))
        });
        let (dir, paused) = found.unwrap_or((bytes, false));
        let is_option = dir.windows(8).any(|part| part == b",paused=");
        if dir.is_empty() || is_option {
            let value = value.to_string_lossy().into_owned();
            return Err(RestoreFlagError::Value { value });
        }
        Ok(Self {
            dir: PathBuf::from(OsString::from_vec(dir.to_vec())),
            paused,
        })
    }
}

/// The words of a command line with those of the VM put in that goes on, and that VM. Words
/// that cannot be parsed are left to the parser. Waits for a VM that is to come.
///
/// # Errors
/// If a VM is named and cannot be used, or a flag beside it is the guest's.
pub fn with_saved_vm(
    words: Vec<OsString>,
) -> Result<(Vec<OsString>, Option<SavedVm>), RestoreFlagError> {
    let command = Cli::command();
    let lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from(&words) else {
        return Ok((words, None));
    };
    let (Some(("run", given)), Some(run)) = (matches.subcommand(), command.find_subcommand("run"))
    else {
        return Ok((words, None));
    };
    // Words that cannot be parsed may leave a flag without its default.
    let prints = given.try_get_one::<bool>("print_config");
    if prints.ok().flatten().is_some_and(|prints| *prints) {
        return Ok((words, None));
    }
    let value = |flag| given.try_get_one::<OsString>(flag).ok().flatten();
    let (with, value) = match (value("restore"), value("incoming")) {
        (Some(value), None) => ("restore", value),
        (None, Some(value)) => ("incoming", value),
        // Both: the parser refuses them.
        _ => return Ok((words, None)),
    };
    let mut others = OF_THE_PROCESS.to_vec();
    for arg in run.get_arguments() {
        let is_given = given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        match arg.get_long() {
            Some(flag) if is_given && OF_PLACES.contains(&flag) => others.push(flag),
            Some(flag) if is_given && !OF_THE_PROCESS.contains(&flag) => {
                let flag = flag.to_owned();
                return Err(RestoreFlagError::Guests { with, flag });
            }
            _ => {}
        }
    }
    let (path, flags, saved) = if with == "restore" {
        snapshot(value)?
    } else {
        incoming(value)?
    };
    let flags = config_file::flags_of(&path, &flags, given, &others)?;
    let Some(at) = words.iter().position(|word| word == "run") else {
        return Ok((words, None));
    };
    let (mut all, rest) = (words[..=at].to_vec(), &words[at + 1..]);
    all.extend(flags);
    all.extend_from_slice(rest);
    Ok((all, Some(saved)))
}

/// A snapshot: its path and its flags, and the VM.
fn snapshot(value: &OsStr) -> Result<(PathBuf, String, SavedVm), RestoreFlagError> {
    let RestoreArg { dir, .. } = RestoreArg::parse(value)?;
    let mut folder = SnapshotFolder::open(&dir).map_err(RestoreFlagError::Folder)?;
    let flags = folder.take(FLAGS).map_err(RestoreFlagError::Folder)?;
    Ok((dir, flags, SavedVm::Folder(folder)))
}

/// A VM that comes: its socket and its flags, and the VM.
fn incoming(value: &OsStr) -> Result<(PathBuf, String, SavedVm), RestoreFlagError> {
    let path = value.as_bytes().strip_prefix(b"socket=");
    let path = path.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| RestoreFlagError::Incoming {
        value: value.to_string_lossy().into_owned(),
    })?;
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    let vm = IncomingVm::wait(&path)?;
    let flags = vm.hello.flags.clone();
    Ok((path, flags, SavedVm::Incoming(vm)))
}

/// The words of `perfvisor run` with these flags of a snapshot, for who fuzzes them.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn words_of(flags: &str) -> Result<Vec<OsString>, ConfigFileError> {
    let mut words: Vec<OsString> = ["perfvisor", "run"].map(OsString::from).into();
    let matches = Cli::command().ignore_errors(true).get_matches_from(&words);
    if let Some(("run", given)) = matches.subcommand() {
        words.extend(config_file::flags_of(
            &PathBuf::from("state"),
            flags,
            given,
            &[],
        )?);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{NewSnapshot, Sections};
    use crate::sys::scratch::Scratch;

    #[test]
    fn a_folder_and_whether_the_guest_waits() {
        for (text, dir, paused) in [
            ("snap", "snap", false),
            ("/a/b,paused=on", "/a/b", true),
            ("a,b,paused=off", "a,b", false),
            ("a,b", "a,b", false),
        ] {
            let dir = dir.into();
            assert_eq!(
                RestoreArg::parse(text.as_ref()).unwrap(),
                RestoreArg { dir, paused }
            );
        }
        for text in ["", ",paused=on", "a,paused=yes", "a,paused=on,paused=on"] {
            let error = RestoreArg::parse(text.as_ref()).unwrap_err().to_string();
            assert!(error.contains("expected: DIR"), "{error}");
        }
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    /// A flag that may be repeated, too: the guest has as many disks as before.
    #[test]
    fn a_place_that_is_given_replaces_those_of_the_snapshot() {
        let Scratch(scratch) = &Scratch::new("restore-flags");
        let dir = scratch.join("snap");
        let mut sections = Sections::default();
        let flags = "disk = [\"path=a\", \"path=b\"]\nserial = \"null\"\nname = \"x\"\n";
        sections.put(FLAGS, &flags).unwrap();
        let new = NewSnapshot::begin(&dir).unwrap();
        new.finish(&sections).unwrap();
        let given = |more: &[&str]| {
            let mut all = words(&["perfvisor", "run", "--restore"]);
            all.push(dir.clone().into());
            all.extend(words(more));
            let (all, saved) = with_saved_vm(all).unwrap();
            assert!(saved.is_some());
            let disks = all.iter().filter_map(|word| word.to_str());
            let of_places =
                |word: &&str| word.starts_with("--disk") || word.starts_with("--serial");
            disks
                .filter(of_places)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let saved = ["--disk=path=a", "--disk=path=b", "--serial=null"];
        assert_eq!(given(&[]), saved);
        assert_eq!(
            given(&["--disk=path=c"]),
            ["--serial=null", "--disk=path=c"]
        );
        let other = ["--disk=path=a", "--disk=path=b", "--serial=tty"];
        assert_eq!(given(&["--serial=tty"]), other);
    }

    #[test]
    fn the_guests_flags_are_the_snapshots() {
        for flag in [
            "--cpus=boot=2",
            "--memory=size=1G",
            "--pmu=off",
            "--kernel=/k",
            "--rng=on",
        ] {
            let given = words(&["perfvisor", "run", "--restore", "/nowhere", flag]);
            let error = with_saved_vm(given).unwrap_err().to_string();
            let name = flag.split('=').next().unwrap_or_default();
            assert!(error.contains(name), "{error}");
        }
        let given = words(&[
            "perfvisor",
            "run",
            "--restore",
            "/nowhere",
            "--api-socket",
            "/s",
        ]);
        let error = with_saved_vm(given).unwrap_err();
        assert!(matches!(error, RestoreFlagError::Folder(_)), "{error}");
        let other = words(&["perfvisor", "run", "--kernel", "/k"]);
        assert_eq!(with_saved_vm(other.clone()).unwrap().0, other);
    }
}
