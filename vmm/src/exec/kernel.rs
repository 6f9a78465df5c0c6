//! The guest's kernel: which file, which version, and where its modules are.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::sys::files::{FileFault, InputFile};

/// Where distributions put kernels.
const BOOT: &str = "/boot";
/// Where they put modules; Fedora a kernel as well.
const MODULES: &str = "/lib/modules";
/// How a kernel's file name begins.
const PREFIX: &str = "vmlinuz-";
/// Linux x86 boot protocol, "The Real-Mode Kernel Header": where the setup code ends
/// that holds the version, and where the address of its text is.
const MAGIC: (u64, [u8; 4]) = (0x202, *b"HdrS");
const VERSION_AT: u64 = 0x20e;
/// The setup code is behind the boot sector.
const BOOT_SECTOR: u64 = 0x200;
/// The longest version that is read.
const LONGEST_VERSION: usize = 256;

/// The reason why there is no kernel for the guest.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The host's kernel is nowhere.
    #[error(
        "--kernel host: no kernel of the host is in {BOOT} or {MODULES}; install a kernel package (Debian: linux-image-cloud-amd64), or use --kernel PATH"
    )]
    None,
    /// The caller may not read it.
    #[error(
        "--kernel: {path} may be read by root only; use sudo chmod a+r {path}, or --kernel PATH with a copy"
    )]
    Forbidden {
        /// The kernel.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("--kernel: cannot read {path}; expected: a Linux bzImage")]
    Read {
        /// The kernel.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// It is no file.
    #[error("--kernel: {path} is not a regular file but {kind}; expected: a Linux bzImage")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// The kind of file, in words.
        kind: &'static str,
    },
    /// It is no Linux kernel that tells its version.
    #[error("--kernel: {path} is no Linux bzImage; expected: a kernel as distributions ship it")]
    NotLinux {
        /// The file.
        path: PathBuf,
    },
}

/// A kernel of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestKernel {
    /// Its file.
    pub path: PathBuf,
    /// Its version, by which its modules are found: such as 6.12.48-cloud-amd64.
    pub version: String,
}

impl GuestKernel {
    /// The kernel that `--kernel` names: `host`, or a path.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(super) fn find(named: &OsStr) -> Result<Self, KernelError> {
        if named == "host" {
            let running = rustix::system::uname();
            let running = running.release().to_string_lossy().into_owned();
            let path = of_host(Path::new("/"), &running).ok_or(KernelError::None)?;
            return Self::open(path);
        }
        Self::open(named.into())
    }

    fn open(path: PathBuf) -> Result<Self, KernelError> {
        let mut file = match InputFile::open(&path) {
            Ok(input) => input.file,
            Err(FileFault::Kind(kind)) => return Err(KernelError::NotAFile { path, kind }),
            Err(FileFault::Io(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(KernelError::Forbidden { path });
            }
            Err(FileFault::Io(source)) => return Err(KernelError::Read { path, source }),
        };
        match version(&mut file) {
            Ok(Some(version)) => Ok(Self { path, version }),
            Ok(None) => Err(KernelError::NotLinux { path }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(KernelError::NotLinux { path })
            }
            Err(source) => Err(KernelError::Read { path, source }),
        }
    }

    /// The folder of its modules: of the guest's root, of the host, or beside the kernel
    /// as in a package that is unpacked. `None` if none of them is there.
    #[must_use]
    pub(super) fn modules(&self, root: &Path) -> Option<PathBuf> {
        let version = &self.version;
        let beside = self.path.parent().and_then(Path::parent);
        let roots = [Some(root), Some(Path::new("/")), beside];
        let folders = roots.into_iter().flatten().flat_map(|root| {
            ["lib/modules", "usr/lib/modules"].map(|modules| root.join(modules).join(version))
        });
        let mut folders = folders.filter(|folder| folder.join("modules.builtin").is_file());
        folders.next()
    }
}

