//! `--disk`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--disk",
    keys: &["path", "readonly", "format", "direct", "id"],
    accepted: "path=P[,readonly=on|off][,format=raw|qcow2][,direct=on|off][,id=NAME]",
};

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

/// A disk of the guest.
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
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
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
        assert_eq!(DiskConfig::parse("path=a"), Ok(plain));
        let all = DiskConfig {
            path: "a".into(),
            read_only: true,
            format: Some(DiskFormat::Qcow2),
            direct: true,
            id: Some("root".to_owned()),
        };
        let text = "id=root,direct=on,format=qcow2,readonly=on,path=a";
        assert_eq!(DiskConfig::parse(text), Ok(all));
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
            ("path=a,image_type=raw", "unknown key 'image_type'"),
        ] {
            let message = DiskConfig::parse(text).unwrap_err().to_string();
            assert!(message.contains("--disk"), "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
