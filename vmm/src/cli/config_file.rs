//! `--config FILE`: the flags of `perfvisor run` from a TOML file.
//!
//! The keys of the file are the names of the flags. The file becomes flags in front of
//! those of the command line, so that both have one meaning and one set of errors.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, CommandFactory};
use thiserror::Error;
use toml::{Table, Value};

use super::Cli;
use crate::sys::files::{FileFault, InputFile};

/// The largest file that is read.
const MAX_LEN: u64 = 1 << 20;
/// Flags that have no key.
const NO_KEYS: [&str; 5] = ["config", "print-config", "help", "again", "restore"];

/// The reason why a configuration file cannot be used.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("--config: cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no regular file.
    #[error("--config: {path} is {kind}; use a TOML file with flags as keys")]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No configuration is that long.
    #[error("--config: {path} is larger than 1 MiB; use a TOML file with flags as keys")]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// It is no TOML.
    #[error("--config: {path}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line and the parser's words.
        message: String,
    },
    /// A key is no flag.
    #[error("--config: {path}: unknown key {key}; accepted: {accepted}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The keys that exist.
        accepted: String,
    },
    /// A value cannot be the value of its flag.
    #[error("--config: {path}: {key} has the wrong type; expected: {expected}")]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: &'static str,
    },
    /// `--print-config` can write UTF-8 only.
    #[error("--print-config: the value of --{flag} is not UTF-8; use a path that is")]
    NotUtf8 {
        /// The flag.
        flag: String,
    },
}

/// The words of a command line, those of its configuration file put in.
///
/// A flag of the command line replaces the file's flag; of a flag that may be repeated,
/// the file's values come first. Words that cannot be parsed are left to the parser.
///
/// # Errors
/// If a file is named and cannot be used.
pub fn with_config_file(words: Vec<OsString>) -> Result<Vec<OsString>, ConfigFileError> {
    let command = Cli::command();
    let lenient = command.clone().ignore_errors(true);
    let Ok(matches) = lenient.try_get_matches_from(&words) else {
        return Ok(words);
    };
    let (Some(("run", given)), Some(run)) = (matches.subcommand(), command.find_subcommand("run"))
    else {
        return Ok(words);
    };
    let Some(path) = given.try_get_one::<PathBuf>("config").ok().flatten() else {
        return Ok(words);
    };
    let file = ConfigFile {
        path,
        run,
        given: Some(given),
    };
    let flags = file.flags(&read(path)?)?;
    let Some(at) = words.iter().position(|word| word == "run") else {
        return Ok(words);
    };
    let (mut all, rest) = (words[..=at].to_vec(), &words[at + 1..]);
    all.extend(flags);
    all.extend_from_slice(rest);
    Ok(all)
}

/// The flags of a text that `--print-config` has made, without those of `given` and
/// without `others`; `path` is where it comes from.
pub(super) fn flags_of(
    path: &Path,
    text: &str,
    given: &ArgMatches,
    others: &[&str],
) -> Result<Vec<OsString>, ConfigFileError> {
    let command = Cli::command();
    let Some(run) = command.find_subcommand("run") else {
        return Ok(Vec::new());
    };
    let file = ConfigFile {
        path,
        run,
        given: Some(given),
    };
    let mut table = file.table(text)?;
    table.retain(|key, _| !others.contains(&key));
    file.flags_in(&table)
}

