//! `--restore DIR`: the flags of the guest come out of the snapshot.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::CommandFactory;
use clap::parser::ValueSource;
use thiserror::Error;

use super::Cli;
use super::config_file::{self, ConfigFileError};
use crate::snapshot::{FLAGS, SnapshotError, SnapshotFolder};

/// Flags that belong to the process, and not to the guest.
const OF_THE_PROCESS: [&str; 6] = [
    "api-socket",
    "name",
    "kvm-device",
    "on-reboot",
    "restore",
    "config",
];
/// Flags of where the guest's bytes go, which may be others than before.
const OF_PLACES: [&str; 2] = ["serial", "console"];

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
    #[error(
        "--restore: --{flag} is the snapshot's, and cannot be another; use --restore without it"
    )]
    Guests {
        /// The flag.
        flag: String,
    },
    /// A guest that boots again would begin with the snapshot again.
    #[error("--restore: not with --on-reboot restart; use --on-reboot exit")]
    OnReboot,
    /// The snapshot's flags are none of this version.
    #[error("--restore: the flags of the snapshot")]
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

/// The words of a command line with those of the snapshot that it names put in, and the
/// snapshot. Words that cannot be parsed are left to the parser.
///
/// # Errors
/// If a snapshot is named and cannot be used, or a flag beside it is the guest's.
pub fn with_snapshot(
    words: Vec<OsString>,
) -> Result<(Vec<OsString>, Option<SnapshotFolder>), RestoreFlagError> {
    let command = Cli::command();
    let lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from(&words) else {
        return Ok((words, None));
    };
    let (Some(("run", given)), Some(run)) = (matches.subcommand(), command.find_subcommand("run"))
    else {
        return Ok((words, None));
    };
    let Some(value) = given.try_get_one::<OsString>("restore").ok().flatten() else {
        return Ok((words, None));
    };
    let RestoreArg { dir, .. } = RestoreArg::parse(value)?;
    for arg in run.get_arguments() {
        let Some(flag) = arg.get_long() else {
            continue;
        };
        let is_given = given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
        if is_given && !OF_THE_PROCESS.contains(&flag) && !OF_PLACES.contains(&flag) {
            let flag = flag.to_owned();
            return Err(RestoreFlagError::Guests { flag });
        }
    }
    let mut folder = SnapshotFolder::open(&dir).map_err(RestoreFlagError::Folder)?;
    let flags: String = folder.take(FLAGS).map_err(RestoreFlagError::Folder)?;
    let flags = config_file::flags_of(&dir, &flags, given, &OF_THE_PROCESS)?;
    let Some(at) = words.iter().position(|word| word == "run") else {
        return Ok((words, None));
    };
    let (mut all, rest) = (words[..=at].to_vec(), &words[at + 1..]);
    all.extend(flags);
    all.extend_from_slice(rest);
    Ok((all, Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = with_snapshot(given).unwrap_err().to_string();
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
        let error = with_snapshot(given).unwrap_err();
        assert!(matches!(error, RestoreFlagError::Folder(_)), "{error}");
        let other = words(&["perfvisor", "run", "--kernel", "/k"]);
        assert_eq!(with_snapshot(other.clone()).unwrap().0, other);
    }
}
