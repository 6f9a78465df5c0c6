//! `perfvisor doctor`: what this host can do, and how to enable more.
//!
//! ```text
//!  kvm, host, pmu, uncore, memory, tenants: gather ─▶ Report ─▶ advice ─▶ text or JSON
//! ```
//! Nothing here fails: a value that cannot be found out is reported as unknown,
//! with the reason ([`Finding`]).

mod advice;
mod host;
mod kvm;
mod memory;
mod pmu;
mod report;
#[cfg(test)]
mod sample;
mod tenants;
mod text;
mod uncore;

use std::process::ExitCode;

use vpmu::host::linux::sysfs::Sysfs;

use self::tenants::HostFiles;
use crate::cli::DoctorArgs;
use crate::kvm::Hypervisor;
use crate::output::stderr;

pub use report::{Finding, Report};

/// Everything that can be found out on this host.
#[must_use]
pub fn examine(args: &DoctorArgs) -> Report {
    let sysfs = Sysfs::default();
    let hypervisor = Hypervisor::open(&args.kvm_device);
    let open = hypervisor.as_ref().ok();
    // First: the less this process has done, the less of it is measured.
    let memory = memory::measure(open);
    let kvm = kvm::examine(&args.kvm_device, &hypervisor);
    let backing = pmu::backing(&sysfs);
    let mut report = Report {
        linux_guest_with_pmu: pmu::verdict(&kvm, &backing),
        rdpmc: pmu::rdpmc(open),
        counters: pmu::counters(&sysfs),
        kvm,
        cpu: host::cpu(),
        pmus: host::pmus(&sysfs),
        uncore: uncore::examine(&sysfs),
        permission: host::permission(),
        tenants: tenants::examine(&HostFiles::default()),
        backing,
        memory,
        advice: Vec::new(),
    };
    report.advice = advice::advice(&report);
    report
}

/// The subcommand: prints the report; success if a Linux guest with a PMU can
/// run here.
#[must_use]
pub fn run(args: &DoctorArgs) -> ExitCode {
    let report = examine(args);
    let text = if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => json,
            Err(error) => {
                stderr::line(&format!(
                    "perfvisor: cannot write the report as JSON: {error}"
                ));
                return ExitCode::FAILURE;
            }
        }
    } else if args.verbose {
        text::verbose(&report)
    } else {
        text::short(&report)
    };
    print(&text);
    if report.linux_guest_with_pmu.possible {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `println!` would panic on a closed pipe.
fn print(text: &str) {
    use std::io::Write;
    // Nobody reads it: nothing to be done.
    drop(writeln!(std::io::stdout(), "{}", text.trim_end()));
}
