//! `cargo xtask demo`: perf at work in a guest, shown and checked.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cmd::quoted;
use crate::complaints;
use crate::guest::{self, GuestArgs};
use crate::nested::stream::Stream;
use crate::nested::{self, Ended, HostArgs, HostKind, Job};
use crate::patience::Patience;
use crate::perf;
use crate::place::{self, Place};
use crate::report::Report;
use crate::say;

/// What the demo may be told.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Kernel of the guest
    #[arg(long, value_name = "6.1|6.12|7", default_value = "6.12")]
    guest_kernel: String,
    /// Kernel of the nested host, if one is used [default: 6.12]
    #[arg(long, value_name = "6.1|6.12|7")]
    host_kernel: Option<String>,
    /// The PMU of the guest, as in perfvisor run --pmu; such as type=software,model=intel-v2
    #[arg(long, value_name = "PMU", allow_hyphen_values = true)]
    pmu: Option<String>,
    /// Use the nested host, and give it a (mock) PMU with eight counters: the guest then counts
    /// every hardware event
    #[arg(long)]
    mock_pmu: bool,
}

/// The host's PMU with --mock-pmu.
const MOCK_PMU: &str = "core:gp=8";
/// And the guest's: of a model whose driver has all of perf's hardware events.
const MOCK_GUEST: &str = "type=auto,model=intel-v2,gp=8";

/// How long the guest may stand still: in all it uses a minute of CPU time, and prints all
/// along.
const PATIENCE: Patience = Patience {
    work: Duration::from_secs(180),
    idle: Patience::IDLE,
};
/// Seconds that it may take on any machine.
const LIMIT: u64 = 3600;

/// The kernels that it boots; what is no series is refused later, with those that there are.
fn kernels(args: &DemoArgs) -> Vec<String> {
    let host = args.host_kernel.as_deref();
    let guest = crate::kernels::series(&args.guest_kernel);
    vec![host.unwrap_or(nested::DEFAULT_KERNEL).into(), guest.into()]
}

/// The kernel that it boots as an ELF file, if it does.
fn elf(args: &DemoArgs) -> Vec<String> {
    let elf = args.guest_kernel.strip_prefix("vmlinux-");
    elf.into_iter().map(str::to_owned).collect()
}

/// Runs the demo. The exit status is 0 if perf showed what it must.
pub(crate) fn command(args: &DemoArgs) -> Result<u8> {
    let nested = args.mock_pmu || args.host_kernel.is_some() || place::no_native_guests().is_some();
    let mock_pmu = args.mock_pmu.then(|| MOCK_PMU.parse()).transpose()?;
    let host = HostArgs {
        host: HostKind::Amd,
        icount: false,
        host_kernel: args.host_kernel.clone(),
        cpus: None,
        share: None,
        timeout: Some(LIMIT),
        profile: "release".into(),
        perfvisor: None,
        mock_pmu,
        debian: false,
        guest_disks: false,
        peer: false,
        kernels: kernels(args),
        elf: Some(elf(args)),
    };
    let place = place::prepare(&host)?;
    let pmu = args.pmu.as_deref();
    let pmu = pmu.or(args.mock_pmu.then_some(MOCK_GUEST));
    let guest = GuestArgs {
        guest_kernel: args.guest_kernel.clone(),
        vmm: pmu
            .map(|pmu| format!("--pmu {}", quoted(pmu)))
            .unwrap_or_default(),
        append: String::new(),
    };
    let mut job = Job {
        patience: Some(PATIENCE),
        ..Job::default()
    };
    job.line = guest::run_line(
        &place,
        &guest,
        ("demo", &complaints::asked_after(&perf::line(nested))),
        &mut job,
    )?;
    say!(
        "guest of kernel {} on {}",
        guest.guest_kernel,
        place.describe()
    );
    let (ended, console, vmm) = show(&place, &job)?;
    println!("\nHost: {}", place.describe());
    if let Some(why) = why_not_supported(&console, &vmm) {
        println!("{why}");
    }
    Ok(judge(ended, &console, &vmm, (nested, args.mock_pmu)))
}

