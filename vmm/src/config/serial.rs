//! `--serial`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--serial",
    keys: &["file", "append", "socket"],
    accepted: "tty, null, file=PATH[,append=on|off] or socket=PATH",
};

/// The longest path of a Unix socket.
const MAX_SOCKET: usize = 107;

/// Where the guest's first serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialConfig {
    /// Standard input and output.
    Tty,
    /// Output to a file; no input.
    File {
        /// The file, which is created if it is missing.
        path: PathBuf,
        /// Whether the bytes go behind those that are there; otherwise it is emptied.
        append: bool,
    },
    /// To whoever connects to a Unix socket, which is created; what it sends is typed.
    Socket(PathBuf),
    /// Nowhere; no input.
    Null,
}

impl SerialConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        match text {
            "tty" => return Ok(Self::Tty),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        // A path may hold commas: only the first `=` divides, and `append=` is last.
        if let Some(path) = text.strip_prefix("file=") {
            let (path, append) = match path.rsplit_once(",append=") {
                None => (path, false),
                Some((path, "on")) => (path, true),
                Some((path, "off")) => (path, false),
                Some((_, other)) => {
                    return Err(ConfigError::BadValue {
                        flag: FLAG.name,
                        key: "append",
                        value: other.to_owned(),
                        accepted: "on or off",
                    });
                }
            };
            if path.is_empty() {
                return Err(ConfigError::MissingKey {
                    flag: FLAG.name,
                    key: "file",
                    accepted: FLAG.accepted,
                });
            }
            return Ok(Self::File {
                path: path.into(),
                append,
            });
        }
        // Nor are there keys behind a socket.
        if let Some(path) = text.strip_prefix("socket=") {
            return match path.len() {
                1..=MAX_SOCKET if !path.contains('\0') => Ok(Self::Socket(path.into())),
                _ => Err(ConfigError::BadValue {
                    flag: FLAG.name,
                    key: "socket",
                    value: path.to_owned(),
                    accepted: "a path of 1 to 107 bytes",
                }),
            };
        }
        let options = Options::parse(FLAG, text)?;
        options.require("file").map(|_| Self::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(SerialConfig::parse("tty"), Ok(SerialConfig::Tty));
        for (text, path, append) in [
            ("file=a,b=c", "a,b=c", false),
            ("file=a,append=on", "a", true),
            ("file=a,b,append=off", "a,b", false),
        ] {
            let path = path.into();
            assert_eq!(
                SerialConfig::parse(text),
                Ok(SerialConfig::File { path, append })
            );
        }
        for text in ["pty", "file=", "file=,append=on", "append=on", "path=x", ""] {
            let message = SerialConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains("tty, null, file=PATH"), "{message}");
        }
        let socket = SerialConfig::parse("socket=/s,t");
        assert_eq!(socket, Ok(SerialConfig::Socket("/s,t".into())));
        for path in ["", &"p".repeat(108)] {
            let message = SerialConfig::parse(&format!("socket={path}")).unwrap_err();
            let message = message.to_string();
            assert!(message.contains("a path of 1 to 107 bytes"), "{message}");
        }
        let message = SerialConfig::parse("file=a,append=yes")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("'yes' is not possible for 'append'"),
            "{message}"
        );
    }
}
