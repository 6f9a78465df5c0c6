//! The folders of the host that the guest sees, checked.

use std::path::{Component, Path, PathBuf};
use std::{env, fs, io};

use guest_words::Share;
use thiserror::Error;

/// Folders that the guest has for itself.
const GUESTS_OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The reason why a folder cannot be shared.
#[derive(Debug, Error)]
pub enum FolderError {
    /// It is not there, or cannot be used.
    #[error("{flag}: cannot use {path}; expected: a folder of this host")]
    Unusable {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// It is a file.
    #[error("{flag}: {path} is no folder; expected: a folder of this host")]
    NotAFolder {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Two of the flags name folders of which one holds the other.
    #[error("{flag} {path}: it lies inside {outer_flag} {outer}; use one of the two")]
    Inside {
        /// The flag of the inner folder.
        flag: &'static str,
        /// The inner folder.
        path: PathBuf,
        /// The flag of the outer folder.
        outer_flag: &'static str,
        /// The outer folder.
        outer: PathBuf,
    },
    /// The guest has another folder there.
    #[error("{flag}: {path} cannot be shared, for {reason}; use another folder")]
    Reserved {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The folder in which perfvisor runs is gone.
    #[error("the working directory cannot be shared; change to another folder (cd)")]
    NoDirectory(#[source] io::Error),
    /// The folder in which perfvisor runs cannot be shared.
    #[error(
        "the working directory {path} cannot be shared, for {reason}; change to another folder (cd), as exec shares it read-write"
    )]
    Directory {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

/// What the flags name.
#[derive(Clone, Debug, Default)]
pub(super) struct AskedFolders {
    /// `--root`.
    pub root: PathBuf,
    /// `--rw`.
    pub writable: Vec<PathBuf>,
    /// `--ro`.
    pub readable: Vec<PathBuf>,
}

/// A folder of the host, and where the guest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedPath {
    /// What the guest is told.
    pub share: Share,
    /// The folder of the host.
    pub host: PathBuf,
}

/// The folders, and the one in which the command starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folders {
    /// The root first, then outer folders before inner ones.
    pub shared: Vec<SharedPath>,
    /// The working directory.
    pub directory: PathBuf,
}

impl Folders {
    /// Checks the flags and the working directory.
    ///
    /// # Errors
    /// The first folder that cannot be shared.
    pub(super) fn find(asked: &AskedFolders) -> Result<Self, FolderError> {
        let directory = env::current_dir().map_err(FolderError::NoDirectory)?;
        Self::of(asked, directory)
    }

    fn of(asked: &AskedFolders, directory: PathBuf) -> Result<Self, FolderError> {
        let root = folder("--root", &asked.root)?;
        let mut named: Vec<(&str, PathBuf, bool)> = Vec::new();
        let writable = asked.writable.iter().map(|path| ("--rw", path, true));
        let readable = asked.readable.iter().map(|path| ("--ro", path, false));
        for (flag, path, writable) in writable.chain(readable) {
            let path = folder(flag, path)?;
            if let Some(reason) = reserved(&path) {
                return Err(FolderError::Reserved { flag, path, reason });
            }
            if let Some((inner, outer)) = nested(&named, flag, &path) {
                return Err(FolderError::Inside {
                    flag: inner.0,
                    path: inner.1,
                    outer_flag: outer.0,
                    outer: outer.1,
                });
            }
            named.push((flag, path, writable));
        }
        if !named.iter().any(|(_, path, _)| directory.starts_with(path)) {
            if let Some(reason) = reserved(&directory) {
                let path = directory;
                return Err(FolderError::Directory { path, reason });
            }
            named.push(("", directory.clone(), true));
        }
        // Outer folders are shorter.
        named.sort_by_key(|(_, path, _)| path.components().count());
        let others = named.into_iter().enumerate();
        let others = others.map(|(number, (_, path, writable))| SharedPath {
            share: Share {
                tag: format!("folder{number}"),
                path: path.clone(),
                writable,
            },
            host: path,
        });
        let root = SharedPath {
            share: Share {
                tag: "root".into(),
                path: "/".into(),
                writable: false,
            },
            host: root,
        };
        Ok(Self {
            shared: std::iter::once(root).chain(others).collect(),
            directory,
        })
    }
}

/// The absolute path of a folder, without links.
fn folder(flag: &'static str, path: &Path) -> Result<PathBuf, FolderError> {
    let unusable = |source| FolderError::Unusable {
        flag,
        path: path.to_owned(),
        source,
    };
    let absolute = fs::canonicalize(path).map_err(unusable)?;
    if !fs::metadata(&absolute).map_err(unusable)?.is_dir() {
        return Err(FolderError::NotAFolder {
            flag,
            path: path.to_owned(),
        });
    }
    Ok(absolute)
}

/// Why the guest cannot have a folder of the host there.
fn reserved(path: &Path) -> Option<&'static str> {
    if path.components().all(|part| part == Component::RootDir) {
        return Some("the guest's root is never written to the host");
    }
    let own = GUESTS_OWN.iter().any(|own| path.starts_with(own));
    own.then_some("the guest has its own /proc, /sys and /dev")
}

type Named = (&'static str, PathBuf);

/// The inner and the outer folder, if this one and another are within each other.
fn nested(
    named: &[(&'static str, PathBuf, bool)],
    flag: &'static str,
    path: &Path,
) -> Option<(Named, Named)> {
    named.iter().find_map(|(other_flag, other, _)| {
        let (this, other) = ((flag, path.to_owned()), (*other_flag, other.clone()));
        if path.starts_with(&other.1) {
            Some((this, other))
        } else if other.1.starts_with(path) {
            Some((other, this))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    fn asked(writable: &[&Path], readable: &[&Path]) -> AskedFolders {
        let owned = |paths: &[&Path]| paths.iter().map(|path| path.to_path_buf()).collect();
        AskedFolders {
            root: "/".into(),
            writable: owned(writable),
            readable: owned(readable),
        }
    }

    fn shared(folders: &Folders) -> Vec<(&str, bool)> {
        let shares = folders.shared.iter().map(|folder| &folder.share);
        shares
            .map(|share| (share.path.to_str().unwrap(), share.writable))
            .collect()
    }

    #[test]
    fn outer_folders_come_first_and_each_folder_once() {
        let scratch = Scratch::new("exec-folders");
        let base = fs::canonicalize(&scratch.0).unwrap();
        let inner = base.join("work/data");
        fs::create_dir_all(&inner).unwrap();
        let work = base.join("work");
        // Read-only data within a working directory.
        let folders = Folders::of(&asked(&[], &[&inner]), work.clone()).unwrap();
        assert_eq!(
            shared(&folders),
            [
                ("/", false),
                (work.to_str().unwrap(), true),
                (inner.to_str().unwrap(), false)
            ]
        );
        // A working directory within a folder that is shared.
        let folders = Folders::of(&asked(&[&work], &[]), inner.clone()).unwrap();
        assert_eq!(
            shared(&folders),
            [("/", false), (work.to_str().unwrap(), true)]
        );
        assert_eq!(folders.directory, inner);
        // `--ro .` makes it read-only.
        let folders = Folders::of(&asked(&[], &[&work]), work.clone()).unwrap();
        assert_eq!(
            shared(&folders),
            [("/", false), (work.to_str().unwrap(), false)]
        );
    }

    #[test]
    fn folders_that_cannot_be_shared_are_refused_in_words() {
        let scratch = Scratch::new("exec-refused");
        let base = fs::canonicalize(&scratch.0).unwrap();
        let (inner, file) = (base.join("a"), base.join("file"));
        fs::create_dir_all(&inner).unwrap();
        fs::write(&file, "").unwrap();
        let missing = base.join("missing");
        let refused = |writable: &[&Path], readable: &[&Path], directory: &str| {
            Folders::of(&asked(writable, readable), directory.into())
                .unwrap_err()
                .to_string()
        };
        let text = refused(&[&missing], &[], "/tmp");
        assert!(text.starts_with("--rw: cannot use "), "{text}");
        let text = refused(&[], &[&file], "/tmp");
        assert!(text.contains("is no folder"), "{text}");
        for (first, second) in [(&base, &inner), (&inner, &base)] {
            let text = refused(&[first], &[second], "/tmp");
            let expected = format!("{}: it lies inside --", inner.display());
            assert!(text.contains(&expected), "{text}");
        }
        let text = refused(&[&base, &base], &[], "/tmp");
        assert!(text.contains("it lies inside --rw"), "{text}");
        for directory in ["/", "/proc/1", "/dev/shm"] {
            let text = refused(&[], &[], directory);
            assert!(
                text.contains(&format!("the working directory {directory} cannot")),
                "{text}"
            );
        }
        let text = refused(&[Path::new("/")], &[], "/tmp");
        assert!(text.starts_with("--rw: / cannot be shared"), "{text}");
    }
}
