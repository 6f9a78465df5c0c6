//! `--pmu filter=@FILE`: a JSON file of what a guest may count.
//!
//! ```json
//! { "allow": ["cycles", "instructions", "r1d1"], "deny": ["r2c0"] }
//! ```
//!
//! Architectural and standard events are written as names, others as `perf` writes
//! their code: `r`, then unit mask and event select in hexadecimal. A code stands
//! for the event with any edge, invert and counter mask. A name and the code that
//! its event has on the CPU that the guest sees are the same entry: `cycles` and
//! `r3c` on Intel's, `r76` on AMD's.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use vpmu::host::EventCode;
use vpmu::{EventFilter, FilterLists};

use crate::config::{FilterArg, event};
use crate::sys::files::{FileFault, InputFile};

/// The most that a file may hold, in bytes.
const LONGEST: u64 = 1 << 16;

/// The reason why a file cannot be the filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The file cannot be read.
    #[error("--pmu filter=@{path}: it cannot be read; expected: a readable JSON file")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The path names a directory, a FIFO or another special file.
    #[error("--pmu filter=@{path}: it is {kind}; expected: a readable JSON file")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// The kind of file, in words.
        kind: &'static str,
    },
    /// The file is too long.
    #[error("--pmu filter=@{path}: it is too long; expected: at most {LONGEST} bytes")]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// The file has another form.
    #[error(
        r#"--pmu filter=@{path}: it is not a filter; expected: {{"allow": ["cycles", "r1d1"], "deny": ["r2c0"]}}, both optional"#
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The error of the JSON parser, with the line.
        source: serde_json::Error,
    },
    /// A word in the file is no event.
    #[error(
        "--pmu filter=@{path}: '{word}' is no event; accepted: {}, or r and a code such as r1d1",
        event::names()
    )]
    Event {
        /// The file.
        path: PathBuf,
        /// The word.
        word: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lists {
    allow: Vec<String>,
    deny: Vec<String>,
}

/// The filter of `--pmu filter=`.
///
/// # Errors
/// [`FilterError`]
pub fn read(arg: &FilterArg) -> Result<EventFilter, FilterError> {
    match arg {
        FilterArg::Architectural => Ok(EventFilter::Architectural),
        FilterArg::Standard => Ok(EventFilter::Standard),
        FilterArg::All => Ok(EventFilter::All),
        FilterArg::File(path) => Ok(EventFilter::Lists(read_file(path)?)),
    }
}

fn read_file(path: &Path) -> Result<FilterLists, FilterError> {
    let unreadable = |source| FilterError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let input = InputFile::open(path).map_err(|fault| match fault {
        FileFault::Io(source) => unreadable(source),
        FileFault::Kind(kind) => FilterError::NotAFile {
            path: path.to_owned(),
            kind,
        },
    })?;
    let mut file = input.file.take(LONGEST + 1);
    file.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LONGEST {
        return Err(FilterError::Long {
            path: path.to_owned(),
        });
    }
    let lists: Lists = serde_json::from_str(&text).map_err(|source| FilterError::Format {
        path: path.to_owned(),
        source,
    })?;
    let events = |words: &[String]| -> Result<Vec<EventCode>, FilterError> {
        let bad = |word: &String| FilterError::Event {
            path: path.to_owned(),
            word: word.clone(),
        };
        let each = words
            .iter()
            .map(|word| event::code(word).ok_or_else(|| bad(word)));
        each.collect()
    };
    Ok(FilterLists::new(
        events(&lists.allow)?,
        events(&lists.deny)?,
    ))
}

#[cfg(test)]
mod tests {
    use vpmu::x86::event::{ArchEvent, RawEvent};

    use super::*;

    fn filter(name: &str, text: &str) -> Result<EventFilter, FilterError> {
        let path = std::env::temp_dir().join(format!("filter-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let filter = read(&FilterArg::File(path.clone()));
        std::fs::remove_file(path).unwrap();
        filter
    }

    #[test]
    fn a_file_lists_names_and_codes() {
        let filter = filter(
            "good",
            r#"{"allow": ["cycles", "r1d1", "r1000000c0"], "deny": ["r1d1"]}"#,
        )
        .unwrap();
        let raw = |code| EventCode::Raw(RawEvent::of_event_sel(code));
        assert!(filter.admits(ArchEvent::Cycles.into()));
        assert!(!filter.admits(ArchEvent::Branches.into()));
        assert!(!filter.admits(raw(0x1d1)));
        assert!(filter.admits(raw(0x1_0000_00c0)), "AMD's long codes");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        for (name, text, part) in [
            ("json", "allow: cycles", "it is not a filter"),
            ("key", r#"{"permit": []}"#, "it is not a filter"),
            ("word", r#"{"allow": ["cycle"]}"#, "'cycle' is no event"),
            (
                "code",
                r#"{"deny": ["r1f53003c"]}"#,
                "'r1f53003c' is no event",
            ),
            ("minus", r#"{"deny": ["r-1"]}"#, "'r-1' is no event"),
            (
                "long",
                &" ".repeat(70_000),
                "too long; expected: at most 65536",
            ),
        ] {
            let message = filter(name, text).unwrap_err().to_string();
            assert!(message.contains("--pmu filter=@"), "{message}");
            assert!(message.contains(part), "{name}: {message}");
        }
        let error = read(&FilterArg::File("/does/not/exist".into())).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
