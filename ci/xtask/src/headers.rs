//! The headers of a kernel, to build a module for it: Debian's packages of the very
//! release that `kernels` fetched, unpacked under `target/`, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::kernels::Kernel;
use crate::{cmd, paths, say};

/// The build folder of a kernel, as `make -C` wants it, fetched if need be.
///
/// # Errors
/// Names the package that cannot be had.
pub(crate) fn fetch(kernel: &Kernel) -> Result<PathBuf> {
    let (release, version) = release(&kernel.stamp)?;
    let dir = paths::cache("headers")?.join(&kernel.series);
    let build = dir.join("usr/src").join(format!("linux-headers-{release}"));
    if fs::read_to_string(dir.join("stamp")).is_ok_and(|old| old == kernel.stamp) {
        makefile(&dir, &build)?;
        return Ok(build);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let package = format!("linux-headers-{release}");
    for name in std::iter::once(package.clone()).chain(parts(&package, version)?) {
        let exact = if name.starts_with("linux-headers-") {
            format!("{name}={version}")
        } else {
            name.clone()
        };
        unpack(&exact, &kernel.series, &dir)?;
    }
    makefile(&dir, &build)?;
    // With it a tool that we do not need (pahole) would be needed.
    let vmlinux = build.join("vmlinux");
    if vmlinux.exists() {
        fs::remove_file(vmlinux)?;
    }
    fs::write(dir.join("stamp"), &kernel.stamp)?;
    Ok(build)
}

/// Has the build folder's makefile include that of the common headers where they are now:
/// the package's own includes the one of /usr/src, and `target` may have been moved.
fn makefile(dir: &Path, build: &Path) -> Result<()> {
    let sources = dir.join("usr/src");
    let read = || format!("cannot read {}", sources.display());
    let mut common = None;
    for entry in fs::read_dir(&sources).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if path.to_string_lossy().ends_with("-common") {
            common = Some(path);
        }
    }
    let Some(common) = common else {
        bail!("{} has no common headers", sources.display());
    };
    let text = format!("include {}\n", common.join("Makefile").display());
    let makefile = build.join("Makefile");
    if fs::read_to_string(&makefile).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(&makefile, text).with_context(|| format!("cannot write {}", makefile.display()))
}

/// The release and the package version of a kernel's stamp.
pub(crate) fn release(stamp: &str) -> Result<(&str, &str)> {
    let words = stamp.strip_prefix("linux-image-").map(|s| s.split('_'));
    match words.map(Iterator::collect::<Vec<_>>).as_deref() {
        Some([release, version, _]) => Ok((release, version)),
        _ => bail!("not the stamp of a kernel: {stamp}"),
    }
}

/// The packages of headers and build tools that a package of headers depends on.
fn parts(package: &str, version: &str) -> Result<Vec<String>> {
    let exact = format!("{package}={version}");
    let out = cmd::text(Command::new("apt-cache").args(["show", &exact]))
        .with_context(|| missing(package))?;
    Ok(depends(&out))
}

fn missing(package: &str) -> String {
    format!(
        "the package archive no longer has {package}: remove the folder `kernels` in \
         target/xtask, and the newest kernels are fetched with their headers"
    )
}

fn depends(control: &str) -> Vec<String> {
    let wanted =
        |name: &&str| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-");
    let line = control
        .lines()
        .find_map(|l| l.strip_prefix("Depends:"))
        .unwrap_or_default();
    line.split(',')
        .filter_map(|word| word.split_whitespace().next())
        .filter(wanted)
        .map(str::to_owned)
        .collect()
}

fn unpack(package: &str, series: &str, dir: &Path) -> Result<()> {
    let debs = dir.join("debs");
    if debs.exists() {
        fs::remove_dir_all(&debs)?;
    }
    fs::create_dir_all(&debs)?;
    say!("downloading {package}, for modules of the {series} host");
    cmd::run(
        Command::new("apt-get")
            .args(["download", "-q", package])
            .current_dir(&debs),
    )
    .with_context(|| missing(package))?;
    for deb in fs::read_dir(&debs)? {
        let deb = deb?.path();
        cmd::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir))?;
    }
    fs::remove_dir_all(&debs)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_were_moved_name_their_new_place() {
        let dir = std::env::temp_dir().join(format!("xtask-headers-{}", std::process::id()));
        for at in ["a", "b"].map(|name| dir.join(name)) {
            let build = at.join("usr/src/linux-headers-6.1");
            if at.ends_with("b") {
                fs::rename(dir.join("a"), &at).unwrap();
            } else {
                fs::create_dir_all(&build).unwrap();
                fs::create_dir_all(at.join("usr/src/linux-headers-6.1-common")).unwrap();
            }
            makefile(&at, &build).unwrap();
            let text = fs::read_to_string(build.join("Makefile")).unwrap();
            let place = at.join("usr/src/linux-headers-6.1-common/Makefile");
            assert_eq!(text, format!("include {}\n", place.display()));
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_stamp_names_the_release() {
        let stamp = "linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64";
        assert_eq!(
            release(stamp).unwrap(),
            ("6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1")
        );
        assert!(release("x").is_err());
    }

    #[test]
    fn the_parts_are_found_among_the_dependencies() {
        let control = "Package: p\nDepends: linux-headers-6.1.0-56-common (= 6.1), \
                       linux-kbuild-6.1 (>= 6.1), linux-compiler-gcc-12-x86\nDescription: d\n";
        assert_eq!(
            depends(control),
            ["linux-headers-6.1.0-56-common", "linux-kbuild-6.1"]
        );
        assert!(depends("Package: p\n").is_empty());
    }
}
