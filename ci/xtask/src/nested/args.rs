//! The options of a nested host.

use std::path::PathBuf;

use super::HostKind;
use crate::mock_pmu::Spec;

/// Options of the nested host, for every command that uses it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HostArgs {
    /// Whose virtualisation the nested host has: AMD's, in QEMU, or Intel's, in Bochs. The
    /// Intel host has two CPUs at most and 2 GiB; it is ten times slower and takes a minute to boot
    #[arg(long, value_name = "amd|intel", default_value = "amd")]
    pub(crate) host: HostKind,
    /// Count instructions: virtual time advances 1 ns per executed instruction
    #[arg(long)]
    pub(crate) icount: bool,
    /// Kernel of the nested host [default: 6.12]
    #[arg(long, value_name = "6.1|6.12|7")]
    pub(crate) host_kernel: Option<String>,
    /// CPUs of the nested host. Two CPUs have a QEMU thread each; more than two, and CPUs with
    /// --icount, share one thread. With two, the emulation now and then kills the nested host
    /// [default: 1, or as many as a hybrid --mock-pmu needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) cpus: Option<u32>,
    /// A folder that the nested host or the guest sees at /share. The nested host cannot write to
    /// it. A guest can write, but into its own copy: nothing comes back
    #[arg(long, value_name = "DIR")]
    pub(crate) share: Option<PathBuf>,
    /// Time limit of the line in seconds [default: 600; none for an interactive shell]
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<u64>,
    /// Cargo profile with which perfvisor is built
    #[arg(long, value_name = "NAME", default_value = "testrelease")]
    pub(crate) profile: String,
    /// A static perfvisor, used instead of building one; the word `none` starts a nested host
    /// that has no perfvisor
    #[arg(long, value_name = "FILE")]
    pub(crate) perfvisor: Option<PathBuf>,
    /// The mock PMU of the nested host.
    #[arg(
        long,
        value_name = "SPEC",
        help = "Give the nested host a mock PMU: core[:gp=N], hybrid[:gp=N][:cpus=C] or \
                uncore[:name=PMU][:scope=SCOPE][:gp=N]; + joins several, such as \
                core:gp=4+uncore:name=power. See resources/mock-pmu/README.md"
    )]
    pub(crate) mock_pmu: Option<Spec>,
    /// Give the nested host the root file system of a Debian 13 instead of busybox: with virtiofsd,
    /// passt, gcc, python3 and perf, kernels in /boot, and a user `user` who may use /dev/kvm
    #[arg(long)]
    pub(crate) debian: bool,
    /// Give the Debian host two more disks, for guests: /dev/vdb is a Debian 12, /dev/vdc a Debian 13
    #[arg(long, requires = "debian")]
    pub(crate) guest_disks: bool,
    /// Give the Debian host QEMU too, to compare with: it has a disk of its own for that
    #[arg(long, requires = "debian")]
    pub(crate) peer: bool,
    /// The kernels that are needed, of hosts and of guests; none: all that there are.
    #[arg(skip)]
    pub(crate) kernels: Vec<String>,
    /// The kernels that are needed as ELF files too, if not all.
    #[arg(skip)]
    pub(crate) elf: Option<Vec<String>>,
}