fn read(path: &Path) -> Result<String, ConfigFileError> {
    let failed = |source| ConfigFileError::Read {
        path: path.to_owned(),
        source,
    };
    let input = InputFile::open(path).map_err(|fault| match fault {
        FileFault::Io(source) => failed(source),
        FileFault::Kind(kind) => ConfigFileError::NotAFile {
            path: path.to_owned(),
            kind,
        },
    })?;
    let mut text = String::new();
    let mut file = input.file.take(MAX_LEN + 1);
    file.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LEN {
        return Err(ConfigFileError::Large {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// A file, the command that knows its keys, and the flags beside it.
#[derive(Debug)]
struct ConfigFile<'a> {
    path: &'a Path,
    run: &'a Command,
    given: Option<&'a ArgMatches>,
}

impl ConfigFile<'_> {
    /// The file's keys as flags, without those that the command line replaces.
    fn flags(&self, text: &str) -> Result<Vec<OsString>, ConfigFileError> {
        self.flags_in(&self.table(text)?)
    }

    fn table(&self, text: &str) -> Result<Table, ConfigFileError> {
        text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map(|span| text[..span.start].lines().count().max(1));
            let line = line.map_or_else(String::new, |line| format!("line {line}: "));
            ConfigFileError::Toml {
                path: self.path.to_owned(),
                message: format!("{line}{}", error.message()),
            }
        })
    }

    fn flags_in(&self, table: &Table) -> Result<Vec<OsString>, ConfigFileError> {
        let mut flags = Vec::new();
        for (key, value) in table {
            let arg = self.run.get_arguments().find(|arg| {
                let name = arg.get_long();
                name == Some(key) && !NO_KEYS.contains(&key.as_str())
            });
            let arg = arg.ok_or_else(|| self.unknown(key))?;
            let repeats = matches!(arg.get_action(), ArgAction::Append);
            if !repeats && self.is_given(arg.get_id().as_str()) {
                continue;
            }
            match (arg.get_action(), value) {
                (ArgAction::SetTrue, Value::Boolean(on)) => {
                    flags.extend(on.then(|| format!("--{key}").into()));
                }
                (ArgAction::SetTrue, _) => return Err(self.wrong(key, "true or false")),
                (_, Value::Array(values)) if repeats => {
                    for value in values {
                        flags.push(self.flag(key, value)?);
                    }
                }
                (_, value) => flags.push(self.flag(key, value)?),
            }
        }
        Ok(flags)
    }

    fn is_given(&self, id: &str) -> bool {
        let source = self.given.and_then(|given| given.value_source(id));
        source == Some(ValueSource::CommandLine)
    }

    /// `--key=value`.
    fn flag(&self, key: &str, value: &Value) -> Result<OsString, ConfigFileError> {
        let text = match value {
            Value::Table(options) => {
                let mut pairs = Vec::new();
                for (option, value) in options {
                    let value = scalar(value).ok_or_else(|| {
                        self.wrong(
                            &format!("{key}.{option}"),
                            "a string, a number, true or false",
                        )
                    })?;
                    pairs.push(format!("{option}={value}"));
                }
                Some(pairs.join(","))
            }
            value => scalar(value),
        };
        let text = text.ok_or_else(|| self.wrong(key, "a string or a table"))?;
        Ok(format!("--{key}={text}").into())
    }

    fn unknown(&self, key: &str) -> ConfigFileError {
        let names = self.run.get_arguments().filter_map(clap::Arg::get_long);
        let accepted: Vec<_> = names.filter(|name| !NO_KEYS.contains(name)).collect();
        ConfigFileError::UnknownKey {
            path: self.path.to_owned(),
            key: key.to_owned(),
            accepted: accepted.join(", "),
        }
    }

    fn wrong(&self, key: &str, expected: &'static str) -> ConfigFileError {
        ConfigFileError::WrongType {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected,
        }
    }
}

/// A value as the text of an option: `on` and `off` for true and false.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(on) => Some(if *on { "on" } else { "off" }.to_owned()),
        _ => None,
    }
}

/// What the words of a command line mean, as a configuration file: every flag that has
/// a value, the defaults too.
///
/// # Errors
/// If a value is not UTF-8.
pub fn as_config_file(words: &[OsString]) -> Result<String, ConfigFileError> {
    let command = Cli::command();
    let matches = command.clone().ignore_errors(true);
    let mut table = Table::new();
    if let Ok(matches) = matches.try_get_matches_from(words)
        && let (Some(("run", given)), Some(run)) =
            (matches.subcommand(), command.find_subcommand("run"))
    {
        for arg in run.get_arguments() {
            let Some(key) = arg.get_long().filter(|name| !NO_KEYS.contains(name)) else {
                continue;
            };
            let id = arg.get_id().as_str();
            let value = match arg.get_action() {
                ArgAction::SetTrue => Some(Value::Boolean(given.get_flag(id))),
                action => {
                    let repeats = matches!(action, ArgAction::Append);
                    raw_value(given, id, key, repeats)?
                }
            };
            if let Some(value) = value {
                table.insert(key.to_owned(), value);
            }
        }
    }
    Ok(table.to_string())
}

