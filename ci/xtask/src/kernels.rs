//! Debian's cloud kernels: downloaded once, unpacked under `target/`, never
//! installed. A stamp (package and version) tells that a folder is complete, so
//! later runs need no network; `cargo clean` makes the next run fetch anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{artifacts, bzimage, cmd, paths, say};

/// One kernel, unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// "6.1", "6.12" or "7".
    pub(crate) series: String,
    /// The folder of `vmlinuz`, `vmlinux` and `modules`.
    pub(crate) dir: PathBuf,
    /// Package and version.
    pub(crate) stamp: String,
}

/// The kernels of `resources/artifacts.txt` of this machine's release of Debian, fetched if
/// need be.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    those(|_, suite| suite.is_none())
}

/// The kernels of some series, whatever their release; [`all`] if none is named.
///
/// # Errors
/// If one cannot be had.
pub(crate) fn some(wanted: &[String]) -> Result<Vec<Kernel>> {
    if wanted.is_empty() {
        return all();
    }
    those(|series, _| wanted.iter().any(|name| name == series))
}

/// Those of other releases of Debian.
pub(crate) fn of_other_releases() -> Result<Vec<Kernel>> {
    those(|_, suite| suite.is_some())
}

/// Those of the table of which this is true, by their series and release.
fn those(is_wanted: impl Fn(&str, Option<&str>) -> bool) -> Result<Vec<Kernel>> {
    let mut all = Vec::new();
    for (series, meta, suite) in artifacts::kernels()? {
        if is_wanted(&series, suite.as_deref()) {
            let apt = match &suite {
                None => Apt::of_this_machine(),
                Some(suite) => Apt::of_release(suite)?,
            };
            all.push(fetch(&series, &meta, &apt)?);
        }
    }
    Ok(all)
}

/// `6.12` of `vmlinux-6.12`.
pub(crate) fn series(name: &str) -> &str {
    name.trim_start_matches(|c: char| !c.is_ascii_digit())
}

fn fetch(series: &str, meta: &str, apt: &Apt) -> Result<Kernel> {
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
    let package = versioned(series, meta, apt)?;
    say!("downloading {package}");
    let name = unpack(&package, apt, &fresh)?;
    let release = package.strip_prefix("linux-image-").unwrap_or(&package);
    let root = fresh.join("root");
    let found = |places: [String; 2]| {
        places
            .map(|p| root.join(p))
            .into_iter()
            .find(|p| p.exists())
    };
    let (Some(image), Some(modules)) = (
        found([
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ]),
        found(["lib/modules".into(), "usr/lib/modules".into()]),
    ) else {
        bail!("{package} holds no kernel, or no modules");
    };
    fs::copy(image, fresh.join("vmlinuz"))?;
    fs::rename(modules, fresh.join("modules"))?;
    bzimage::extract(&fresh.join("vmlinuz"), &fresh.join("vmlinux"))?;
    fs::remove_dir_all(root)?;
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

/// Downloads a kernel's package, and those that Debian has split off from it, and unpacks
/// them to `root`. Returns the name of the first one's file.
fn unpack(package: &str, apt: &Apt, fresh: &Path) -> Result<String> {
    const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];
    let mut packages = vec![package.to_owned()];
    let parts = apt.depends(package).unwrap_or_default().into_iter();
    packages.extend(parts.filter(|name| PARTS.iter().any(|part| name.starts_with(part))));
    let mut first = None;
    for package in packages {
        let deb = apt.download(&package, fresh)?;
        let mut unpack = Command::new("dpkg-deb");
        cmd::run(unpack.arg("-x").arg(&deb).arg(fresh.join("root")))?;
        fs::remove_file(&deb)?;
        let name = deb.file_stem().unwrap_or_default().to_string_lossy();
        first.get_or_insert_with(|| name.into_owned());
    }
    Ok(first.unwrap_or_default())
}

/// The package that the meta package depends on now.
fn versioned(series: &str, meta: &str, apt: &Apt) -> Result<String> {
    if let Some(package) = depends(meta, apt) {
        return checked(series, meta, package);
    }
    apt.update()?;
    match depends(meta, apt) {
        Some(package) => checked(series, meta, package),
        None => bail!(
            "the package archive has no {meta}; the images are made from Debian 12 \
             (bookworm, with its security archive): see resources/README.md"
        ),
    }
}

fn depends(meta: &str, apt: &Apt) -> Option<String> {
    let mut packages = apt.depends(meta)?.into_iter();
    packages.find(|p| p.starts_with("linux-image-"))
}

fn checked(series: &str, meta: &str, package: String) -> Result<String> {
    if package.starts_with(&format!("linux-image-{series}.")) {
        return Ok(package);
    }
    bail!("{meta} is {package} here, not a kernel {series}: the images are made from Debian 12")
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
