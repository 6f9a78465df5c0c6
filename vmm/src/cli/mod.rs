//! The command line as text. [`crate::config`] checks the values.

mod config_file;
mod exec;
mod foreign;
mod help;
mod log_filter;
mod migrate;
mod moving_help;
mod restore;
mod usage;
mod vm_config;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{MonitorArg, api_socket};

pub use config_file::{ConfigFileError, as_config_file, with_config_file};
pub use exec::{DEFAULT_PMU, ExecArgs};
pub use log_filter::{VARIABLE as LOG_VARIABLE, log_filter};
pub use migrate::MigrateTo;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use restore::words_of;
pub use restore::{RestoreArg, RestoreFlagError, with_saved_vm};
pub use usage::refusal;

/// A KVM virtual machine monitor whose guests have a working PMU on any host.
#[derive(Debug, Parser)]
#[command(name = "perfvisor", version, about, max_term_width = 100)]
// A missing command is a one-line error, not the help.
#[command(arg_required_else_help = false)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a virtual machine and stay until it ends
    #[command(long_about = help::RUN_ABOUT, after_help = help::RUN)]
    Run(Box<RunArgs>),

    /// Run a command of this host in a virtual machine, with its files, streams and exit status
    #[command(long_about = help::EXEC_ABOUT, after_help = help::EXEC)]
    Exec(Box<ExecArgs>),

    /// Report what works on this host, what does not work, and what to change
    #[command(long_about = help::DOCTOR_ABOUT, after_help = help::DOCTOR)]
    Doctor(DoctorArgs),

    /// Inspect and control a running virtual machine
    #[command(after_help = help::CTL)]
    Ctl(CtlArgs),
}

