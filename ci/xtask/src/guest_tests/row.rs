//! One test in a Linux guest: what it needs, what it runs, what must be seen.

use anyhow::Result;

use super::{NestedHost, Seen, on_host};
use crate::nested::HostKind;

/// One test: a guest, what it runs, and what must be seen.
#[derive(Debug)]
pub(crate) struct GuestTest {
    /// Its name, with `/` between the parts.
    pub(crate) name: String,
    /// Whose virtualisation the nested host has; the test needs that host if it is Intel's.
    pub(crate) host: HostKind,
    /// Kernel of the nested host; ignored on a machine that runs guests natively.
    pub(crate) host_kernel: &'static str,
    /// The mock PMU of the nested host, which the test then needs; empty: none.
    pub(crate) mock_pmu: &'static str,
    /// Whether the nested host is a Debian 13, which the test then needs.
    pub(crate) debian: bool,
    /// Whether that host needs QEMU, to compare with.
    pub(crate) peer: bool,
    /// Whether that host needs disks for guests.
    pub(crate) disks: bool,
    /// Cargo profile of the host's perfvisor.
    pub(crate) profile: &'static str,
    /// Files of a line on the host, in its /images.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// How time passes.
    pub(crate) clock: Clock,
    /// Where the line runs.
    pub(crate) runs: Runs,
    /// Kernel of the guest: `6.12` in the form that boots the soonest, `vmlinuz-6.12` and
    /// `vmlinux-6.12` in this one.
    pub(crate) guest_kernel: &'static str,
    /// Its vCPUs.
    pub(crate) vcpus: u32,
    /// More words on its kernel command line.
    pub(crate) append: &'static str,
    /// More flags of `perfvisor run`. With `--cpus`, `vcpus` is not used.
    pub(crate) vmm: &'static str,
    /// The line that it runs.
    pub(crate) line: String,
    /// Seconds of CPU time that it may use without a byte of output, nor of the guest's
    /// console: more than twice what it uses in all.
    pub(crate) limit: u64,
    /// A word of its name without which it is not run; empty: it always is.
    pub(crate) on_request: &'static str,
    /// Functions of which the guest's kernel may warn.
    pub(crate) may_warn: &'static [&'static str],
    /// Looks at what came out.
    pub(crate) check: Check,
}

/// Looks at what came out of a test.
pub(crate) type Check = fn(&Seen, &GuestTest) -> Result<()>;

/// How time passes on a test's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// As on the wall: several CPUs at once.
    Wall,
    /// By instructions in the nested host; as on the wall on a machine of our own.
    InstructionsIfNested,
    /// By instructions: always in the nested host.
    Instructions,
}

/// Where a test's line runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// In a guest.
    InGuest,
    /// On the host, with `perfvisor` in PATH.
    OnHost,
}

/// How many times its limit a test may take by the host's clock while it prints: a machine
/// may be that slow. What stands still has ended long before ([`crate::patience`]).
const SLOWEST: u64 = 12;

/// What tests run: optimised, and quick to build.
pub(super) const PROFILE: &str = "testrelease";

/// The word that runs the pairs of kernels and models which are not in the daily tests.
const EVERY_PAIR: &str = "every-pair";

impl GuestTest {
    /// The test as one that runs on request: its parts are tested in other pairs.
    pub(super) fn among_every_pair(self) -> Self {
        Self {
            name: format!("{EVERY_PAIR}/{}", self.name),
            on_request: EVERY_PAIR,
            ..self
        }
    }

    /// The test, which is one of [`GuestTest::among_every_pair`] unless its guest has this
    /// kernel.
    pub(super) fn daily_with(self, guest_kernel: &str) -> Self {
        if self.guest_kernel == guest_kernel || !self.on_request.is_empty() {
            self
        } else {
            self.among_every_pair()
        }
    }

    /// Seconds after which it is ended, on any machine.
    pub(super) const fn ended_after(&self) -> u64 {
        self.limit * SLOWEST
    }

    /// Where its guest's console goes, if that is a file.
    pub(super) const fn console(&self) -> &'static str {
        match self.runs {
            Runs::InGuest => "",
            Runs::OnHost => on_host::CONSOLE,
        }
    }

    /// A guest with one vCPU, both kernels 6.12.
    pub(crate) fn new(name: impl Into<String>, line: impl Into<String>, check: Check) -> Self {
        Self {
            name: name.into(),
            host: HostKind::Amd,
            host_kernel: "6.12",
            mock_pmu: "",
            debian: false,
            peer: false,
            disks: false,
            profile: PROFILE,
            files: &[],
            clock: Clock::Wall,
            runs: Runs::InGuest,
            guest_kernel: "6.12",
            vcpus: 1,
            append: "",
            vmm: "",
            line: line.into(),
            limit: 120,
            on_request: "",
            may_warn: &[],
            check,
        }
    }

    /// What the host of this test is asked for; nothing is this machine.
    pub(super) fn nested_host(&self, native: bool) -> Option<NestedHost> {
        let nested = NestedHost {
            kind: self.host,
            kernel: self.host_kernel,
            mock_pmu: self.mock_pmu,
            debian: self.debian,
            peer: self.peer,
            profile: self.profile,
            icount: self.clock != Clock::Wall,
        };
        let anywhere = self.clock != Clock::Instructions
            && self.mock_pmu.is_empty()
            && !self.debian
            && self.host == HostKind::Amd;
        (!(native && anywhere)).then_some(nested)
    }
}
