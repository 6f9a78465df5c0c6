//! Initramfs archives: a writer of the cpio "newc" format, so that they come out
//! the same for everyone (no owners, no times, no device nodes to make as root).

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHAR: u32 = 0o020_000;

/// An archive that is being written. Folders come into being with what lies in them.
#[derive(Debug)]
pub(crate) struct Cpio<W: Write> {
    out: W,
    written: u64,
    inode: u32,
    dirs: std::collections::BTreeSet<String>,
}

impl Cpio<BufWriter<fs::File>> {
    /// Starts an archive in a new file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self::new(BufWriter::with_capacity(1 << 20, file)))
    }
}

impl<W: Write> Cpio<W> {
    /// Starts an archive.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
            dirs: std::collections::BTreeSet::new(),
        }
    }

    /// Adds a folder and those above it.
    pub(crate) fn dir(&mut self, name: &str) -> Result<()> {
        self.parents(name)?;
        if self.dirs.insert(name.to_owned()) {
            self.entry(name, DIR | 0o755, (0, 0), &[])?;
        }
        Ok(())
    }

    /// Adds a file with the given permission bits.
    pub(crate) fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.parents(name)?;
        self.entry(name, FILE | (mode & 0o7777), (0, 0), data)
    }

    /// Adds a copy of a file of this machine.
    pub(crate) fn copy(&mut self, name: &str, mode: u32, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(name, mode, &data)
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.parents(name)?;
        self.entry(name, LINK | 0o777, (0, 0), to.as_bytes())
    }

    /// Adds `/dev/console`, which the kernel opens for `/init` before devtmpfs is there.
    pub(crate) fn console(&mut self) -> Result<()> {
        self.dir("dev")?;
        self.entry("dev/console", CHAR | 0o600, (5, 1), &[])
    }

    /// Adds a whole folder of this machine under `name`, links as links.
    pub(crate) fn tree(&mut self, name: &str, from: &Path) -> Result<()> {
        self.dir(name)?;
        let read = || format!("cannot read {}", from.display());
        let mut entries: Vec<_> = fs::read_dir(from)
            .with_context(read)?
            .collect::<io::Result<_>>()
            .with_context(read)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let Some(last) = entry.file_name().to_str().map(str::to_owned) else {
                bail!("the name of {} is not UTF-8", path.display());
            };
            let inside = format!("{name}/{last}");
            let meta = fs::symlink_metadata(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            if meta.is_dir() {
                self.tree(&inside, &path)?;
            } else if meta.is_symlink() {
                self.link(&inside, &fs::read_link(&path)?.to_string_lossy())?;
            } else if meta.is_file() {
                use std::os::unix::fs::PermissionsExt;
                self.copy(&inside, meta.permissions().mode(), &path)?;
            }
        }
        Ok(())
    }

    /// Ends the archive; another may be appended to it.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(512)?;
        self.out.flush().context("cannot write the archive")?;
        Ok(self.out)
    }

    fn parents(&mut self, name: &str) -> Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.dir(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, rdev: (u32, u32), data: &[u8]) -> Result<()> {
        self.inode += 1;
        let Ok(size) = u32::try_from(data.len()) else {
            bail!("{name} has 4 GiB or more: too large for an initramfs");
        };
        // magic ino mode uid gid nlink mtime filesize devmajor devminor rdev namesize check
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            self.inode,
            0,
            0,
            1,
            0,
            0,
            0,
            rdev.0,
            rdev.1,
            name.len() + 1,
            0,
        );
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(data)?;
        self.pad(4)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out
            .write_all(bytes)
            .context("cannot write the archive")?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, to: u64) -> Result<()> {
        while !self.written.is_multiple_of(to) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_padded_and_make_their_folders_once() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("a/b/one", 0o755, b"xyz").unwrap();
        cpio.link("a/b/two", "one").unwrap();
        let bytes = cpio.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(bytes.windows(6).filter(|w| w == b"070701").count(), 5);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..112], b"a\0");
    }
}
