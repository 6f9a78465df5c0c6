//! The images: guest.cpio, the nested host's archives, and the static `perfvisor`.
//!
//! Each archive is built once and kept with a stamp of what went into it; the
//! `perfvisor` binary has an archive of its own, so that a rebuild of it does not
//! repack the rest.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use crate::cpio::Cpio;
use crate::kernels::Kernel;
use crate::nested::HostKind;
use crate::{cmd, headers, mock_pmu, paths, programs, say};

/// Modules of a nested host in QEMU besides KVM: the way out, and disks.
const QEMU_MODULES: [&str; 3] = ["virtio-pci", "virtio-console", "virtio-blk"];

/// Modules that a distribution loads in the guest when it sees the CPU (by `modprobe`
/// here): the PMU `power`. Those of AMD's uncore are built in.
const GUEST_MODULES: [&str; 2] = ["rapl", "virtio_blk"];

/// What an archive is made of; equal stamps, equal archives.
#[derive(Debug, Default)]
pub(crate) struct Stamp(DefaultHasher);

impl Stamp {
    pub(crate) fn text(mut self, text: &str) -> Self {
        text.hash(&mut self.0);
        self
    }

    /// A file of the workspace: its bytes, whenever they were written.
    pub(crate) fn contents(self, path: &Path) -> Result<Self> {
        let read = || format!("cannot read {}", path.display());
        let text = fs::read_to_string(path).with_context(read)?;
        Ok(self.text(&text))
    }

    /// What is written beside an archive.
    pub(crate) fn value(&self) -> String {
        format!("{:016x}", self.0.finish())
    }

    fn file(mut self, path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let modified = meta
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        (path, meta.len(), modified).hash(&mut self.0);
        Ok(self)
    }
}

/// Makes `images/<name>` unless it is there with the same stamp.
fn cached(
    name: &str,
    stamp: Stamp,
    build: impl FnOnce(&mut Cpio<std::io::BufWriter<fs::File>>) -> Result<()>,
) -> Result<PathBuf> {
    let dir = paths::cache("images")?;
    let (path, stamp_path) = (dir.join(name), dir.join(format!("{name}.stamp")));
    let stamp = stamp.value();
    if path.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(path);
    }
    say!("making {name}");
    let fresh = dir.join(format!("{name}.{}", std::process::id()));
    let mut cpio = Cpio::create(&fresh)?;
    build(&mut cpio)?;
    cpio.finish()?;
    fs::rename(&fresh, &path)?;
    fs::write(&stamp_path, stamp)?;
    Ok(path)
}

/// busybox and a link for each of its applets.
fn busybox(cpio: &mut Cpio<impl Write>) -> Result<()> {
    let path = programs::find("busybox")?;
    cpio.copy("bin/busybox", 0o755, &path)?;
    let applets = cmd::text(Command::new(&path).arg("--list"))?;
    for applet in applets.lines().filter(|a| *a != "busybox") {
        cpio.link(&format!("bin/{applet}"), "busybox")?;
    }
    cpio.link("sbin", "bin")?;
    cpio.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n")?;
    cpio.file("etc/group", 0o644, b"root:x:0:\n")?;
    cpio.console()
}

/// The guest's image: busybox, perf with its libraries, our static programs, and a few
/// modules of these kernels.
///
/// # Errors
/// If perf or busybox is missing or a library of perf cannot be found.
pub(crate) fn guest(kernels: &[Kernel]) -> Result<PathBuf> {
    let init = paths::resource("guest/init");
    let (busybox_path, perf) = (programs::find("busybox")?, programs::find("perf")?);
    let extra = programs::guest_programs()?;
    let mut stamp = Stamp::default()
        .text("guest 3")
        .file(&init)?
        .file(&busybox_path)?
        .file(&perf)?;
    for program in &extra {
        stamp = stamp.file(program)?;
    }
    for kernel in kernels {
        stamp = stamp.text(&kernel.stamp);
    }
    cached(&format!("guest-{}.cpio", names(kernels)), stamp, |cpio| {
        cpio.copy("init", 0o755, &init)?;
        busybox(cpio)?;
        cpio.copy("usr/bin/perf", 0o755, &perf)?;
        copy_libraries(cpio, &libraries(&perf)?)?;
        for program in &extra {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            cpio.copy(&format!("usr/bin/{name}"), 0o755, program)?;
        }
        kernels
            .iter()
            .try_for_each(|kernel| guest_modules(cpio, kernel))
    })
}

