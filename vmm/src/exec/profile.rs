//! `--flamegraph`: the command runs under perf record in the guest, and its samples become
//! a picture.
//!
//! perf script in the guest writes the samples as text into a folder of the host that only
//! this guest has; the crate inferno folds and draws them here.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use guest_words::Share;
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph;
use thiserror::Error;

use super::folders::SharedPath;

/// Where the guest has the folder.
const IN_GUEST: &str = "/run/perfvisor-profile";
/// The samples in the folder.
const SAMPLES: &str = "samples";
/// The shell line: $1 is how often perf samples, the rest is the command. The status is the
/// command's.
const LINE: &str = "\
rate=$1; shift
data=/tmp/.perfvisor-$$.data
perf record -q -N -g $rate -o $data -- \"$@\"; status=$?
[ -e $data ] && perf script -i $data >/run/perfvisor-profile/samples 2>/dev/null
rm -f $data
exit $status";
/// On a PMU of the host: 997 samples a second, which beats with nothing.
const BY_PMU: &str = "-F 997";
/// Where a clock counts, each sample is dear, and a frequency that the guest's kernel has to
/// find costs many of them: a fixed period, some milliseconds long.
const BY_CLOCK: &str = "-e cycles -c 20000000";

/// The reason why there is no picture.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The picture cannot be written.
    #[error("--flamegraph: cannot write {path}; expected: the path of a file, such as out.svg")]
    Write {
        /// Its file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The folder for the samples cannot be made.
    #[error("--flamegraph: cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// There are no samples.
    #[error(
        "--flamegraph: perf has no samples of the command; is perf installed, and does the command run for longer than a few milliseconds?"
    )]
    Empty,
    /// The samples cannot be drawn.
    #[error("--flamegraph: cannot draw perf's samples")]
    Draw(#[source] io::Error),
}

/// A profile in the making.
#[derive(Debug)]
pub(super) struct CommandProfile {
    picture: PathBuf,
    folder: PathBuf,
}

impl CommandProfile {
    /// Takes the picture's file and a folder for the samples.
    pub(super) fn prepare(picture: &Path) -> Result<Self, ProfileError> {
        File::create(picture).map_err(|source| ProfileError::Write {
            path: picture.to_owned(),
            source,
        })?;
        let folder = std::env::temp_dir().join(format!("perfvisor-profile-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| ProfileError::Folder {
            path: folder.clone(),
            source,
        })?;
        Ok(Self {
            picture: picture.to_owned(),
            folder,
        })
    }

    /// The folder, for the guest.
    pub(super) fn share(&self) -> SharedPath {
        SharedPath {
            share: Share {
                tag: "profile".into(),
                path: IN_GUEST.into(),
                writable: true,
            },
            host: self.folder.clone(),
        }
    }

    /// Draws the picture.
    pub(super) fn draw(&self) -> Result<(), ProfileError> {
        let samples = File::open(self.folder.join(SAMPLES)).map_err(|_| ProfileError::Empty)?;
        let mut folded = Vec::new();
        Folder::default()
            .collapse(BufReader::new(samples), &mut folded)
            .map_err(ProfileError::Draw)?;
        if folded.is_empty() {
            return Err(ProfileError::Empty);
        }
        let write = |source| ProfileError::Write {
            path: self.picture.clone(),
            source,
        };
        let picture = BufWriter::new(File::create(&self.picture).map_err(write)?);
        let mut options = flamegraph::Options::default();
        flamegraph::from_reader(&mut options, folded.as_slice(), picture)
            .map_err(ProfileError::Draw)
    }
}

impl Drop for CommandProfile {
    fn drop(&mut self) {
        // Nobody else has it; if it cannot be removed, it stays in the folder for such files.
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The command under perf; `by_clock`: whether a clock counts for the guest.
pub(super) fn under_perf(command: &[OsString], by_clock: bool) -> Vec<OsString> {
    let rate = if by_clock { BY_CLOCK } else { BY_PMU };
    let words = ["sh", "-c", LINE, "sh", rate].map(OsString::from);
    words.into_iter().chain(command.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn samples_become_a_picture_and_the_folder_goes() {
        let scratch = Scratch::new("exec-profile");
        let picture = scratch.0.join("out.svg");
        let profile = CommandProfile::prepare(&picture).unwrap();
        assert!(matches!(profile.draw(), Err(ProfileError::Empty)));
        let samples = "\
prog  101   1.000000:   20000000 cycles:
\t    55d0 work+0x10 (/opt/prog)
\t    5610 main+0x20 (/opt/prog)

prog  101   1.010000:   20000000 cycles:
\t    55d4 work+0x14 (/opt/prog)
\t    5610 main+0x20 (/opt/prog)

";
        let folder = profile.share().host;
        fs::write(folder.join(SAMPLES), samples).unwrap();
        profile.draw().unwrap();
        let text = fs::read_to_string(&picture).unwrap();
        assert!(text.contains("<svg") && text.contains("work"), "{text}");
        drop(profile);
        assert!(!folder.exists());
        let refused = CommandProfile::prepare(Path::new("/does/not/exist.svg")).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("cannot write /does/not/exist.svg")
        );
    }

    #[test]
    fn a_clock_gets_a_fixed_period() {
        let words = under_perf(&["prog".into(), "-x".into()], true);
        assert_eq!(words[4..], ["-e cycles -c 20000000", "prog", "-x"]);
        assert_eq!(under_perf(&[], false)[4..], ["-F 997"]);
        assert!(LINE.contains(&format!("{IN_GUEST}/{SAMPLES}")));
    }
}
