//! `bench.json`: a list of figures, and two such lists beside each other.

use std::path::Path;
use std::{fs, iter};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figure::Measured;

/// A figure in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// What was measured.
    pub(super) value: f64,
    /// Its unit.
    pub(super) unit: String,
    /// The least that it could be, where that is known.
    pub(super) floor: Option<f64>,
    /// `value` divided by `floor`.
    pub(super) ratio: Option<f64>,
}

impl Entry {
    /// The entry of a figure that could be had.
    pub(super) fn of(measured: &Measured) -> Option<Self> {
        Some(Self {
            name: measured.figure.name.clone(),
            value: *measured.value.as_ref().ok()?,
            unit: measured.figure.unit.to_owned(),
            floor: measured.floor,
            ratio: measured.ratio(),
        })
    }
}

/// Reads a file of figures.
///
/// # Errors
/// If it cannot be read, or is not such a file.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a list of figures", path.display()))
}

/// Writes a file of figures.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(path: &Path, entries: &[Entry]) -> Result<()> {
    let text = serde_json::to_string_pretty(entries)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A figure of two lists.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub(super) name: String,
    pub(super) old: Option<f64>,
    pub(super) new: Option<f64>,
    /// What the new one is above the old one, in percent of the old one, if that is not 0.
    pub(super) change: Option<f64>,
}

/// Each figure of both lists: the new ones in their order, then those that only the old list
/// has.
pub(super) fn compare(old: &[Entry], new: &[Entry]) -> Vec<Pair> {
    let value = |all: &[Entry], name: &str| {
        let entry = all.iter().find(|entry| entry.name == name);
        entry.map(|entry| entry.value)
    };
    let is_gone = |entry: &&Entry| value(new, &entry.name).is_none();
    let names = iter::chain(new, old.iter().filter(is_gone)).map(|entry| entry.name.clone());
    let pair = |name: String| {
        let (old, new) = (value(old, &name), value(new, &name));
        let change = match (old, new) {
            (Some(old), Some(new)) if old != 0.0 => Some((new - old) / old * 100.0),
            _ => None,
        };
        Pair {
            name,
            old,
            new,
            change,
        }
    };
    names.map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Figure, Most};
    use super::*;

    fn entry(name: &str, value: f64) -> Entry {
        Entry {
            name: name.into(),
            value,
            unit: "instructions".into(),
            floor: None,
            ratio: None,
        }
    }

    #[test]
    fn an_entry_has_the_five_fields_and_null_where_there_is_no_floor() {
        let mut measured = Measured {
            figure: Figure::new("a", "instructions", Some(Most::Times(1.1))),
            value: Ok(9000.0),
            floor: Some(4500.0),
        };
        let text = |measured: &Measured| serde_json::to_string(&Entry::of(measured)).unwrap();
        let fields =
            r#"{"name":"a","value":9000.0,"unit":"instructions","floor":4500.0,"ratio":2.0}"#;
        assert_eq!(text(&measured), fields);
        measured.floor = None;
        assert!(text(&measured).ends_with(r#""floor":null,"ratio":null}"#));
        measured.value = Err("no host".into());
        assert_eq!(Entry::of(&measured), None);
    }

    #[test]
    fn a_file_comes_back_as_it_was() {
        let path = std::env::temp_dir().join(format!("xtask-bench-{}.json", std::process::id()));
        let all = vec![
            entry("a", 4621.0),
            Entry {
                floor: Some(4500.0),
                ratio: Some(1.5),
                ..entry("b", 6750.0)
            },
        ];
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
        fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("is not a list of figures"), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn lists_are_compared_by_name() {
        let old = [entry("a", 200.0), entry("gone", 1.0), entry("none", 0.0)];
        let new = [entry("fresh", 7.0), entry("a", 150.0), entry("none", 1.0)];
        let pair = |name: &str, old, new, change| Pair {
            name: name.into(),
            old,
            new,
            change,
        };
        let expected = [
            pair("fresh", None, Some(7.0), None),
            pair("a", Some(200.0), Some(150.0), Some(-25.0)),
            pair("none", Some(0.0), Some(1.0), None),
            pair("gone", Some(1.0), None, None),
        ];
        assert_eq!(compare(&old, &new), expected);
    }
}