fn raw_value(
    given: &ArgMatches,
    id: &str,
    key: &str,
    repeats: bool,
) -> Result<Option<Value>, ConfigFileError> {
    let raw = given.try_get_raw(id).ok().flatten();
    let text = |value: &OsStr| {
        let text = value.to_str().ok_or_else(|| ConfigFileError::NotUtf8 {
            flag: key.to_owned(),
        })?;
        Ok(Value::String(text.to_owned()))
    };
    let values: Vec<Value> = raw
        .into_iter()
        .flatten()
        .map(text)
        .collect::<Result<_, _>>()?;
    Ok(if repeats && !values.is_empty() {
        Some(Value::Array(values))
    } else {
        values.into_iter().next_back()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::sys::scratch::Scratch;

    fn flags(text: &str) -> Result<Vec<String>, String> {
        let command = Cli::command();
        let file = ConfigFile {
            path: Path::new("vm.toml"),
            run: command.find_subcommand("run").unwrap(),
            given: None,
        };
        let words = file.flags(text).map_err(|error| error.to_string())?;
        let text = |word: OsString| word.into_string().unwrap();
        Ok(words.into_iter().map(text).collect())
    }

    #[test]
    fn every_key_is_a_flag() {
        let text = "kernel = 'bz'\ninitramfs = ['a', 'b']\ndebug-exit = true\n\
                    memory = { size = '1G' }\n[cpus]\nboot = 2\nnested = true\n";
        let mut flags = flags(text).unwrap();
        flags.sort();
        let expected = [
            "--cpus=boot=2,nested=on",
            "--debug-exit",
            "--initramfs=a",
            "--initramfs=b",
            "--kernel=bz",
            "--memory=size=1G",
        ];
        assert_eq!(flags, expected);
    }

    #[test]
    fn mistakes_name_the_file_and_the_key() {
        for (text, expected) in [
            (
                "kernels = 'bz'",
                "vm.toml: unknown key kernels; accepted: kernel, ",
            ),
            ("config = 'x'", "vm.toml: unknown key config"),
            (
                "debug-exit = 1",
                "vm.toml: debug-exit has the wrong type; expected: true or",
            ),
            (
                "kernel = ['a', 'b']",
                "vm.toml: kernel has the wrong type; expected: a string",
            ),
            ("initramfs = [[]]", "vm.toml: initramfs has the wrong type"),
            (
                "cpus = { boot = [1] }",
                "vm.toml: cpus.boot has the wrong type",
            ),
            ("kernel = 'a'\nkernel", "vm.toml: line 2: "),
        ] {
            let error = flags(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let scratch = Scratch::new("config-file");
        let path = scratch.0.join("vm.toml");
        let text = "kernel = 'bz'\ninitramfs = ['a']\ncpus = 'boot=2'\n";
        fs::write(&path, text).unwrap();
        let line = format!(
            "perfvisor run --cpus boot=3 --initramfs b --config {}",
            path.display()
        );
        let words = with_config_file(words(&line)).unwrap();
        let written = as_config_file(&words).unwrap();
        let table: Table = written.parse().unwrap();
        assert_eq!(table["kernel"].as_str(), Some("bz"));
        assert_eq!(table["cpus"].as_str(), Some("boot=3"));
        assert_eq!(table["memory"].as_str(), Some("size=512M"));
        let archives: Vec<_> = table["initramfs"].as_array().unwrap().iter().collect();
        assert_eq!(archives, [&Value::from("a"), &Value::from("b")]);
        // What is written means what was read.
        fs::write(&path, &written).unwrap();
        let line = format!("perfvisor run --config {}", path.display());
        let again = with_config_file(self::words(&line)).unwrap();
        assert_eq!(as_config_file(&again).unwrap(), written);
    }

    #[test]
    fn other_commands_have_no_file() {
        let line = words("perfvisor doctor --config nowhere");
        assert_eq!(with_config_file(line.clone()).unwrap(), line);
        let line = words("perfvisor run --config /nowhere/vm.toml");
        let error = with_config_file(line).unwrap_err().to_string();
        assert_eq!(error, "--config: cannot read /nowhere/vm.toml");
    }
}
