//! `--disk`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--disk",
    keys: &[
        "path",
        "readonly",
        "format",
        "direct",
        "id",
        "vhost-user",
        "socket",
    ],
    accepted: "path=P[,readonly=on|off][,format=raw|qcow2][,direct=on|off][,id=NAME] or vhost-user=on,socket=PATH",
};

/// The keys of a disk in a file.
const FILE_KEYS: [&str; 5] = ["path", "readonly", "format", "direct", "id"];
/// The longest id: what a driver reads (VIRTIO_BLK_ID_BYTES).
const MAX_ID: usize = 20;

/// How the bytes of a file are a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// They are the disk's bytes.
    Raw,
    /// They are a qcow2 image.
    Qcow2,
}

/// A disk of the guest, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskArg {
    /// We do, from a file.
    File(DiskConfig),
    /// A process that listens at this Unix socket.
    Socket(PathBuf),
}

impl DiskArg {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        let by_socket = options.switch("vhost-user")?.unwrap_or(false);
        let socket = options.path("socket")?;
        let missing = |key| ConfigError::MissingKey {
            flag: FLAG.name,
            key,
            accepted: FLAG.accepted,
        };
        match (by_socket, socket) {
            (false, None) => DiskConfig::from_options(&options).map(Self::File),
            (false, Some(_)) => Err(missing("vhost-user")),
            (true, None) => Err(missing("socket")),
            // The process knows the rest.
            (true, Some(socket)) => match FILE_KEYS.iter().find(|key| options.get(key).is_some()) {
                Some(key) => Err(ConfigError::KeyExcludes {
                    flag: FLAG.name,
                    key,
                    accepted: FLAG.accepted,
                }),
                None => Ok(Self::Socket(socket)),
            },
        }
    }
}

/// A disk in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// Whether the guest may not write it.
    pub read_only: bool,
    /// The format; `None` for raw bytes of a file that does not look like an image.
    pub format: Option<DiskFormat>,
    /// Whether the host's page cache is passed by.
    pub direct: bool,
    /// The name by which the guest finds it (`/dev/disk/by-id/virtio-NAME`).
    pub id: Option<String>,
}

impl DiskConfig {
    fn from_options(options: &Options<'_>) -> Result<Self, ConfigError> {
        let path = options.require("path")?;
        if path.is_empty() {
            return Err(ConfigError::MissingKey {
                flag: FLAG.name,
                key: "path",
                accepted: FLAG.accepted,
            });
        }
        let format = match options.get("format") {
            None => None,
            Some("raw") => Some(DiskFormat::Raw),
            Some("qcow2") => Some(DiskFormat::Qcow2),
            Some(other) => return Err(options.bad("format", other, "raw or qcow2")),
        };
        let good = |id: &str| {
            let printable = id.bytes().all(|byte| byte.is_ascii_graphic());
            (1..=MAX_ID).contains(&id.len()) && printable
        };
        let id = options.get("id");
        if let Some(id) = id.filter(|id| !good(id)) {
            let accepted = "1 to 20 printable ASCII characters without a space";
            return Err(options.bad("id", id, accepted));
        }
        Ok(Self {
            path: path.into(),
            read_only: options.switch("readonly")?.unwrap_or(false),
            format,
            direct: options.switch("direct")?.unwrap_or(false),
            id: id.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let plain = DiskConfig {
            path: "a".into(),
            read_only: false,
            format: None,
            direct: false,
            id: None,
        };
        assert_eq!(DiskArg::parse("path=a"), Ok(DiskArg::File(plain)));
        let all = DiskConfig {
            path: "a".into(),
            read_only: true,
            format: Some(DiskFormat::Qcow2),
            direct: true,
            id: Some("root".to_owned()),
        };
        let text = "id=root,direct=on,format=qcow2,readonly=on,path=a";
        assert_eq!(DiskArg::parse(text), Ok(DiskArg::File(all)));
        let socket = DiskArg::parse("vhost-user=on,socket=/s");
        assert_eq!(socket, Ok(DiskArg::Socket("/s".into())));
        for (text, part) in [
            ("", "'' is not key=value"),
            ("a", "'a' is not key=value"),
            ("readonly=on", "'path' is missing"),
            ("path=", "'path' is missing"),
            (
                "path=a,readonly=yes",
                "'yes' is not possible for 'readonly'; expected: on, off",
            ),
            (
                "path=a,format=vmdk",
                "'vmdk' is not possible for 'format'; expected: raw or qcow2",
            ),
            ("path=a,direct=1", "'1' is not possible for 'direct'"),
            ("path=a,id=", "'' is not possible for 'id'"),
            ("path=a,id=a b", "'a b' is not possible for 'id'"),
            (
                "path=a,id=123456789012345678901",
                "is not possible for 'id'",
            ),
            ("path=a,path=b", "'path' is given twice"),
            ("vhost-user=on", "'socket' is missing"),
            ("socket=/s", "'vhost-user' is missing"),
            ("vhost-user=off,socket=/s", "'vhost-user' is missing"),
            ("vhost-user=on,socket=", "'' is not possible for 'socket'"),
            ("vhost-user=on,socket=/s,path=a", "'path' excludes"),
            ("vhost-user=on,socket=/s,readonly=on", "'readonly' excludes"),
            ("path=a,image_type=raw", "unknown key 'image_type'"),
        ] {
            let message = DiskArg::parse(text).unwrap_err().to_string();
            assert!(message.contains("--disk"), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