/// Runs the job and passes on what it prints. Returns how it ended, the guest's console, and
/// what perfvisor said.
fn show(place: &Place, job: &Job) -> Result<(Ended, String, String)> {
    let began = Instant::now();
    // The console, and what perfvisor says.
    let shown = RefCell::new((Vec::new(), Vec::new()));
    let ended = place.run_on_a_host_that_lives(
        job,
        &mut |stream, bytes| {
            nested::pass_on(stream, bytes);
            let mut shown = shown.borrow_mut();
            match stream {
                Stream::Error => shown.1.extend_from_slice(bytes),
                _ => shown.0.extend_from_slice(bytes),
            }
        },
        &mut || *shown.borrow_mut() = Default::default(),
    )?;
    say!(
        "the guest and its host took {:.0} s",
        began.elapsed().as_secs_f32()
    );
    let (console, vmm) = shown.into_inner();
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    let vmm = String::from_utf8_lossy(&vmm).into_owned();
    Ok((ended, console, vmm))
}

/// Why perf calls some events `<not supported>`, for a reader who takes that for a failure.
fn why_not_supported(console: &str, vmm: &str) -> Option<String> {
    let missing = perf::not_supported(console);
    if missing == 0 || !perf::is_clock_backed(vmm) {
        return None;
    }
    Some(format!(
        "{missing} of {} hardware events read <not supported>, as they should: this host has no \
         PMU, so the guest's run time backs its cycle counters and nothing backs the others; \
         `cargo xtask demo --mock-pmu` shows a guest that counts them all.",
        perf::HARDWARE_EVENTS
    ))
}

/// Looks at what was shown: of a nested host's guest or not, with all hardware events or not.
fn judge(ended: Ended, console: &str, vmm: &str, (nested, all_events): (bool, bool)) -> u8 {
    // On a machine with little time for the nested host, samples lie where a PMI was armed.
    let among_the_first = if nested { 3 } else { 1 };
    let mut report = Report::new(None);
    report.step("the guest ran to its end", || {
        match guest::verdict(ended, console)? {
            0 => Ok(()),
            status => anyhow::bail!("perf ended with status {status}"),
        }
    });
    report.step("perf stat counts cycles", || perf::cycles(console));
    if all_events {
        report.step("every hardware event is counted", || {
            perf::all_supported(console)
        });
    } else if perf::is_clock_backed(vmm) {
        report.step("instructions are <not supported>", || {
            perf::unsupported(console)
        });
    } else {
        report.skip(
            "instructions are <not supported>",
            "this host's PMU may count them",
        );
    }
    report.step("perf report finds the hot function", || {
        perf::hot_symbol(console, among_the_first)
    });
    report.step("interrupts match the injected PMIs", || {
        perf::interrupts(console, vmm)
    });
    report.step("the guest's kernel has no complaint", || {
        complaints::none(console)
    });
    report.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: &str = "perfvisor: PMU model=amd-core backing=clock counters=6";

    #[test]
    fn a_reader_is_told_why_events_are_missing() {
        let stat = "=== perf stat\n 9 cycles\n <not supported> instructions\n\
                    <not supported> branches\n=== perf record\n <not supported> x\n";
        let why = why_not_supported(stat, CLOCK).unwrap();
        assert!(why.starts_with("2 of 8 hardware events"), "{why}");
        assert!(
            why.contains("no PMU") && why.contains("--mock-pmu"),
            "{why}"
        );
        assert!(!why.contains('\n'), "{why}");
        // A host with a PMU has another reason, and a guest that counts all has none.
        assert_eq!(why_not_supported(stat, "backing=cpu "), None);
        assert_eq!(why_not_supported("=== perf stat\n 9 cycles\n", CLOCK), None);
    }
}