/// The flags of `perfvisor run`, as text.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Kernel: a Linux bzImage, an x86-64 ELF file, or a multiboot-1 image
    #[arg(long, value_name = "PATH", long_help = help::KERNEL)]
    pub kernel: PathBuf,

    /// Initial RAM file system: cpio, plain or compressed; may be repeated
    #[arg(long, value_name = "PATH", long_help = help::INITRAMFS)]
    pub initramfs: Vec<PathBuf>,

    /// Kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0 panic=-1",
        allow_hyphen_values = true
    )]
    pub cmdline: String,

    /// Virtual CPUs: boot=N, and optionally max=, topology=, affinity=, core-types=
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "boot=1",
        long_help = help::CPUS
    )]
    pub cpus: String,

    /// Memory: size=N, in bytes or with the suffix K, M or G; hugepages=, prefault=
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "size=512M",
        long_help = help::MEMORY
    )]
    pub memory: String,

    /// The guest's PMU: off, or type=, model=, gp=, fixed=, width=, policy=, filter=, rdpmc=
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "type=auto",
        long_help = help::PMU
    )]
    pub pmu: String,

    /// Uncore PMUs, off by default: power=on, amd_l3=on, amd_df=on, amd_umc=on, share=
    #[arg(long, value_name = "OPTIONS", long_help = help::UNCORE)]
    pub uncore: Option<String>,

    /// A folder of the host, as virtiofs: tag=T,path=DIR[,readonly=on], or tag=T,socket=S; may
    /// be repeated
    #[arg(long, value_name = "OPTIONS", long_help = help::FS)]
    pub fs: Vec<String>,

    /// A network card: user, tap=T, or vhost-user=on,socket=S; may be repeated
    #[arg(long, value_name = "OPTIONS", long_help = help::NET)]
    pub net: Vec<String>,

    /// Sockets between guest and host (AF_VSOCK): cid=N, the guest's address
    #[arg(long, value_name = "OPTIONS", long_help = help::VSOCK)]
    pub vsock: Option<String>,

    /// Serial console: tty, file=PATH[,append=on], socket=PATH or null
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "tty",
        long_help = help::SERIAL
    )]
    pub serial: String,

    /// Disk: path=P, and optionally readonly=, format=, direct=, id=; or vhost-user=on,socket=S; may
    /// be repeated
    #[arg(long, value_name = "OPTIONS", long_help = help::DISK)]
    pub disk: Vec<String>,

    /// Virtio console (/dev/hvc0), none by default: tty, file=PATH or null
    #[arg(long, value_name = "OPTIONS", long_help = help::CONSOLE)]
    pub console: Option<String>,

    /// Virtio source of random bytes: on or off
    #[arg(long, value_name = "SWITCH", default_value = "off")]
    pub rng: String,

    /// Unix socket of the control API, for perfvisor ctl: path=PATH, or PATH alone
    #[arg(long, value_name = "OPTIONS", long_help = help::API_SOCKET)]
    pub api_socket: Option<OsString>,

    /// End the VM with status (v << 1) | 1 when the guest writes v to port 0xf4, as QEMU's
    /// isa-debug-exit does
    #[arg(long)]
    pub debug_exit: bool,

    /// When the guest resets itself: exit, or restart, which boots it again
    #[arg(long, value_name = "exit|restart", default_value = "exit", hide_default_value = true, long_help = help::ON_REBOOT)]
    pub on_reboot: OnReboot,

    /// The guest has run before, and boots again.
    #[arg(long, hide = true)]
    pub again: bool,

    /// Go on from a snapshot (perfvisor ctl snapshot): DIR[,paused=on]; the guest's flags are the
    /// snapshot's
    #[arg(long, value_name = "DIR", long_help = help::RESTORE)]
    pub restore: Option<OsString>,

    /// Go on with a VM that another process sends (perfvisor ctl migrate): socket=PATH
    #[arg(long, value_name = "OPTIONS", conflicts_with_all = ["restore", "print_config"],
        long_help = moving_help::INCOMING)]
    pub incoming: Option<OsString>,

    /// The VM's name in the log [default: perfvisor]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,

    /// KVM device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,

    /// A TOML file with flags; a flag of the command line replaces the file's
    #[arg(long, value_name = "FILE", long_help = help::CONFIG)]
    pub config: Option<PathBuf>,

    /// Print these flags and all defaults as a file for --config, and start nothing
    #[arg(long)]
    pub print_config: bool,
}

/// What becomes of a VM whose guest resets itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnReboot {
    /// It ends.
    Exit,
    /// The guest boots again.
    Restart,
}

/// The most letters of a name.
const LONGEST_NAME: usize = 64;

/// A name that a line of the log can begin with.
fn parse_name(text: &str) -> Result<String, String> {
    let fits = (1..=LONGEST_NAME).contains(&text.len());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if fits && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected: 1 to {LONGEST_NAME} letters, digits, '-', '_' and '.'"
    ))
}

/// The flags of `perfvisor doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the details before the three lines of the summary
    #[arg(long)]
    pub verbose: bool,

    /// Print the report as JSON, with all details; an unknown value is {"unknown": "the reason"}
    #[arg(long)]
    pub json: bool,

    /// KVM device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,
}

/// The flags of `perfvisor ctl`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct CtlArgs {
    /// The VM's socket, as in perfvisor run --api-socket: path=PATH, or PATH alone
    #[arg(
        long,
        value_name = "PATH",
        value_parser = OsStringValueParser::new().try_map(api_socket::parse_owned)
    )]
    pub api_socket: PathBuf,

    /// Print the VM's answer as it is, in JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// The request.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// Requests to a VM.
