//! What the user asked for, checked.
//!
//! `cli` hands over text (low args); here it becomes a [`VmConfig`] in which
//! every value is possible. What depends on files or on the host is checked by
//! `machine`, still before anything starts.

mod api_socket;
mod cpus;
mod error;
mod memory;
mod monitor;
mod options;
mod placement;
mod pmu;
mod serial;
mod uncore;

use std::path::PathBuf;

pub use cpus::{CpusConfig, MAX_VCPUS, Topology};
pub use error::ConfigError;
pub use memory::{MIN_MEMORY, MemoryConfig};
pub use monitor::MonitorArg;
pub use placement::{Affinity, CoreTypes};
pub use pmu::{FilterArg, PmuArg, PmuConfig, PmuKind, RdpmcPolicy};
pub use serial::SerialConfig;
pub use uncore::{Share, UncoreArg};

use crate::cli::RunArgs;

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
    /// The scoped PMUs.
    pub uncore: UncoreArg,
    /// The serial console.
    pub serial: SerialConfig,
    /// The control API's socket.
    pub api_socket: Option<PathBuf>,
    /// Whether a write to port 0xf4 ends the VM.
    pub debug_exit: bool,
    /// The KVM device.
    pub kvm_device: PathBuf,
}

impl VmConfig {
    /// Checks the command line.
    ///
    /// # Errors
    /// The first flag whose value is not possible.
    pub fn from_args(args: &RunArgs) -> Result<Self, ConfigError> {
        if args.cmdline.len() > MAX_CMDLINE {
            return Err(ConfigError::LongCmdline {
                len: args.cmdline.len(),
            });
        }
        if args.cmdline.contains('\0') {
            return Err(ConfigError::NulInCmdline);
        }
        let (cpus, pmu) = (CpusConfig::parse(&args.cpus)?, PmuArg::parse(&args.pmu)?);
        types_go_with_hybrid(&cpus, &pmu)?;
        let uncore = match &args.uncore {
            Some(text) => UncoreArg::parse(text)?,
            None => UncoreArg::default(),
        };
        uncore_goes_with_a_pmu(uncore, &pmu)?;
        Ok(Self {
            kernel: args.kernel.clone(),
            initramfs: args.initramfs.clone(),
            cmdline: args.cmdline.clone(),
            cpus,
            memory: MemoryConfig::parse(&args.memory)?,
            pmu,
            uncore,
            serial: SerialConfig::parse(&args.serial)?,
            api_socket: args
                .api_socket
                .as_deref()
                .map(api_socket::parse)
                .transpose()?,
            debug_exit: args.debug_exit,
            kvm_device: args.kvm_device.clone(),
        })
    }
}

/// A hybrid guest needs to know which vCPU is what, and no other guest has use
/// for it.
fn types_go_with_hybrid(cpus: &CpusConfig, pmu: &PmuArg) -> Result<(), ConfigError> {
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

/// The counters of AMD's scoped PMUs are read by RDPMC, which the core's PMU
/// serves; and a guest without a PMU sees the host's CPU, whose RAPL would show
/// through or not as KVM likes.
fn uncore_goes_with_a_pmu(uncore: UncoreArg, pmu: &PmuArg) -> Result<(), ConfigError> {
    let has_pmu = matches!(pmu, PmuArg::On(pmu) if pmu.rdpmc != RdpmcPolicy::Off);
    if has_pmu || uncore.is_empty() {
        Ok(())
    } else {
        Err(ConfigError::UncoreWithoutPmu)
    }
}
