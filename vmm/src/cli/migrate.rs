//! The value of `ctl migrate --to`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Where a VM moves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateTo {
    /// The socket of the destination.
    pub socket: PathBuf,
    /// The longest time that the guest may stand, ms; `None` for the usual one.
    pub downtime_ms: Option<u64>,
}

impl MigrateTo {
    /// Reads `socket=PATH[,downtime=N[ms]]`; the path may have commas.
    ///
    /// # Errors
    /// What is expected.
    pub fn parse(value: &OsStr) -> Result<Self, String> {
        const EXPECTED: &str = "expected: socket=PATH[,downtime=N], N in ms, 1 to 60000";
        const KEY: &[u8] = b",downtime=";
        let bytes = value.as_bytes();
        let bytes = bytes.strip_prefix(b"socket=").ok_or(EXPECTED)?;
        let key = bytes.windows(KEY.len()).rposition(|part| part == KEY);
        let (path, downtime_ms) = match key {
            None => (bytes, None),
            Some(at) => {
                let number = std::str::from_utf8(&bytes[at + KEY.len()..]).map_err(|_| EXPECTED)?;
                let number = number.strip_suffix("ms").unwrap_or(number);
                let ms: u64 = number.parse().map_err(|_| EXPECTED)?;
                let ms = Some(ms)
                    .filter(|ms| (1..=60_000).contains(ms))
                    .ok_or(EXPECTED)?;
                (&bytes[..at], Some(ms))
            }
        };
        if path.is_empty() {
            return Err(EXPECTED.to_owned());
        }
        Ok(Self {
            socket: PathBuf::from(OsString::from_vec(path.to_vec())),
            downtime_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_and_a_time() {
        for (text, socket, downtime_ms) in [
            ("socket=/a", "/a", None),
            ("socket=/a,b,downtime=20ms", "/a,b", Some(20)),
            ("socket=a,downtime=60000", "a", Some(60_000)),
        ] {
            let socket = socket.into();
            let expected = MigrateTo {
                socket,
                downtime_ms,
            };
            assert_eq!(MigrateTo::parse(text.as_ref()), Ok(expected));
        }
        for text in [
            "",
            "/a",
            "socket=",
            "socket=,downtime=5",
            "socket=a,downtime=0",
            "socket=a,downtime=1s",
        ] {
            assert!(MigrateTo::parse(text.as_ref()).is_err(), "{text}");
        }
    }
}