#[derive(Clone, Debug, Subcommand)]
pub enum CtlCommand {
    /// Show the VM: vCPUs, memory, kernel, source of the PMU's counts, totals so far
    Info,
    /// Stop the guest; done when every vCPU has stopped
    Pause,
    /// Let a paused guest continue
    Resume,
    /// Show each guest counter and monitor: its event, its host event, its state, its times
    Pmu,
    /// Count events on the vCPUs from outside, whatever the guest counts
    Monitor(MonitorArgs),
    /// Add or remove a virtual CPU
    Vcpu(VcpuArgs),
    /// Save the VM into a new folder, for perfvisor run --restore; it goes on afterwards
    #[command(long_about = help::SNAPSHOT)]
    Snapshot(SnapshotArgs),
    /// Move the VM to a perfvisor run --incoming, while its guest runs; this one ends then
    #[command(long_about = moving_help::MIGRATE)]
    Migrate(MigrateArgs),
    /// Press the ACPI power button; the guest may ignore it
    Shutdown(ShutdownArgs),
}

/// The words of `perfvisor ctl monitor`.
#[derive(Clone, Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct MonitorArgs {
    /// The request.
    #[command(subcommand)]
    pub command: MonitorCommand,
}

/// Requests about monitors.
#[derive(Clone, Debug, Subcommand)]
pub enum MonitorCommand {
    /// Attach a monitor; at most 8 exist at a time
    #[command(long_about = help::MONITOR_ADD)]
    Add {
        /// The event, and optionally policy= and vcpu=
        #[arg(value_name = "EVENT[,OPTIONS]", long_help = help::MONITOR_EVENT)]
        monitor: MonitorArg,
    },
    /// Remove a monitor and show its final count
    Remove {
        /// The monitor's number, as monitor list shows it
        #[arg(value_name = "ID")]
        monitor: u8,
    },
    /// Show each monitor, with its count and the count scaled to the whole time
    List,
}

/// The words of `perfvisor ctl vcpu`.
#[derive(Clone, Copy, Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct VcpuArgs {
    /// The request.
    #[command(subcommand)]
    pub command: VcpuCommand,
}

/// Requests about vCPUs.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum VcpuCommand {
    /// Plug a vCPU in; done when the guest has accepted it
    #[command(long_about = help::VCPU_ADD)]
    Add {
        /// The vCPU's number, below max= of --cpus
        #[arg(value_name = "N")]
        vcpu: u16,
    },
    /// Take a vCPU out; done when the guest has released it and its thread has ended
    #[command(long_about = help::VCPU_REMOVE)]
    Remove {
        /// The vCPU's number
        #[arg(value_name = "N")]
        vcpu: u16,
    },
    /// Show each vCPU and its state
    List,
}

/// The words of `perfvisor ctl snapshot`.
#[derive(Clone, Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct SnapshotArgs {
    /// The folder, which is not there yet
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// End the VM when it is saved
    #[arg(long)]
    pub stop: bool,

    /// Save only the memory that was written since this snapshot, the last with --track or --base
    #[arg(long, value_name = "DIR", long_help = moving_help::BASE)]
    pub base: Option<PathBuf>,

    /// Let this snapshot be the base of the next one: what is written is noted from now on
    #[arg(long, long_help = moving_help::TRACK)]
    pub track: bool,
}

/// The words of `perfvisor ctl migrate`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct MigrateArgs {
    /// Where to: socket=PATH, and optionally downtime=N ms
    #[arg(long, value_name = "OPTIONS", long_help = moving_help::MIGRATE_TO,
        value_parser = OsStringValueParser::new().try_map(|value| MigrateTo::parse(&value)))]
    pub to: Option<MigrateTo>,

    /// End a migration: the VM goes on here
    #[arg(long)]
    pub cancel: bool,
}

/// The flags of `perfvisor ctl shutdown`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShutdownArgs {
    /// End the virtual machine now, as if the power failed
    #[arg(long)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_name_is_one_plain_word() {
        for name in ["a", "web-1.example_x", &"x".repeat(LONGEST_NAME)] {
            assert_eq!(parse_name(name).as_deref(), Ok(name));
        }
        for name in ["", "a b", "a]", "\n", "ä", &"x".repeat(LONGEST_NAME + 1)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
