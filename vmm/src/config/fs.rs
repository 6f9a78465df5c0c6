//! `--fs`.

use std::path::PathBuf;

use super::ConfigError;
use super::options::{Flag, Options};

const FLAG: Flag = Flag {
    name: "--fs",
    keys: &["tag", "path", "readonly", "socket"],
    accepted: "tag=NAME,path=FOLDER[,readonly=on|off] or tag=NAME,socket=PATH",
};
const TAG: &str = "1 to 36 bytes";

/// A folder that the guest mounts by its tag (virtiofs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsConfig {
    /// The name by which the guest mounts it: 1 to 36 bytes.
    pub tag: String,
    /// Who serves it.
    pub source: FsSource,
}

/// Who serves a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FsSource {
    /// A virtiofsd that we start.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Whether the guest may only read.
        readonly: bool,
    },
    /// A process that listens at this Unix socket.
    Socket(PathBuf),
}

impl FsConfig {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let options = Options::parse(FLAG, text)?;
        let tag = options.require("tag")?;
        if tag.is_empty() || tag.len() > 36 || tag.contains('\0') {
            return Err(options.bad("tag", tag, TAG));
        }
        let readonly = options.switch("readonly")?;
        let source = match (options.path("path")?, options.path("socket")?) {
            (Some(path), None) => FsSource::Folder {
                path,
                readonly: readonly.unwrap_or(false),
            },
            (None, Some(socket)) if readonly.is_none() => FsSource::Socket(socket),
            (None, None) => {
                return Err(ConfigError::MissingKey {
                    flag: FLAG.name,
                    key: "path",
                    accepted: FLAG.accepted,
                });
            }
            (None | Some(_), Some(_)) => {
                return Err(ConfigError::KeyExcludes {
                    flag: FLAG.name,
                    key: "socket",
                    accepted: FLAG.accepted,
                });
            }
        };
        Ok(Self {
            tag: tag.to_owned(),
            source,
        })
    }

    /// The flag with the value that names the device, for messages.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--fs tag={}", self.tag)
    }
}

/// No two folders with one name: the guest could not choose.
pub(crate) fn tags_differ(folders: &[FsConfig]) -> Result<(), ConfigError> {
    for (index, folder) in folders.iter().enumerate() {
        if folders
            .iter()
            .take(index)
            .any(|other| other.tag == folder.tag)
        {
            return Err(ConfigError::SameName {
                flag: FLAG.name,
                key: "tag",
                value: folder.tag.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let folder = |text| FsConfig::parse(text).unwrap();
        assert_eq!(
            folder("tag=src,path=/a"),
            FsConfig {
                tag: "src".into(),
                source: FsSource::Folder {
                    path: "/a".into(),
                    readonly: false
                },
            }
        );
        assert!(matches!(
            folder("readonly=on,path=/a,tag=x").source,
            FsSource::Folder { readonly: true, .. }
        ));
        assert_eq!(
            folder("tag=x,socket=/s").source,
            FsSource::Socket("/s".into())
        );
        for (text, parts) in [
            ("path=/a", "'tag' is missing"),
            ("tag=x", "'path' is missing"),
            ("tag=,path=/a", "'' is not possible for 'tag'"),
            ("tag=x,path=", "'' is not possible for 'path'"),
            ("tag=x,path=/a,socket=/s", "'socket' excludes"),
            ("tag=x,socket=/s,readonly=on", "'socket' excludes"),
            (
                "tag=x,path=/a,readonly=yes",
                "'yes' is not possible for 'readonly'",
            ),
            (
                "tag=0123456789012345678901234567890123456,path=/a",
                "1 to 36 bytes",
            ),
        ] {
            let message = FsConfig::parse(text).unwrap_err().to_string();
            assert!(message.starts_with("--fs: "), "{message}");
            assert!(message.contains(parts), "{text}: {message}");
        }
        let same = [folder("tag=x,path=/a"), folder("tag=x,path=/b")];
        let message = tags_differ(&same).unwrap_err().to_string();
        assert!(message.contains("'x'"), "{message}");
        assert_eq!(tags_differ(&same[..1]), Ok(()));
    }
}
