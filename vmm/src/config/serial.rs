//! `--serial`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--serial",
    keys: &["file"],
    accepted: "tty, null or file=PATH",
};

/// Where the guest's first serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialConfig {
    /// Standard input and output.
    Tty,
    /// Output to a file that is created or emptied; no input.
    File(PathBuf),
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
        // A path may hold commas: only the first `=` divides.
        if let Some(path) = text.strip_prefix("file=") {
            if path.is_empty() {
                return Err(ConfigError::MissingKey {
                    flag: FLAG.name,
                    key: "file",
                    accepted: FLAG.accepted,
                });
            }
            return Ok(Self::File(path.into()));
        }
        Options::parse(FLAG, text).map(|_| Self::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(SerialConfig::parse("tty"), Ok(SerialConfig::Tty));
        assert_eq!(
            SerialConfig::parse("file=a,b=c"),
            Ok(SerialConfig::File("a,b=c".into()))
        );
        for text in ["pty", "file=", "path=x", ""] {
            let message = SerialConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains("tty, null or file=PATH"), "{message}");
        }
    }
}
