//! The command line: text in, low args out. What the values mean is decided in
//! [`crate::config`].

mod vm_config;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::MonitorArg;

const RUN_EXAMPLES: &str = "\
Examples:
  perfvisor run --kernel /boot/vmlinuz --initramfs guest.cpio
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --cmdline 'console=ttyS0 quiet' \\
      --cpus boot=4,topology=2:2:1:1 --memory size=2G
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --serial file=console.log

Console:
  With --serial tty the terminal belongs to the guest, Ctrl-C included.
  Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends one Ctrl-A.

Exit status:
  0     the guest powered off or reset itself, or Ctrl-A x
  1     the host cannot run it, or the guest failed (a triple fault, for one)
  2     a flag or a file named by one is not usable; nothing was started
  128+n ended by signal n (130 for SIGINT, 143 for SIGTERM)
  odd   with --debug-exit: twice what the guest wrote, plus 1

Environment:
  PERFVISOR_LOG  off, error, warn (default), info, debug or trace; goes to standard error";

const DOCTOR_HELP: &str = "\
Starts a few throw-away guests of a few instructions each; changes nothing on the host.

Exit status:
  0  a Linux guest with a PMU can run here with the default flags of perfvisor run
  1  it cannot; the first line says why, the advice what to change
  2  a flag is not usable";

const CTL_HELP: &str = "\
Examples:
  perfvisor run --kernel vmlinuz --initramfs guest.cpio --api-socket path=/run/vm1.sock
  perfvisor ctl --api-socket /run/vm1.sock pmu
  perfvisor ctl --api-socket /run/vm1.sock info --json
  perfvisor ctl --api-socket /run/vm1.sock vcpu add 3
  perfvisor ctl --api-socket /run/vm1.sock monitor add instructions:u,policy=pinned

The socket speaks HTTP/1.1 with JSON bodies; openapi.json in the source describes it.

Exit status:
  0  done
  1  the VMM said no, or cannot be reached
  2  a flag is not usable";

/// A KVM virtual machine monitor whose guests have a working PMU on any host.
#[derive(Debug, Parser)]
#[command(name = "perfvisor", version, about, max_term_width = 100)]
// Not the help, where a command is missing: a line that says so.
#[command(arg_required_else_help = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a virtual machine and stay until it ends
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),

    /// Say what this host can do for guests and their PMU, and what would make it more
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArgs),

    /// Ask or tell a running virtual machine
    #[command(after_help = CTL_HELP)]
    Ctl(CtlArgs),
}

/// The flags of `perfvisor run`, as text.
#[expect(
    rustdoc::invalid_html_tags,
    rustdoc::broken_intra_doc_links,
    reason = "the help text is no HTML and has no links"
)]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Kernel: a Linux bzImage (5.x and later distribution kernels) or an x86-64 ELF file
    /// (vmlinux, or a bare-metal program, which is entered in 64-bit mode), or a multiboot-1 image,
    /// ELF32 or with its addresses in its header
    #[arg(long, value_name = "PATH")]
    pub kernel: PathBuf,

    /// Initial RAM file system: cpio (newc), plain or compressed; repeat it to have several
    /// concatenated in order. A multiboot image gets each file, of any content, as a module
    #[arg(long, value_name = "PATH")]
    pub initramfs: Vec<PathBuf>,

    /// Kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0",
        allow_hyphen_values = true
    )]
    pub cmdline: String,

    /// Virtual CPUs: boot=N, then optionally max=N (by default boot; perfvisor ctl vcpu adds and
    /// removes them while the guest runs), topology=threads:cores:dies:packages
    /// (or threads:cores:clusters:dies:packages, with cores that share an L2 cache; Intel models),
    /// affinity=[VCPU@[HOST CPUS],...] and core-types=[core=[VCPUS],atom=[VCPUS]]. N is 1 to 254;
    /// the product of the topology is max; without one, all are cores of one package. Affinity binds vCPU threads, for example
    /// [0@[2,3],1@[4-7]]; core-types goes with --pmu type=hybrid and names each vCPU once
    #[arg(long, value_name = "OPTIONS", default_value = "boot=1")]
    pub cpus: String,

    /// Memory: size=N with K, M or G, 8M to 1023G
    #[arg(long, value_name = "OPTIONS", default_value = "size=512M")]
    pub memory: String,

    /// PMU: 'off', or type=auto|core|atom|hybrid|software|<sysfs name>|<type number>, then
    /// optionally model=NAME (the guest's PMU: intel-v1 to intel-v5, amd-k7, amd-core, amd-v2; by
    /// default intel-v2, or amd-v2 on an AMD host that counts all events such a guest takes for
    /// granted), gp=N (2 to 8 general-purpose counters), fixed=N (1 to 3 fixed counters, intel-v5
    /// to 4; by default no more than the host was found to have), width=N (32 to 48 bits),
    /// policy=flexible|pinned (where the host has too few counters: they take turns and reads are
    /// scaled, or each has one or is in error), filter=architectural|all|@FILE (which events may be
    /// counted; FILE is JSON: {"allow": ["cycles", "r1d1"], "deny": []}; codes count only on a host
    /// PMU of the guest's vendor), rdpmc=rewrite|off (off leaves the guest's RDPMC instructions
    /// alone: the guest has no PMU then, as with 'off'). On a hybrid host, auto adds up what both
    /// kinds of CPUs count; core and atom bind the vCPUs to one kind, and end the VM if a vCPU is
    /// moved elsewhere; hybrid shows the guest both kinds
    #[arg(long, value_name = "OPTIONS", default_value = "type=auto")]
    pub pmu: String,

    /// Scoped PMUs, whose counters serve a die or a package: power=on (RAPL), amd_l3=on, amd_df=on,
    /// amd_umc=on, each backed by the host's PMU of that name, and refused where the host has none;
    /// AMD's need an AMD model (--pmu model=), amd_umc amd-v2. share=cputime|raw: of energy, the
    /// guest's part by CPU time, or all. Off by default: a guest sees with them what others do on
    /// its host, with share=cputime too, and energy is known to leak keys
    #[arg(long, value_name = "OPTIONS")]
    pub uncore: Option<String>,

    /// Serial console (ttyS0): 'tty' (this terminal), file=PATH (created or emptied) or 'null'
    #[arg(long, value_name = "OPTIONS", default_value = "tty")]
    pub serial: String,

    /// Control API: path=PATH of a Unix socket, which is created with mode 0600 and removed at
    /// the end; perfvisor ctl talks to it
    #[arg(long, value_name = "OPTIONS")]
    pub api_socket: Option<String>,

    /// End the VM with status (v << 1) | 1 when the guest writes v to port 0xf4, as QEMU's
    /// isa-debug-exit does
    #[arg(long)]
    pub debug_exit: bool,

    /// KVM device
    #[arg(long, value_name = "PATH", default_value = "/dev/kvm")]
    pub kvm_device: PathBuf,
}

