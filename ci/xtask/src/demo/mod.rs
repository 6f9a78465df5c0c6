//! `cargo xtask demo`: perf at work in a guest, shown and checked.

use std::time::Instant;

use anyhow::Result;

use crate::cmd::quoted;
use crate::complaints;
use crate::guest::{self, GuestArgs};
use crate::nested::stream::Stream;
use crate::nested::{self, Ended, HostArgs, Job};
use crate::perf;
use crate::place;
use crate::report::Report;
use crate::say;

/// What the demo may be told.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Kernel of the guest
    #[arg(long, value_name = "6.1|6.12", default_value = "6.12")]
    guest_kernel: String,
    /// Kernel of the nested host, if one is used [default: 6.12]
    #[arg(long, value_name = "6.1|6.12")]
    host_kernel: Option<String>,
    /// The PMU of the guest, as in perfvisor run --pmu; such as type=software,model=intel-v2
    #[arg(long, value_name = "PMU", allow_hyphen_values = true)]
    pmu: Option<String>,
}

/// Seconds that the guest may take.
const LIMIT: u64 = 180;

/// Runs the demo. The exit status is 0 if perf showed what it must.
pub(crate) fn command(args: &DemoArgs) -> Result<u8> {
    let nested = args.host_kernel.is_some() || place::no_native_guests().is_some();
    let host = HostArgs {
        icount: false,
        host_kernel: args.host_kernel.clone(),
        // With two, one patches the host's text while the other runs it.
        cpus: nested.then_some(1),
        share: None,
        timeout: LIMIT,
        profile: "release".into(),
        perfvisor: None,
        mock_pmu: None,
    };
    let place = place::prepare(&host)?;
    let guest = GuestArgs {
        guest_kernel: args.guest_kernel.clone(),
        vmm: args
            .pmu
            .as_ref()
            .map(|pmu| format!("--pmu {}", quoted(pmu)))
            .unwrap_or_default(),
        append: String::new(),
    };
    let mut job = Job::default();
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
    let began = Instant::now();
    let (mut console, mut vmm) = (Vec::new(), Vec::new());
    let ended = place.run(&job, &mut |stream, bytes| {
        nested::pass_on(stream, bytes);
        match stream {
            Stream::Error => vmm.extend_from_slice(bytes),
            _ => console.extend_from_slice(bytes),
        }
    })?;
    say!(
        "the guest and its host took {:.0} s",
        began.elapsed().as_secs_f32()
    );
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    let vmm = String::from_utf8_lossy(&vmm);
    let software = nested
        || args
            .pmu
            .as_ref()
            .is_some_and(|pmu| pmu.contains("software"));
    println!("\nHost: {}", place.describe());
    Ok(judge(ended, &console, &vmm, software))
}

/// Looks at what was shown.
fn judge(ended: Ended, console: &str, vmm: &str, software: bool) -> u8 {
    let mut report = Report::new(None);
    report.step("the guest ran to its end", || {
        match guest::verdict(ended, console)? {
            0 => Ok(()),
            status => anyhow::bail!("perf ended with status {status}"),
        }
    });
    report.step("perf stat counts cycles", || perf::cycles(console));
    if software {
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
        perf::hot_symbol(console, 1)
    });
    report.step("interrupts match the injected PMIs", || {
        perf::interrupts(console, vmm)
    });
    report.step("the guest's kernel has no complaint", || {
        complaints::none(console)
    });
    report.finish()
}
