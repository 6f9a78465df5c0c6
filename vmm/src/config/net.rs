//! `--net`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--net",
    keys: &["tap", "mac", "vhost-user", "socket"],
    accepted: "user[,mac=MAC], tap=NAME[,mac=MAC] or vhost-user=on,socket=PATH[,mac=MAC]",
};
const MAC: &str = "six bytes of a single card, such as 52:54:00:12:34:56";
const TAP: &str = "the name of a tap device, 1 to 15 bytes without / and spaces";

/// The address of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(())?;
            let hex = part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit());
            *byte = hex
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
                .ok_or(())?;
        }
        // The lowest bit of the first byte is that of groups of cards (IEEE 802).
        let single = bytes.first().is_some_and(|first| first & 1 == 0);
        if parts.next().is_some() || !single || bytes == [0; 6] {
            return Err(());
        }
        Ok(Self(bytes))
    }
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Who is at the other end.
    pub source: NetSource,
    /// Its address; `None` for a random one.
    pub mac: Option<MacAddress>,
}

/// Who is at the other end of a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetSource {
    /// A passt that we start.
    User,
    /// A tap device of the host, by its kernel's vhost-net.
    Tap(String),
    /// A process that listens at this Unix socket.
    Socket(PathBuf),
}

impl NetConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let (user, rest) = match text.split_once(',') {
            None if text == "user" => (true, ""),
            Some(("user", rest)) => (true, rest),
            _ => (false, text),
        };
        if user && rest.is_empty() {
            return Ok(Self {
                source: NetSource::User,
                mac: None,
            });
        }
        let options = Options::parse(FLAG, rest)?;
        let mac = match options.get("mac") {
            None => None,
            Some(text) => match text.parse() {
                Ok(mac) => Some(mac),
                Err(()) => return Err(options.bad("mac", text, MAC)),
            },
        };
        let socket = options.path("socket")?;
        let by_socket = options.switch("vhost-user")?.unwrap_or(false);
        let excluded = |key| ConfigError::KeyExcludes {
            flag: FLAG.name,
            key,
            accepted: FLAG.accepted,
        };
        let missing = |key| ConfigError::MissingKey {
            flag: FLAG.name,
            key,
            accepted: FLAG.accepted,
        };
        let source = match (user, options.get("tap"), by_socket, socket) {
            (true, None, false, None) => NetSource::User,
            (true, Some(_), ..) => return Err(excluded("tap")),
            (true, ..) => return Err(excluded("vhost-user")),
            (false, Some(tap), false, None) => {
                NetSource::Tap(checked_tap(tap).ok_or_else(|| options.bad("tap", tap, TAP))?)
            }
            (false, Some(_), ..) => return Err(excluded("tap")),
            (false, None, true, Some(socket)) => NetSource::Socket(socket),
            (false, None, true, None) => return Err(missing("socket")),
            (false, None, false, Some(_)) => return Err(missing("vhost-user")),
            (false, None, false, None) => return Err(missing("tap")),
        };
        Ok(Self { source, mac })
    }

    /// The flag with the value that names the device, for messages.
    #[must_use]
    pub fn flag(&self) -> String {
        match &self.source {
            NetSource::User => "--net user".to_owned(),
            NetSource::Tap(tap) => format!("--net tap={tap}"),
            NetSource::Socket(path) => format!("--net socket={}", path.display()),
        }
    }
}

/// A name that the kernel takes as it is: no %, by which it would number devices.
fn checked_tap(name: &str) -> Option<String> {
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let plain = name
        .chars()
        .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | '%' | ':'));
    (fits && plain).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let card = |text| NetConfig::parse(text).unwrap();
        assert_eq!(card("user").source, NetSource::User);
        assert_eq!(card("tap=tap0").source, NetSource::Tap("tap0".into()));
        let by_socket = card("vhost-user=on,socket=/s,mac=52:54:00:AB:cd:01");
        assert_eq!(by_socket.source, NetSource::Socket("/s".into()));
        assert_eq!(by_socket.mac.unwrap().to_string(), "52:54:00:ab:cd:01");
        assert!(card("user,mac=02:00:00:00:00:01").mac.is_some());
        for (text, part) in [
            ("", "''"),
            ("users", "'users' is not key=value"),
            ("user,tap=t", "'tap' excludes"),
            ("user,socket=/s", "'vhost-user' excludes"),
            ("tap=", "'' is not possible for 'tap'"),
            ("tap=a/b", "'a/b' is not possible"),
            ("tap=tap%d", "'tap%d' is not possible"),
            ("tap=0123456789abcdef", "1 to 15 bytes"),
            ("tap=t,vhost-user=on,socket=/s", "'tap' excludes"),
            ("vhost-user=on", "'socket' is missing"),
            ("socket=/s", "'vhost-user' is missing"),
            ("mac=52:54:00:12:34:56", "'tap' is missing"),
            ("tap=t,mac=53:54:00:12:34:56", "six bytes of a single card"),
            ("tap=t,mac=0:0:0:0:0:1", "six bytes"),
            ("tap=t,mac=00:00:00:00:00:00", "six bytes"),
            ("tap=t,mac=52:54:00:12:34:56:78", "six bytes"),
            ("tap=t,mac=+2:54:00:12:34:56", "six bytes"),
        ] {
            let message = NetConfig::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--net: "), "{message}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
