//! `--api-socket`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--api-socket",
    keys: &["path"],
    accepted: "path=PATH of up to 107 bytes",
};
/// The longest path that a Unix socket's address holds (unix(7): 108 bytes with
/// the NUL).
const MAX_PATH: usize = 107;

/// The path of the control API's socket.
pub(crate) fn parse(text: &str) -> Result<PathBuf, ConfigError> {
    // A path may hold commas: only the first `=` divides.
    let Some(path) = text.strip_prefix("path=") else {
        let item = text.to_owned();
        return Err(Options::parse(FLAG, text)
            .err()
            .unwrap_or(ConfigError::NotKeyValue {
                flag: FLAG.name,
                item,
                accepted: FLAG.accepted,
            }));
    };
    if path.is_empty() {
        return Err(ConfigError::MissingKey {
            flag: FLAG.name,
            key: "path",
            accepted: FLAG.accepted,
        });
    }
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err(ConfigError::BadValue {
            flag: FLAG.name,
            key: "path",
            value: path.to_owned(),
            accepted: FLAG.accepted,
        });
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(parse("path=a,b=c"), Ok("a,b=c".into()));
        assert!(parse(&format!("path={}", "p".repeat(MAX_PATH))).is_ok());
        let long = format!("path={}", "p".repeat(MAX_PATH + 1));
        for text in ["/tmp/s", "path=", "file=x", "", "x=y,path=z", &long] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--api-socket: "), "{message}");
            assert!(message.contains("path=PATH"), "{message}");
        }
    }
}
