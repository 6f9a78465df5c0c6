//! `--console`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--console",
    keys: &["file"],
    accepted: "tty, null or file=PATH",
};

/// Where the guest's virtio console (`/dev/hvc0`) goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleConfig {
    /// Standard input and output.
    Tty,
    /// Output to a file; no input.
    File(PathBuf),
    /// Nowhere; no input.
    Null,
}

impl ConsoleConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        match text {
            "tty" => return Ok(Self::Tty),
            "null" => return Ok(Self::Null),
            _ => {}
        }
        // A path may hold commas: only the first `=` divides.
        match text.strip_prefix("file=") {
            Some("") => Err(ConfigError::MissingKey {
                flag: FLAG.name,
                key: "file",
                accepted: FLAG.accepted,
            }),
            Some(path) => Ok(Self::File(path.into())),
            None => {
                let options = Options::parse(FLAG, text)?;
                options.require("file").map(|path| Self::File(path.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(ConsoleConfig::parse("tty"), Ok(ConsoleConfig::Tty));
        assert_eq!(ConsoleConfig::parse("null"), Ok(ConsoleConfig::Null));
        let file = ConsoleConfig::File("a,b=c".into());
        assert_eq!(ConsoleConfig::parse("file=a,b=c"), Ok(file));
        for text in ["", "pty", "file=", "path=x"] {
            let message = ConsoleConfig::parse(text).unwrap_err().to_string();
            assert!(
                message.contains("expected: tty, null or file=PATH"),
                "{message}"
            );
        }
    }
}
