//! Which kind of KVM this is, and whether a Linux guest can run on it.
//!
//! KVM without hardware virtualisation (the PVM backend) emulates every
//! instruction of an unmodified guest: about 0.5 µs each, at which a Linux
//! kernel does not boot in useful time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Picos, ProbeError, first_processor, instruction_cost};
use crate::kvm::Hypervisor;

/// The CPU's virtualisation extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
}

impl std::fmt::Display for Extension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vmx => "vmx",
            Self::Svm => "svm",
        })
    }
}

/// The kind of a KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmKind {
    /// KVM uses the CPU's virtualisation extension.
    Hardware(Extension),
    /// KVM uses the virtualisation extension of a CPU that is virtual itself.
    Nested(Extension),
    /// Every guest instruction is emulated.
    Emulated,
    /// The flags tell nothing, and guests run at full speed.
    Unnamed,
}

/// The facts of the host that need no guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The extension that `/proc/cpuinfo` lists.
    pub extension: Option<Extension>,
    /// The host is itself a virtual machine.
    pub in_vm: bool,
    /// The PVM backend of KVM is loaded.
    pub pvm: bool,
}

/// Slower than this, a guest instruction is emulated: ten times the slowest
/// nested host, a fifth of the PVM backend.
const SLOW: Picos = Picos(100_000);

impl HostFacts {
    /// The facts of this host. A file that cannot be read counts as missing.
    #[must_use]
    pub fn read() -> Self {
        let text = first_processor().unwrap_or_default();
        let pvm = Path::new("/sys/module/kvm_pvm").exists();
        Self::parse(&text, pvm)
    }

    fn parse(cpuinfo: &str, pvm: bool) -> Self {
        let flags = cpuinfo
            .lines()
            .find(|line| line.starts_with("flags"))
            .and_then(|line| line.split_once(':'))
            .map_or("", |(_, flags)| flags);
        let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
        let extension = if has("vmx") {
            Some(Extension::Vmx)
        } else if has("svm") {
            Some(Extension::Svm)
        } else {
            None
        };
        Self {
            extension,
            in_vm: has("hypervisor"),
            pvm,
        }
    }

    /// The kind of KVM on this host. `cost` measures an instruction; it is
    /// called only where the rest does not tell.
    ///
    /// # Errors
    /// What `cost` says.
    pub fn kind<E>(self, cost: impl FnOnce() -> Result<Picos, E>) -> Result<KvmKind, E> {
        Ok(match (self.extension, self.pvm) {
            (Some(extension), false) => self.with(extension),
            (None, true) => KvmKind::Emulated,
            (_, _) if cost()? >= SLOW => KvmKind::Emulated,
            (Some(extension), true) => self.with(extension),
            (None, false) => KvmKind::Unnamed,
        })
    }

    const fn with(self, extension: Extension) -> KvmKind {
        if self.in_vm {
            KvmKind::Nested(extension)
        } else {
            KvmKind::Hardware(extension)
        }
    }
}

/// A Linux kernel was given to a KVM that cannot run one.
#[derive(Debug, Error)]
#[error(
    "--kernel: {path} looks like a Linux kernel, but this KVM has no hardware virtualisation: it emulates every guest instruction (about half a microsecond each), too slow for Linux to boot; use an ELF program of at most 1 MiB, a host with vmx or svm, or the emulated host of `cargo xtask nested`"
)]
pub struct LinuxNeedsHardware {
    path: PathBuf,
}

/// Refuses a Linux kernel on a KVM that emulates every instruction. Costs a
/// read of `/proc/cpuinfo` where the KVM is real.
///
/// # Errors
/// [`LinuxNeedsHardware`]. A file that cannot be read and a probe that fails
/// refuse nothing: what comes next will say more.
pub fn check_kernel(path: &Path, hypervisor: &Hypervisor) -> Result<(), LinuxNeedsHardware> {
    let kind = HostFacts::read().kind(|| -> Result<_, ProbeError> { instruction_cost(hypervisor) });
    match kind {
        Ok(KvmKind::Emulated) if looks_like_linux(path) => Err(LinuxNeedsHardware {
            path: path.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) => {
            log::debug!("cannot tell which kind of KVM this is: {error}");
            Ok(())
        }
    }
}

/// A bzImage, or an ELF file that is large for a bare-metal program.
fn looks_like_linux(path: &Path) -> bool {
    const LARGE: u64 = 1 << 20;
    /// Of the setup header (Linux x86 boot protocol, "The Real-Mode Kernel Header").
    const MAGIC_AT: u64 = 0x202;
    let Ok(mut file) = File::open(path) else {
        return false;
    };
    let mut word = [0u8; 4];
    if file.read_exact(&mut word).is_err() {
        return false;
    }
    if word == *b"\x7fELF" {
        // A vmlinux is ELF64.
        let mut class = [0u8];
        if file.read_exact(&mut class).is_ok() && class == [1] {
            return false;
        }
        return file.metadata().is_ok_and(|metadata| metadata.len() > LARGE);
    }
    let magic = file.seek(SeekFrom::Start(MAGIC_AT));
    magic.is_ok() && file.read_exact(&mut word).is_ok() && word == *b"HdrS"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(flags: &str, pvm: bool) -> HostFacts {
        let text = format!("processor\t: 0\nflags\t\t: fpu {flags} lm\nbugs\t\t: svm\n");
        HostFacts::parse(&text, pvm)
    }

    fn kind(flags: &str, pvm: bool, picos: u64) -> KvmKind {
        let cost = || Ok::<_, std::convert::Infallible>(Picos(picos));
        let Ok(kind) = facts(flags, pvm).kind(cost);
        kind
    }

    #[test]
    fn kinds() {
        let slow = 520_000;
        assert_eq!(kind("vmx", false, slow), KvmKind::Hardware(Extension::Vmx));
        assert_eq!(
            kind("svm hypervisor", false, slow),
            KvmKind::Nested(Extension::Svm),
            "no measurement where the flag tells"
        );
        assert_eq!(kind("hypervisor", true, 1), KvmKind::Emulated);
        assert_eq!(kind("svm", true, slow), KvmKind::Emulated);
        assert_eq!(kind("svm", true, 300), KvmKind::Hardware(Extension::Svm));
        assert_eq!(kind("", false, slow), KvmKind::Emulated);
        assert_eq!(kind("", false, 300), KvmKind::Unnamed);
    }

    #[test]
    fn a_slow_kvm_refuses_what_looks_like_linux() {
        let path = std::env::temp_dir().join(format!("perfvisor-kind-{}", std::process::id()));
        let mut bytes = vec![0u8; 0x300];
        for (magic, at, len, linux) in [
            (&b"HdrS"[..], 0x202, 0x300, true),
            (b"HdrS", 0x200, 0x300, false),
            (b"\x7fELF", 0, 1 << 20, false),
            (b"\x7fELF", 0, (1 << 20) + 1, true),
            (b"", 0, 2, false),
        ] {
            bytes.fill(0);
            bytes.resize(len, 0);
            bytes[at..at + magic.len()].copy_from_slice(magic);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(looks_like_linux(&path), linux, "{magic:?} at {at:#x}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!looks_like_linux(&path));
    }
}
