//! A guest that a line on the host starts and looks after: how such a line begins and
//! ends.

use anyhow::{Context, Result};

use super::Seen;
use crate::guest::KERNEL_WORDS;

/// The rate of the host's TSC in MHz, where the line has shown it from /proc/cpuinfo.
pub(super) fn host_mhz(seen: &Seen) -> Result<f64> {
    let mut lines = seen.console.lines();
    let line = lines.find(|line| line.starts_with("cpu MHz"));
    let mhz = line.and_then(|line| line.split(':').next_back());
    Ok(mhz.context("the host's clock is due")?.trim().parse()?)
}

/// The file of the guest's console.
pub(super) const CONSOLE: &str = "/tmp/console";

/// The end of the line: waits for perfvisor, says how it ended, and shows the console.
pub(super) const ENDED: &str = "wait $vmm; echo status=$?; cat /tmp/console";

/// The host has this mock PMU until the end of the line, instead of the row's.
pub(super) fn with_pmu(spec: &str) -> String {
    let load = |spec: &str| format!("rmmod mock_pmu; insmod /modules/mock_pmu.ko spec={spec}");
    format!(
        "{}; trap '{}' EXIT; ",
        load(spec),
        load("$(cat /job/mock-pmu)")
    )
}

/// A guest of 256 MiB with its API.
pub(super) struct Hosted<'a> {
    /// The series of its kernel.
    pub(super) kernel: &'a str,
    /// More flags of `perfvisor run`.
    pub(super) flags: &'a str,
    /// More words on its kernel command line.
    pub(super) append: &'a str,
    /// The line that it runs, without quotes.
    pub(super) line: &'a str,
}

impl Default for Hosted<'_> {
    fn default() -> Self {
        Self {
            kernel: "6.12",
            flags: "",
            append: "",
            line: "true",
        }
    }
}

impl Hosted<'_> {
    /// The beginning of the line: the guest is in the background, `$vmm` its process,
    /// /tmp/console its console, `$ctl` the command that controls it, and `word W`
    /// waits for a line of the console that begins with W.
    pub(super) fn started(&self) -> String {
        let Self {
            kernel,
            flags,
            append,
            line,
        } = self;
        format!(
            "rm -f /tmp/console; perfvisor run --kernel {{kernel-{kernel}}} --initramfs {{guest.cpio}} \
               --memory size=256M --serial file=/tmp/console --api-socket path=/tmp/api {flags} \
               --cmdline '{KERNEL_WORDS} {append} perfvisor.run=\"{line}\"' & \
             vmm=$!; ctl='perfvisor ctl --api-socket /tmp/api'; \
             word() {{ until grep -qs \"^$1\" /tmp/console; do sleep 0.1; done; }}; "
        )
    }
}
