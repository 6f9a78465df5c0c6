//! Which emulator a nested host runs in, and so whose virtualisation it has.

use std::time::Duration;

use anyhow::{Result, bail};

use super::HostArgs;
use crate::mock_pmu::Spec;
use crate::patience::Patience;

/// What emulates the nested host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum HostKind {
    /// QEMU, which emulates AMD's virtualisation (SVM)
    #[default]
    Amd,
    /// Bochs, which emulates Intel's (VMX), ten times slower
    Intel,
}

impl HostKind {
    /// The emulator's name, as a file name has it.
    pub(super) const fn emulator(self) -> &'static str {
        match self {
            Self::Amd => "qemu",
            Self::Intel => "bochs",
        }
    }

    /// What a message says of it.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Amd => "",
            Self::Intel => " on Bochs (VMX)",
        }
    }

    /// The module of KVM that the host loads.
    pub(crate) const fn kvm(self) -> &'static str {
        match self {
            Self::Amd => "kvm-amd",
            Self::Intel => "kvm-intel",
        }
    }

    /// The parameters of a module of the host, by the name of its file.
    pub(crate) fn parameters(self, module: &str) -> &'static str {
        match (self, module) {
            // A guest that waits is to be left every 4,096 ticks, not ever more rarely.
            (Self::Intel, "kvm_intel") => "ple_window_grow=0",
            _ => "",
        }
    }

    /// The kernels that it has as ELF files if nothing names them, if not all: each makes the
    /// boot of a slow host longer.
    pub(super) const fn elf_kernels(self) -> Option<&'static [String]> {
        match self {
            Self::Amd => None,
            Self::Intel => Some(&[]),
        }
    }

    /// How long a host may stand still while it boots: it prints nothing. In QEMU that
    /// takes some ten seconds of CPU time, in Bochs some sixty.
    pub(super) const fn boot_patience(self) -> Patience {
        let work = match self {
            Self::Amd => 120,
            Self::Intel => 600,
        };
        Patience {
            work: Duration::from_secs(work),
            idle: Duration::from_secs(45),
        }
    }

    /// # Errors
    /// If an option makes no sense with it: the option, and what would work.
    pub(super) fn check(self, args: &HostArgs) -> Result<()> {
        if self == Self::Amd {
            return Ok(());
        }
        if let Some(cpus @ 3..) = args.cpus {
            bail!(
                "--cpus {cpus} with --host intel: it has two CPUs at most; use --cpus 1, \
                 --cpus 2 or --host amd"
            );
        }
        let least = args.mock_pmu.as_ref().map_or(1, Spec::least_cpus);
        if let (Some(spec), 3..) = (&args.mock_pmu, least) {
            bail!(
                "--mock-pmu {} with --host intel: it has two CPUs at most, and these PMUs need \
                 {least}; use core[:gp=N] or hybrid:cpus=1, or --host amd",
                spec.text()
            );
        }
        let refused = [
            (
                args.icount,
                "--icount",
                "in Bochs 1 instruction takes 10 ns anyway; leave --icount out",
            ),
            (
                args.debian,
                "--debian",
                "it has no such disks; leave --debian out, or use --host amd",
            ),
        ];
        for (given, flag, why) in refused {
            if given {
                bail!("{flag} with --host intel: {why}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        host: HostArgs,
    }

    fn refused(line: &str) -> Option<String> {
        let line = line.split_whitespace();
        let line = Line::try_parse_from(["x"].into_iter().chain(line)).unwrap();
        let checked = line.host.host.check(&line.host);
        checked.err().map(|error| error.to_string())
    }

    /// Each names the option, its value, and what would work.
    #[test]
    fn options_that_the_intel_host_has_not_are_refused_in_one_line() {
        for (given, words) in [
            ("--icount", ["--icount", "leave"]),
            ("--debian", ["--debian", "--host amd"]),
            ("--cpus 3", ["--cpus 3", "--cpus 2"]),
            ("--mock-pmu hybrid:gp=4", ["hybrid:gp=4", "core[:gp=N]"]),
        ] {
            let error = refused(&format!("--host intel {given}")).unwrap();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert_eq!(refused(given), None);
        }
        for works in [
            "--cpus 1 --mock-pmu core:gp=4 --host-kernel 6.1",
            "--cpus 2",
            "--mock-pmu hybrid:gp=4:cpus=1",
        ] {
            assert_eq!(refused(&format!("--host intel {works}")), None);
        }
    }
}
