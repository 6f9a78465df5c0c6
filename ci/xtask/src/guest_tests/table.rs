//! The table of guest tests. A new one is a row in one of the functions here, or a
//! function of rows in a module beside it.

use anyhow::{bail, ensure};

use super::{
    GuestTest, calls, contention, control, disks, exec, hotplug, hybrid, intel_host, memory, mock,
    models, monitors, newest, payloads, perf, perf_storm, perf_test, rdpmc, snapshot, uncore,
    uncore_storm, zeros,
};

/// The kernels of hosts and of guests.
pub(super) const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Every guest test.
pub(super) fn all() -> Vec<GuestTest> {
    let mut all = endings();
    all.extend(memory::all());
    all.extend(perf::all());
    all.extend(perf_test::all());
    all.extend(perf_storm::all());
    all.extend(mock::all());
    all.extend(calls::all());
    all.extend(contention::all());
    all.extend(control::all());
    all.extend(monitors::all());
    all.extend(hybrid::all());
    all.extend(hotplug::all());
    all.extend(snapshot::all());
    all.extend(models::all());
    all.extend(rdpmc::all());
    all.extend(payloads::all());
    all.extend(uncore::all());
    all.extend(uncore_storm::all());
    all.extend(zeros::all());
    all.extend(disks::all());
    all.extend(exec::all());
    all.extend(intel_host::all());
    all.extend(newest::all());
    all
}

/// How a guest ends, and what perfvisor makes of it. Nearly every other row ends by a
/// power-off.
fn endings() -> Vec<GuestTest> {
    let row = |name: &str, line, check| GuestTest {
        vcpus: 2,
        ..GuestTest::new(format!("ending/{name}"), line, check)
    };
    vec![
        row("reboot", "echo going; reboot -f", |seen, _| {
            seen.shows("going")?;
            ensure!(seen.status == 0, "reboot gave status {}", seen.status);
            Ok(())
        }),
        row("long-line", LONG_LINE, |seen, _| {
            let (status, line) = (seen.status, seen.exit);
            ensure!(status == 0, "power-off gave status {status}");
            ensure!(line == Some(7), "the line's status is {line:?}, not 7");
            if seen.console.matches("0123456789").count() < 120 {
                bail!("the line arrived cut short");
            }
            Ok(())
        }),
    ]
}

/// More than the kernel command line can carry, with quotes.
const LONG_LINE: &str = concat!(
    "echo \"a  b\"; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo \"",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "\"; done; exit 7"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell would only find out in the guest, or in the host; a line that starts
    /// guests has theirs inside.
    #[test]
    fn lines_are_shell() {
        for test in all() {
            let mut lines = vec![crate::complaints::asked_after(&test.line)];
            let inside = test.line.split("perfvisor.run=\"").skip(1);
            lines.extend(inside.filter_map(|l| Some(l.split_once('"')?.0.to_owned())));
            for line in lines {
                let mut shell = std::process::Command::new("sh");
                let parsed = shell.args(["-n", "-c", &line]).output().unwrap();
                let error = String::from_utf8_lossy(&parsed.stderr);
                assert!(parsed.status.success(), "{}: {error}\n{line}", test.name);
            }
        }
    }

    /// The kernel command line of `perfvisor run` has 2047 bytes.
    #[test]
    fn lines_on_the_command_line_fit() {
        for test in all() {
            let Some((_, line)) = test.line.split_once("--cmdline '") else {
                continue;
            };
            let length = line.split('\'').next().unwrap_or_default().len();
            assert!(length < 1900, "{}: {length} bytes", test.name);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().into_iter().map(|t| t.name).collect();
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n);
    }
}
