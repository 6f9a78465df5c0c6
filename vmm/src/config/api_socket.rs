//! `--api-socket`, of `perfvisor run` and of `perfvisor ctl`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--api-socket",
    keys: &["path"],
    accepted: "path=PATH or PATH, of up to 107 bytes",
};
/// The longest path that a Unix socket's address holds (unix(7): 108 bytes with
/// the NUL).
const MAX_PATH: usize = 107;

/// The path of the control API's socket: `path=PATH`, or `PATH` alone.
pub(crate) fn parse(text: &OsStr) -> Result<PathBuf, ConfigError> {
    let bytes = text.as_bytes();
    // A path may hold commas: only the first `=` divides.
    let path = match bytes.strip_prefix(b"path=") {
        Some(path) => path,
        // Another key, unless it says that it is a path.
        None if bytes.contains(&b'=') && !bytes.starts_with(b"/") && !bytes.starts_with(b".") => {
            return Err(other_key(&text.to_string_lossy()));
        }
        None => bytes,
    };
    if path.is_empty() {
        return Err(ConfigError::MissingKey {
            flag: FLAG.name,
            key: "path",
            accepted: FLAG.accepted,
        });
    }
    if path.len() > MAX_PATH || path.contains(&0) {
        return Err(ConfigError::BadValue {
            flag: FLAG.name,
            key: "path",
            value: String::from_utf8_lossy(path).into_owned(),
            accepted: FLAG.accepted,
        });
    }
    Ok(OsStr::from_bytes(path).into())
}

/// As [`parse`], for clap.
pub(crate) fn parse_owned(text: OsString) -> Result<PathBuf, ConfigError> {
    parse(&text)
}

fn other_key(text: &str) -> ConfigError {
    let refused = Options::parse(FLAG, text).err();
    refused.unwrap_or(ConfigError::NotKeyValue {
        flag: FLAG.name,
        item: text.to_owned(),
        accepted: FLAG.accepted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let parse = |text: &str| parse(OsStr::new(text));
        for (text, path) in [
            ("path=a,b=c", "a,b=c"),
            ("/tmp/s", "/tmp/s"),
            ("path=/tmp/s", "/tmp/s"),
            ("s", "s"),
            ("./a=b", "./a=b"),
            ("/a=b,c", "/a=b,c"),
        ] {
            assert_eq!(parse(text), Ok(path.into()), "{text}");
        }
        assert!(parse(&format!("path={}", "p".repeat(MAX_PATH))).is_ok());
        let long = format!("path={}", "p".repeat(MAX_PATH + 1));
        for text in ["path=", "file=x", "", "x=y,path=z", &long] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--api-socket: "), "{message}");
            assert!(message.contains("path=PATH or PATH"), "{message}");
        }
        let odd = OsStr::from_bytes(b"/tmp/\xff");
        assert_eq!(super::parse(odd), Ok(odd.into()));
    }
}
