//! Debian's cloud kernels: downloaded once, unpacked under `target/`, never
//! installed. A stamp (package and version) tells that a folder is complete, so
//! later runs need no network; `cargo clean` makes the next run fetch anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{artifacts, bzimage, cmd, paths, say, setup};

/// One kernel, unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// "6.1" or "6.12".
    pub(crate) series: String,
    /// The folder of `vmlinuz`, `vmlinux` and `modules`.
    pub(crate) dir: PathBuf,
    /// Package and version.
    pub(crate) stamp: String,
}

/// Every kernel of `resources/artifacts.txt`, fetched if need be.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    artifacts::kernels()?
        .iter()
        .map(|(series, meta)| fetch(series, meta))
        .collect()
}

fn fetch(series: &str, meta: &str) -> Result<Kernel> {
    let dir = paths::cache("kernels")?.join(series);
    let stamp = dir.join("stamp");
    if let Ok(stamp) = fs::read_to_string(&stamp) {
        return Ok(Kernel {
            series: series.to_owned(),
            dir,
            stamp,
        });
    }
    let fresh = dir.with_file_name(format!("{series}.new"));
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let package = versioned(series, meta)?;
    say!("downloading {package}");
    cmd::run(
        Command::new("apt-get")
            .args(["download", "-q", &package])
            .current_dir(&fresh),
    )
    .with_context(|| format!("cannot download {package}; is the network there?"))?;
    let deb = one_file(&fresh, "deb")?;
    cmd::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&deb)
            .arg(fresh.join("root")),
    )?;
    fs::rename(
        one_file(&fresh.join("root/boot"), "vmlinuz")?,
        fresh.join("vmlinuz"),
    )?;
    let modules = ["root/lib/modules", "root/usr/lib/modules"].map(|p| fresh.join(p));
    match modules.iter().find(|p| p.is_dir()) {
        Some(modules) => fs::rename(modules, fresh.join("modules"))?,
        None => bail!("{package} holds no modules"),
    }
    bzimage::extract(&fresh.join("vmlinuz"), &fresh.join("vmlinux"))?;
    let name = deb
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    fs::remove_file(&deb)?;
    fs::remove_dir_all(fresh.join("root"))?;
    fs::write(fresh.join("stamp"), &name)?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::rename(&fresh, &dir)?;
    Ok(Kernel {
        series: series.to_owned(),
        dir,
        stamp: name,
    })
}

/// The package that the meta package depends on now.
fn versioned(series: &str, meta: &str) -> Result<String> {
    if let Some(package) = depends(meta) {
        return checked(series, meta, package);
    }
    setup::apt_update()?;
    match depends(meta) {
        Some(package) => checked(series, meta, package),
        None => bail!(
            "the package archive has no {meta}; the images are made from Debian 12 \
             (bookworm, with its security archive): see resources/README.md"
        ),
    }
}

fn depends(meta: &str) -> Option<String> {
    let out = cmd::text(Command::new("apt-cache").args(["depends", meta])).ok()?;
    let mut lines = out
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "));
    lines
        .find(|p| p.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn checked(series: &str, meta: &str, package: String) -> Result<String> {
    if package.starts_with(&format!("linux-image-{series}.")) {
        return Ok(package);
    }
    bail!("{meta} is {package} here, not a kernel {series}: the images are made from Debian 12")
}

/// The only file of a folder with this word in its name.
fn one_file(dir: &Path, word: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_file()
            && path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().contains(word))
        {
            return Ok(path);
        }
    }
    bail!("no {word} in {}", dir.display())
}

impl Kernel {
    /// Finds modules and what they depend on, unpacked, in loading order.
    /// A module that this kernel does not have (it is built in) is left out.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        list(&self.dir.join("modules"), &mut files)?;
        let mut found = Vec::new();
        for name in names {
            resolve(name, &files, &mut found)?;
        }
        Ok(found)
    }
}

fn list(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// Adds a module after those it depends on. File names have `-` or `_`, `depends`
/// either too.
fn resolve(name: &str, files: &[PathBuf], found: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = name.replace('-', "_");
    let stem = |p: &PathBuf| {
        let file = p.file_name()?.to_str()?;
        let (stem, _) = file.split_once(".ko")?;
        Some(stem.replace('-', "_"))
    };
    if found.iter().any(|(n, _)| *n == name) {
        return Ok(());
    }
    let Some(path) = files.iter().find(|p| stem(p).as_deref() == Some(&name)) else {
        return Ok(());
    };
    let data = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => cmd::output(Command::new("xz").arg("-dc").arg(path))?,
        _ => fs::read(path)?,
    };
    for dependency in module_depends(&data) {
        resolve(&dependency, files, found)?;
    }
    found.push((name, data));
    Ok(())
}

/// The `depends=` field of a module's `.modinfo`.
fn module_depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    let text = String::from_utf8_lossy(&rest[..end]);
    text.split(',')
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_names_the_dependencies() {
        assert_eq!(
            module_depends(b"x\0license=GPL\0depends=kvm,ccp\0y"),
            ["kvm", "ccp"]
        );
        assert!(module_depends(b"x\0depends=\0y").is_empty());
        assert!(module_depends(b"").is_empty());
    }

    #[test]
    fn a_kernel_of_another_series_is_refused() {
        assert!(checked("6.1", "m", "linux-image-6.12.117+deb12-cloud-amd64".into()).is_err());
        assert!(checked("6.1", "m", "linux-image-6.1.0-56-cloud-amd64".into()).is_ok());
    }
}
