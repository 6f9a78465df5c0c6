//! RDPMC in the guest's user mode: a program that monitors itself by perf's mmap page
//! reads what `read(2)` says, and one that may not dies as on hardware (guest-contract
//! §5.6, §5.7, G-506 to G-508).

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{GuestTest, Seen};
use crate::perf;

/// How the line with a program's status ends if SIGSEGV ended it.
const SEGV: &str = "=139";

/// Every test of RDPMC in user mode.
pub(super) fn all() -> Vec<GuestTest> {
    let mut rows = Vec::new();
    for host_kernel in KERNELS {
        rows.push(row(host_kernel, "6.1", "1-vcpu"));
        rows.push(row(host_kernel, "6.12", "1-vcpu").among_every_pair());
        // User mode has page tables of its own, with little of the kernel in them.
        rows.push(GuestTest {
            append: "pti=on",
            ..row(host_kernel, "6.12", "pti")
        });
        rows.push(GuestTest {
            vcpus: 4,
            ..row(host_kernel, "6.12", "4-vcpu")
        });
        rows.push(GuestTest {
            vmm: "--pmu type=software,model=amd-v2",
            ..row(host_kernel, "6.1", "amd-v2")
        });
    }
    rows
}

/// On a host 6.1, RDPMC gives 0 and says nothing, until the VMM has seen that a program
/// may read: after 10 ms of guest time, if the event counts already when it is mapped.
fn row(host_kernel: &'static str, guest_kernel: &'static str, name: &str) -> GuestTest {
    let settle = if host_kernel == "6.1" { "50" } else { "0" };
    let line = format!(
        "policy=/sys/bus/event_source/devices/cpu/rdpmc; \
         echo '=== alone'; selfmon fault; echo stranger=$?; selfmon enable 300; \
         selfmon open 300 {settle}; selfmon unmapped 10 {settle}; echo unmapped=$?; \
         echo '=== together'; \
         selfmon open 2000 {settle} & selfmon enable 2000 & selfmon enable 2000 & \
         selfmon fault; echo stranger=$?; selfmon fault; echo stranger=$?; wait; \
         echo '=== everybody'; echo 2 >$policy; selfmon fault; echo everybody=$?; \
         selfmon enable 100; \
         echo '=== pti'; dmesg | grep -o 'page tables isolation: enabled'; \
         echo '=== nobody'; echo 0 >$policy; selfmon enable 1; selfmon fault; echo nobody=$?"
    );
    GuestTest {
        host_kernel,
        guest_kernel,
        limit: 180,
        ..GuestTest::new(
            format!("rdpmc/user/host-{host_kernel}/guest-{guest_kernel}/{name}"),
            line,
            self_monitored,
        )
    }
}

fn self_monitored(seen: &Seen, test: &GuestTest) -> Result<()> {
    seen.succeeded()?;
    let section = |name| perf::section(&seen.console, name);
    for (name, programs) in [("alone", 3), ("together", 3), ("everybody", 1)] {
        exact(section(name)?, programs)?;
    }
    for (name, faults) in [("alone", 2), ("together", 2), ("nobody", 1)] {
        let text = section(name)?;
        ensure!(
            died(text) == faults,
            "{faults} programs were to fault in `{name}`: {text}"
        );
    }
    let everybody = section("everybody")?;
    ensure!(everybody.contains("everybody=0\n"), "{everybody}");
    let nobody = section("nobody")?;
    ensure!(nobody.contains("cap_user_rdpmc=0\n"), "{nobody}");
    if test.append == "pti=on" {
        let isolated = section("pti")?.contains("isolation: enabled");
        ensure!(isolated, "the guest has no page tables for user mode");
    }
    Ok(())
}

/// How many programs SIGSEGV ended, as the shell said.
fn died(text: &str) -> usize {
    text.lines().filter(|line| line.ends_with(SEGV)).count()
}

/// So many programs, each of whose values lay between the two `read(2)` around it.
fn exact(text: &str, programs: usize) -> Result<()> {
    let lines: Vec<_> = text.lines().filter(|l| l.starts_with("mode=")).collect();
    ensure!(lines.len() == programs, "{programs} were due: {text}");
    for line in lines {
        ensure!(number(line, "wrong")? == 0, "{line}");
        let absent = number(line, "absent")?;
        ensure!(absent * 10 <= number(line, "rounds")?, "{line}");
    }
    Ok(())
}

fn number(line: &str, name: &str) -> Result<u64> {
    let key = format!("{name}=");
    let word = line.split(' ').find_map(|word| word.strip_prefix(&key));
    word.with_context(|| format!("no {name}: {line}"))?
        .parse()
        .with_context(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::died;

    #[test]
    fn a_number_that_looks_like_a_status_is_no_death() {
        let text = "stranger=139\nmode=enable wrong=0 longest=1398381 count=1390\nunmapped=139\n";
        assert_eq!(died(text), 2);
    }
}
