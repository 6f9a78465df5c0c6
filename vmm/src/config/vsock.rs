//! `--vsock`.

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--vsock",
    keys: &["cid"],
    accepted: "cid=N",
};
const CID: &str = "3 to 4294967294";

/// Sockets between guest and host (AF_VSOCK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockConfig {
    /// The guest's address; 3 to 2^32 - 2, as the others are taken (vsock(7)).
    pub cid: u32,
}

impl VsockConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        let text = options.require("cid")?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(cid) if digits && (3..u32::MAX).contains(&cid) => Ok(Self { cid }),
            _ => Err(options.bad("cid", text, CID)),
        }
    }

    /// The flag with its value, for messages.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--vsock cid={}", self.cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for cid in [3, u32::MAX - 1] {
            let text = format!("cid={cid}");
            assert_eq!(VsockConfig::parse(&text), Ok(VsockConfig { cid }));
        }
        for text in ["cid=2", "cid=4294967295", "cid=", "cid=+3", "cid=x"] {
            let message = VsockConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains("3 to 4294967294"), "{message}");
        }
        assert!(VsockConfig::parse("").is_err());
    }
}
