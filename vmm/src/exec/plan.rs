//! From the flags to all that the guest needs, checked: nothing has started yet.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::thread;

use guest_words::{Job, Terminal};
use rustix::fs::Mode;
use rustix::process::umask;

use super::folders::{AskedFolders, Folders};
use super::initramfs::GuestInitramfs;
use super::kernel::GuestKernel;
use super::profile::{CommandProfile, under_perf};
use super::user::GuestUser;
use super::{ExecError, host_error, modules};
use crate::cli::{DEFAULT_PMU, ExecArgs};
use crate::config::{self, CpusConfig, MemoryConfig, PmuArg, SerialConfig, UncoreArg, VmConfig};
use crate::launch;

/// The most vCPUs that a guest has by default.
const MOST_CPUS: usize = 4;
/// The most memory that it has by default, in MiB.
const MOST_MEMORY: u64 = 1024;
/// The kernel's command line. A panic resets the machine, which ends it; nobody waits for
/// entropy where the CPU has some, nor for ciphers to be tested, which the host's kernel has
/// done; addresses of symbols are those of the kernel's file.
const CMDLINE: &str = "console=ttyS0 panic=-1 random.trust_cpu=on cryptomgr.notests nokaslr";
/// Without `--verbose`: errors only.
const QUIET: &str = " quiet";

/// All that a guest with a command needs.
#[derive(Debug)]
pub(super) struct ExecPlan {
    /// The machine.
    pub(super) config: VmConfig,
    /// The folders that it sees.
    pub(super) folders: Folders,
    /// Whether the command has a terminal.
    pub(super) terminal: bool,
    /// Whether it has a network.
    pub(super) network: bool,
    /// The file behind the configuration's initramfs.
    pub(super) initramfs: GuestInitramfs,
    /// The picture to draw at the end.
    pub(super) profile: Option<CommandProfile>,
}

impl ExecPlan {
    /// Checks the flags, and what they name.
    pub(super) fn make(args: &ExecArgs) -> Result<Self, ExecError> {
        let mut config = machine(args)?;
        // Flags before what the host has: a wrong one is told on any host.
        let user = GuestUser::find(args.user.as_deref(), &args.root)?;
        let environment = user.environment(&args.env)?;
        // It measures the host, for a moment: only for who needs it, or may ask for too much.
        let asks = args.flamegraph.is_some() || args.pmu != DEFAULT_PMU;
        let by_clock = asks
            .then(|| launch::counts_by_clock(&config.pmu, &config.cpus))
            .transpose()?
            .unwrap_or_default();
        let mut folders = Folders::find(&AskedFolders {
            root: args.root.clone(),
            writable: args.rw.clone(),
            readable: args.ro.clone(),
        })?;
        let kernel = GuestKernel::find(&args.kernel)?;
        let network = args.net.is_some();
        let modules = modules::needed(&kernel, &args.root, network)?;
        let profile = match &args.flamegraph {
            Some(picture) => Some(CommandProfile::prepare(picture)?),
            None => None,
        };
        let command = match &profile {
            Some(profile) => {
                folders.shared.push(profile.share());
                under_perf(&args.command, by_clock)
            }
            None => args.command.clone(),
        };
        let terminal = io::stdin().is_terminal().then(terminal);
        let job = Job {
            command,
            environment,
            directory: folders.directory.clone(),
            credentials: user.credentials,
            umask: own_umask(),
            shares: folders
                .shared
                .iter()
                .map(|folder| folder.share.clone())
                .collect(),
            terminal,
            host_name: host_name(),
            network,
        };
        let initramfs =
            GuestInitramfs::create(&job, &modules).map_err(host_error("the initramfs"))?;
        config.kernel = kernel.path;
        config.initramfs = vec![initramfs.path()];
        Ok(Self {
            config,
            folders,
            terminal: terminal.is_some(),
            network,
            initramfs,
            profile,
        })
    }
}

/// The machine of these flags; it has no kernel yet.
fn machine(args: &ExecArgs) -> Result<VmConfig, ExecError> {
    let (cpus, memory, pmu) = (cpus(args)?, memory(args)?, PmuArg::parse(&args.pmu)?);
    config::types_go_with_hybrid(&cpus, &pmu)?;
    config::nested_goes_without_a_pmu(&cpus, &pmu)?;
    let quiet = if args.verbose { "" } else { QUIET };
    Ok(VmConfig {
        kernel: PathBuf::new(),
        initramfs: Vec::new(),
        cmdline: format!("{CMDLINE}{quiet}"),
        cpus,
        memory,
        pmu,
        uncore: UncoreArg::default(),
        fs: Vec::new(),
        net: Vec::new(),
        vsock: None,
        disks: Vec::new(),
        console: None,
        rng: false,
        serial: SerialConfig::Null,
        api_socket: None,
        debug_exit: false,
        kvm_device: args.kvm_device.clone(),
    })
}

/// `--cpus`: a number, or the options of `perfvisor run`.
fn cpus(args: &ExecArgs) -> Result<CpusConfig, ExecError> {
    let text = match &args.cpus {
        Some(text) if text.contains('=') => text.clone(),
        Some(text) => format!("boot={text}"),
        None => {
            let own = thread::available_parallelism().map_or(1, usize::from);
            format!("boot={}", own.min(MOST_CPUS))
        }
    };
    Ok(CpusConfig::parse(&text)?)
}

/// `--memory`: a size, or the options of `perfvisor run`.
fn memory(args: &ExecArgs) -> Result<MemoryConfig, ExecError> {
    let text = match &args.memory {
        Some(text) if text.contains('=') => text.clone(),
        Some(text) => format!("size={text}"),
        None => format!(
            "size={}M",
            host_memory().map_or(MOST_MEMORY, default_memory)
        ),
    };
    Ok(MemoryConfig::parse(&text)?)
}

/// The memory of a guest on a host with so much, both in MiB.
fn default_memory(host: u64) -> u64 {
    (host / 2).clamp(8, MOST_MEMORY)
}

/// The host's memory in MiB (proc_meminfo(5)).
fn host_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

/// A terminal for the command, as the caller's is.
fn terminal() -> Terminal {
    let (rows, columns) = size();
    Terminal {
        rows,
        columns,
        stdout: io::stdout().is_terminal(),
        stderr: io::stderr().is_terminal(),
    }
}

/// The lines and columns of the caller's terminal.
pub(super) fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(io::stdin()).map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// The mask can only be read by setting it; no file is created meanwhile.
fn own_umask() -> u32 {
    let mask = umask(Mode::from_raw_mode(0o77));
    umask(mask);
    mask.as_raw_mode()
}

fn host_name() -> std::ffi::OsString {
    let names = rustix::system::uname();
    let bytes = names.nodename().to_bytes().to_vec();
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_half_of_the_hosts_and_at_most_a_gibibyte() {
        assert_eq!(default_memory(512), 256);
        assert_eq!(default_memory(1 << 20), 1024);
        assert_eq!(default_memory(0), 8);
    }

    #[test]
    fn the_umask_stays_as_it_is() {
        assert_eq!(own_umask(), own_umask());
    }
}
