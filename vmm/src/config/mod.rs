//! The user's configuration, checked.
//!
//! `cli` hands over text. This module turns each flag into a part of a
//! [`VmConfig`], which holds valid values only. `machine` checks the values that
//! depend on files or on the host, before anything starts.

mod affinity;
pub(crate) mod api_socket;
mod console;
mod cpus;
mod disk;
mod error;
pub mod event;
mod fs;
mod memory;
mod monitor;
mod net;
mod options;
mod pmu;
pub(crate) mod rng;
mod serial;
mod uncore;
mod vsock;

use std::path::PathBuf;

pub use affinity::{Affinity, CoreTypes};
pub use console::ConsoleConfig;
pub use cpus::{CpusConfig, MAX_VCPUS, Topology};
pub use disk::{DiskArg, DiskConfig, DiskFormat};
pub use error::ConfigError;
pub(crate) use fs::tags_differ;
pub use fs::{FsConfig, FsSource};
pub use memory::{MIN_MEMORY, MemoryConfig};
pub use monitor::{MonitorArg, MonitorPolicy};
pub use net::{MacAddress, NetConfig, NetSource};
pub use pmu::{FilterArg, PmuArg, PmuConfig, PmuKind, RdpmcPolicy};
pub use serial::SerialConfig;
pub use uncore::{Share, UncoreArg};
pub use vsock::VsockConfig;

/// The longest kernel command line, without its NUL (Linux x86: 2,048 bytes
/// with it).
pub const MAX_CMDLINE: usize = 2047;

/// One VM, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// The kernel image.
    pub kernel: PathBuf,
    /// Initramfs archives, concatenated in this order.
    pub initramfs: Vec<PathBuf>,
    /// The kernel command line.
    pub cmdline: String,
    /// The vCPUs.
    pub cpus: CpusConfig,
    /// The memory.
    pub memory: MemoryConfig,
    /// The PMU.
    pub pmu: PmuArg,
    /// The uncore PMUs.
    pub uncore: UncoreArg,
    /// Shared folders, no two with one tag.
    pub fs: Vec<FsConfig>,
    /// Network cards.
    pub net: Vec<NetConfig>,
    /// Sockets between guest and host.
    pub vsock: Option<VsockConfig>,
    /// The serial console.
    pub serial: SerialConfig,
    /// The disks, in the order of their device numbers.
    pub disks: Vec<DiskArg>,
    /// The virtio console, if there is one.
    pub console: Option<ConsoleConfig>,
    /// Whether the guest has a source of random bytes.
    pub rng: bool,
    /// The control API's socket.
    pub api_socket: Option<PathBuf>,
    /// Whether a write to port 0xf4 ends the VM.
    pub debug_exit: bool,
    /// The KVM device.
    pub kvm_device: PathBuf,
}

impl VmConfig {
    /// Whether a device is served by a process that maps the guest's memory (vhost-user).
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        let by_process = |net: &NetConfig| !matches!(net.source, NetSource::Tap(_));
        let at_socket = |disk: &DiskArg| matches!(disk, DiskArg::Socket(_));
        !self.fs.is_empty() || self.net.iter().any(by_process) || self.disks.iter().any(at_socket)
    }

    /// Whether one of the guest's consoles is this terminal.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.serial == SerialConfig::Tty || self.console == Some(ConsoleConfig::Tty)
    }
}

/// The kernel command line fits where x86 kernels read it.
pub(crate) fn check_cmdline(text: &str) -> Result<(), ConfigError> {
    if text.len() > MAX_CMDLINE {
        return Err(ConfigError::LongCmdline { len: text.len() });
    }
    if text.contains('\0') {
        return Err(ConfigError::NulInCmdline);
    }
    Ok(())
}

/// A hybrid guest needs to know which vCPU is what, and no other guest has use
/// for it.
pub(crate) fn types_go_with_hybrid(cpus: &CpusConfig, pmu: &PmuArg) -> Result<(), ConfigError> {
    let hybrid = matches!(pmu, PmuArg::On(pmu) if pmu.kind == PmuKind::Hybrid);
    if let PmuArg::On(asked) = pmu
        && hybrid
        && (asked.model.is_some()
            || [asked.gp, asked.fixed, asked.width]
                .iter()
                .any(Option::is_some))
    {
        return Err(ConfigError::HybridHasItsNumbers);
    }
    match (hybrid, &cpus.core_types) {
        (true, None) => Err(ConfigError::HybridWithoutTypes),
        (false, Some(_)) => Err(ConfigError::TypesWithoutHybrid),
        (true, Some(_)) | (false, None) => Ok(()),
    }
}

/// The terminal has one reader and one writer.
pub(crate) fn one_terminal(
    serial: &SerialConfig,
    console: Option<&ConsoleConfig>,
) -> Result<(), ConfigError> {
    if *serial == SerialConfig::Tty && console == Some(&ConsoleConfig::Tty) {
        return Err(ConfigError::TwoTerminals);
    }
    Ok(())
}

/// What a guest of the guest writes to a counter would be taken for the guest's.
pub(crate) fn nested_goes_without_a_pmu(
    cpus: &CpusConfig,
    pmu: &PmuArg,
) -> Result<(), ConfigError> {
    if cpus.nested && has_pmu(pmu) {
        Err(ConfigError::NestedWithPmu)
    } else {
        Ok(())
    }
}

fn has_pmu(pmu: &PmuArg) -> bool {
    matches!(pmu, PmuArg::On(pmu) if pmu.rdpmc != RdpmcPolicy::Off)
}

/// The counters of AMD's uncore PMUs are read by RDPMC, which the core's PMU
/// serves; and a guest without a PMU sees the host's CPU, whose RAPL would show
/// through or not as KVM likes.
pub(crate) fn uncore_goes_with_a_pmu(uncore: UncoreArg, pmu: &PmuArg) -> Result<(), ConfigError> {
    if has_pmu(pmu) || uncore.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::UncoreWithoutPmu)
    }
}