/// The series of kernels, for the name of an archive.
fn names(kernels: &[Kernel]) -> String {
    let names: Vec<&str> = kernels.iter().map(|k| k.series.as_str()).collect();
    names.join("+")
}

/// Where Debian's perf looks for the scripts of `perf test`.
const PERF_TESTS: &str = "usr/lib/perf-core/tests";
/// Where the programs lie that they need: not in PATH, for busybox has some as well.
pub(crate) const PERF_TEST_BIN: &str = "usr/libexec/perf-test";
/// Those programs. busybox's `sleep` has no libraries, for which a test looks, its
/// `mktemp` wants one X more than the scripts give it, and its `tail` has no `--pid`.
const PERF_TEST_PROGRAMS: [&str; 4] = ["bash", "mktemp", "sleep", "tail"];

/// What `perf test` needs besides the guest's image: its scripts, and the programs that
/// they use.
///
/// # Errors
/// If one of them is missing, or a library of theirs.
pub(crate) fn perf_tests() -> Result<PathBuf> {
    let tests = Path::new("/").join(PERF_TESTS);
    let mut stamp = Stamp::default().text("perf-test 2").file(&tests)?;
    let (mut programs, mut shared) = (Vec::new(), BTreeSet::new());
    for name in PERF_TEST_PROGRAMS {
        let program = programs::find(name)?;
        stamp = stamp.file(&program)?;
        shared.extend(libraries(&program)?);
        programs.push((name, program));
    }
    cached("perf-test.cpio", stamp, |cpio| {
        cpio.tree(PERF_TESTS, &tests)?;
        for (name, program) in &programs {
            cpio.copy(&format!("{PERF_TEST_BIN}/{name}"), 0o755, program)?;
        }
        // Scripts name their shell by its place.
        cpio.link("bin/bash", &format!("/{PERF_TEST_BIN}/bash"))?;
        copy_libraries(cpio, &shared)
    })
}

fn copy_libraries(cpio: &mut Cpio<impl Write>, libraries: &BTreeSet<PathBuf>) -> Result<()> {
    for library in libraries {
        let name = library.to_string_lossy();
        cpio.copy(name.trim_start_matches('/'), 0o755, library)?;
    }
    Ok(())
}

/// A guest kernel's modules, where `modprobe` looks for them.
fn guest_modules(cpio: &mut Cpio<impl Write>, kernel: &Kernel) -> Result<()> {
    let (release, _) = headers::release(&kernel.stamp)?;
    let dir = format!("lib/modules/{release}");
    let mut list = String::new();
    for (name, data) in kernel.modules(&GUEST_MODULES)? {
        cpio.file(&format!("{dir}/{name}.ko"), 0o644, &data)?;
        list.push_str(&format!("{name}.ko:\n"));
    }
    cpio.file(&format!("{dir}/modules.dep"), 0o644, list.as_bytes())
}

/// The libraries of a program, by the paths that the loader gives them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let out = cmd::text(Command::new("ldd").arg(program))?;
    let mut all = BTreeSet::new();
    for line in out.lines().map(str::trim) {
        if line.contains("not found") {
            bail!(
                "{} needs a library that is missing: {line}",
                program.display()
            );
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            all.insert(PathBuf::from(path));
        }
    }
    Ok(all)
}