/// The flags of `perfvisor doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Write the report as JSON; what could not be found out is {"unknown": "the reason"}
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
    /// The socket that perfvisor run --api-socket path=PATH names
    #[arg(long, value_name = "PATH")]
    pub api_socket: PathBuf,

    /// Print the answer as it comes, in JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// What to ask or tell.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What to ask or tell a VM.
#[derive(Clone, Debug, Subcommand)]
pub enum CtlCommand {
    /// What runs there: vCPUs, memory, kernel, the PMU's backing, totals so far
    Info,
    /// Stop the guest; done when every vCPU stands
    Pause,
    /// Let a paused guest run on
    Resume,
    /// Each guest counter: its event, the host event behind it, whether it counts and for how long;
    /// and each monitor
    Pmu,
    /// Count an event on the vCPUs from outside, beside what the guest counts
    Monitor(MonitorArgs),
    /// Add or remove a virtual CPU
    Vcpu(VcpuArgs),
    /// Press the guest's ACPI power button, which it may ignore
    Shutdown(ShutdownArgs),
}

/// The words of `perfvisor ctl monitor`.
#[derive(Clone, Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct MonitorArgs {
    /// What to do with which.
    #[command(subcommand)]
    pub command: MonitorCommand,
}

/// What to do with a monitor.
#[derive(Clone, Debug, Subcommand)]
pub enum MonitorCommand {
    /// Attach one, of 8 at most. It counts what the guest executes, whatever the guest does with its
    /// own PMU, and competes with it for host counters in this order: pinned monitors, the guest's
    /// counters under policy=pinned, flexible monitors, the guest's under policy=flexible
    Add {
        /// An event, then optionally policy=flexible|pinned and vcpu=N, such as
        /// cycles:u,policy=pinned. An event is cycles, instructions, ref-cycles and so on, or r and
        /// a code of the host's CPU, then :u or :k; without vcpu=, it is on all vCPUs, those plugged
        /// in later too
        #[arg(value_name = "EVENT[,OPTIONS]")]
        monitor: MonitorArg,
    },
    /// Take one away; shows what it counted
    Remove {
        /// Its number, of monitor list
        #[arg(value_name = "ID")]
        monitor: u8,
    },
    /// Show each and what it counted so far, as it is and scaled to the whole time
    List,
}

/// The words of `perfvisor ctl vcpu`.
#[derive(Clone, Copy, Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct VcpuArgs {
    /// What to do with which.
    #[command(subcommand)]
    pub command: VcpuCommand,
}

/// What to do with a vCPU.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum VcpuCommand {
    /// Plug one in; done when the guest has taken it. It is offline then: udev rules of a
    /// distribution, or echo 1 > /sys/devices/system/cpu/cpuN/online in the guest, start it
    Add {
        /// Its number, below max= of --cpus
        #[arg(value_name = "N")]
        vcpu: u16,
    },
    /// Take one out; done when the guest has let it go and its thread has ended. The guest may
    /// refuse; the boot CPU, 0, stays
    Remove {
        /// Its number
        #[arg(value_name = "N")]
        vcpu: u16,
    },
    /// Show where each is
    List,
}

/// The flags of `perfvisor ctl shutdown`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShutdownArgs {
    /// End the virtual machine now, as if its plug were pulled
    #[arg(long)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