/// The kernel that runs, else the newest that is there.
fn of_host(root: &Path, running: &str) -> Option<PathBuf> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let own = below(BOOT).join(format!("{PREFIX}{running}"));
    let packaged = below(MODULES).join(running).join("vmlinuz");
    if let Some(path) = [own, packaged].into_iter().find(|path| path.is_file()) {
        return Some(path);
    }
    let entries = fs::read_dir(below(BOOT)).into_iter().flatten().flatten();
    let kernels = entries.filter_map(|entry| {
        let name = entry.file_name().to_str()?.to_owned();
        let version = name.strip_prefix(PREFIX)?;
        Some((sort_key(version), entry.path()))
    });
    kernels.max().map(|(_, path)| path)
}

/// Versions in the order of their numbers: 6.9 is before 6.12.
fn sort_key(version: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    for part in version.split(['.', '-', '+', '~']) {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = part.split_at(digits);
        key.push((number.parse().unwrap_or(0), rest.to_owned()));
    }
    key
}

/// The first word of the version in a bzImage; `None` if the file is none.
fn version(file: &mut (impl Read + Seek)) -> io::Result<Option<String>> {
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(MAGIC.0))?;
    file.read_exact(&mut magic)?;
    let mut at = [0; 2];
    file.seek(SeekFrom::Start(VERSION_AT))?;
    file.read_exact(&mut at)?;
    let at = u64::from(u16::from_le_bytes(at));
    if magic != MAGIC.1 || at == 0 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at + BOOT_SECTOR))?;
    let mut text = Vec::new();
    file.take(LONGEST_VERSION as u64).read_to_end(&mut text)?;
    let word = text.split(|byte| *byte == 0 || *byte == b' ').next();
    let word = word.and_then(|word| std::str::from_utf8(word).ok());
    // It becomes a part of a path.
    let is_name = |word: &&str| !word.is_empty() && !word.contains('/') && *word != "..";
    Ok(word.filter(is_name).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::sys::scratch::Scratch;

    fn image(version: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x300 + version.len()].copy_from_slice(version.as_bytes());
        image
    }

    #[test]
    fn the_version_is_the_first_word_of_the_text() {
        let read = |bytes: Vec<u8>| version(&mut Cursor::new(bytes));
        let text = "6.12.48-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP";
        assert_eq!(
            read(image(text)).unwrap().as_deref(),
            Some("6.12.48-cloud-amd64")
        );
        for text in ["", "../../etc", ".."] {
            assert_eq!(read(image(text)).unwrap(), None, "{text}");
        }
        let mut other = image("6.1");
        other[0x202] = b'x';
        assert_eq!(read(other).unwrap(), None);
        assert!(read(vec![0; 100]).is_err());
    }

    #[test]
    fn the_running_kernel_comes_first_then_the_newest() {
        let scratch = Scratch::new("exec-kernels");
        let boot = scratch.0.join("boot");
        assert_eq!(of_host(&scratch.0, "6.1"), None);
        fs::create_dir_all(&boot).unwrap();
        for version in ["6.9.1-1", "6.12.48+deb13-cloud-amd64", "6.12.5-1"] {
            fs::write(boot.join(format!("vmlinuz-{version}")), "").unwrap();
        }
        let found = |running| of_host(&scratch.0, running).unwrap();
        assert_eq!(found("6.9.1-1"), boot.join("vmlinuz-6.9.1-1"));
        assert_eq!(
            found("6.18"),
            boot.join("vmlinuz-6.12.48+deb13-cloud-amd64")
        );
    }

    #[test]
    fn a_kernel_that_cannot_be_used_is_refused_in_words() {
        let message = |path: &str| GuestKernel::find(OsStr::new(path)).unwrap_err().to_string();
        assert!(message("/does/not/exist").contains("cannot read /does/not/exist"));
        assert!(message("/").contains("a directory"));
        assert!(message("/proc/self/exe").contains("no Linux bzImage"));
    }
}