/// The nested host's own archive: busybox, init, the modules of its kernel.
pub(crate) fn host(kernel: &Kernel, kind: HostKind) -> Result<PathBuf> {
    let mut modules = vec!["irqbypass", kind.kvm()];
    if kind == HostKind::Amd {
        modules.extend(QEMU_MODULES);
    }
    let init = paths::resource("host/init");
    let busybox_path = programs::find("busybox")?;
    let stamp = Stamp::default()
        .text("host 3")
        .text(&kernel.stamp)
        .file(&init)?
        .file(&busybox_path)?;
    let name = format!("host-{}-{}.cpio", kernel.series, kind.kvm());
    cached(&name, stamp, |cpio| {
        cpio.copy("init", 0o755, &init)?;
        busybox(cpio)?;
        let modules = kernel.modules(&modules)?;
        let mut order = String::new();
        for (name, data) in &modules {
            cpio.file(&format!("modules/{name}.ko"), 0o644, data)?;
            order.push_str(&format!("{name}.ko {}\n", kind.parameters(name)));
        }
        cpio.file("modules/order", 0o644, order.as_bytes())
    })
}

/// The mock PMU for the nested host's kernel, and its test.
pub(crate) fn mock_pmu(kernel: &Kernel) -> Result<PathBuf> {
    let mut stamp = Stamp::default().text("mock-pmu 1").text(&kernel.stamp);
    for source in mock_pmu::sources()? {
        stamp = stamp.file(&source)?;
    }
    cached(&format!("mock-pmu-{}.cpio", kernel.series), stamp, |cpio| {
        let built = mock_pmu::build(kernel)?;
        cpio.copy(mock_pmu::MODULE, 0o644, &built.module)?;
        cpio.copy(mock_pmu::SELF_TEST, 0o755, &built.self_test)
    })
}

/// `/images` of the nested host: the kernels and the guest image.
pub(crate) fn images(kernels: &[Kernel], guest: &Path) -> Result<PathBuf> {
    let stamp = stamp_of(kernels, Stamp::default().text("images 2").file(guest)?);
    cached(&format!("images-{}.cpio", names(kernels)), stamp, |cpio| {
        copy_kernels(cpio, kernels, "vmlinuz")?;
        cpio.copy("images/guest.cpio", 0o644, guest)
    })
}

/// The kernels as ELF files, there too: each is larger than all else together.
pub(crate) fn elf_kernels(kernels: &[Kernel]) -> Result<PathBuf> {
    let stamp = stamp_of(kernels, Stamp::default().text("vmlinux 1"));
    cached(&format!("vmlinux-{}.cpio", names(kernels)), stamp, |cpio| {
        copy_kernels(cpio, kernels, "vmlinux")
    })
}

fn stamp_of(kernels: &[Kernel], stamp: Stamp) -> Stamp {
    let add = |stamp: Stamp, kernel: &Kernel| stamp.text(&kernel.stamp);
    kernels.iter().fold(stamp, add)
}

fn copy_kernels(cpio: &mut Cpio<impl Write>, kernels: &[Kernel], file: &str) -> Result<()> {
    kernels.iter().try_for_each(|Kernel { series, dir, .. }| {
        cpio.copy(&format!("images/{file}-{series}"), 0o644, &dir.join(file))
    })
}

/// The archive of the static `perfvisor` binary: built, or the file given;
/// nothing for the word `none`.
pub(crate) fn perfvisor(profile: &str, given: Option<&Path>) -> Result<Option<PathBuf>> {
    let binary = match given {
        Some(word) if word == "none" => return Ok(None),
        Some(file) => file.to_path_buf(),
        None => programs::perfvisor(profile)?,
    };
    let kind = if given.is_some() { "given" } else { profile };
    let stamp = Stamp::default().file(&binary)?;
    let build = |cpio: &mut Cpio<_>| cpio.copy("bin/perfvisor", 0o755, &binary);
    cached(&format!("perfvisor-{kind}.cpio"), stamp, build).map(Some)
}

/// An archive with a folder of this machine at `/share`, or an empty folder.
pub(crate) fn share(dir: Option<&Path>) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new(Vec::new());
    match dir {
        Some(dir) if dir.is_dir() => cpio.tree("share", dir)?,
        Some(dir) => bail!("--share {}: not a folder", dir.display()),
        None => cpio.dir("share")?,
    }
    cpio.finish()
}
