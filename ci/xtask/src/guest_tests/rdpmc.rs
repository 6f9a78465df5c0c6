//! RDPMC in the guest's user mode: a program that monitors itself by perf's mmap page
//! reads what `read(2)` says, and one that may not dies as on hardware (guest-contract
//! §5.6, §5.7, G-506 to G-508). And in its kernel, while that has probes on the reader, or
//! code of a program's making that looks like one.

use anyhow::{Context, Result, ensure};

use super::table::KERNELS;
use super::{Clock, GuestTest, Seen};
use crate::perf;

/// How the line with a program's status ends if SIGSEGV ended it.
const SEGV: &str = "=139";

/// Every test of RDPMC.
pub(super) fn all() -> Vec<GuestTest> {
    // On a host 6.1 the reader is rewritten, on 6.12 the doorbell serves it.
    let mut rows = vec![
        probed("6.1", "6.12"),
        probed("6.12", "6.1").among_every_pair(),
        // A host 6.1 has text scanned, and 6.12 what faults rewritten.
        filtered("6.1", "6.12"),
        filtered("6.12", "6.1").among_every_pair(),
    ];
    for host_kernel in KERNELS {
        // The row of the AMD model has the same kernels.
        rows.push(row(host_kernel, "6.1", "1-vcpu").among_every_pair());
        rows.push(row(host_kernel, "6.12", "1-vcpu").among_every_pair());
    }
    rows.extend([
        with_pti("6.12"),
        with_four("6.12"),
        on_amd("6.1"),
        with_pti("6.1").among_every_pair(),
        with_four("6.1").among_every_pair(),
        on_amd("6.12").among_every_pair(),
    ]);
    rows
}

/// User mode has page tables of its own, with little of the kernel in them.
fn with_pti(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        append: "pti=on",
        ..row(host_kernel, "6.12", "pti")
    }
}

fn with_four(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        vcpus: 4,
        ..row(host_kernel, "6.12", "4-vcpu")
    }
}

fn on_amd(host_kernel: &'static str) -> GuestTest {
    GuestTest {
        vmm: "--pmu type=software,model=amd-v2",
        ..row(host_kernel, "6.1", "amd-v2")
    }
}

/// On a host 6.1, RDPMC gives 0 and says nothing, until the VMM has seen that a program
/// may read: after 10 ms of guest time, if the event counts already when it is mapped.
pub(super) fn row(host_kernel: &'static str, guest_kernel: &'static str, name: &str) -> GuestTest {
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

/// kprobes on every instruction of the function that calls the kernel's reader, one that the
/// kernel lets nobody probe; then ftrace, which patches that function's start. perf counts
/// the same loop before, meanwhile and after.
fn probed(host_kernel: &'static str, guest_kernel: &'static str) -> GuestTest {
    const LINE: &str = "cd /sys/kernel/tracing; f=x86_perf_event_update; \
         count() { perf stat -x, -e cycles spin 200000000 2>&1; }; count; \
         n=0; while [ $n -lt 300 ]; do echo p:p_$n $f+$n >>kprobe_events; n=$((n + 1)); done 2>/dev/null; \
         echo 1 >events/kprobes/enable; count; \
         echo probes=$(wc -l <kprobe_events); echo hits=$(awk '{ n += $2 } END { print n + 0 }' kprobe_profile); \
         echo 0 >events/kprobes/enable; echo >kprobe_events; \
         echo $f >set_ftrace_filter; echo function >current_tracer; count; \
         echo traced=$(grep -c $f trace); echo nop >current_tracer; count";
    GuestTest {
        host_kernel,
        guest_kernel,
        clock: Clock::InstructionsIfNested,
        ..GuestTest::new(
            format!("rdpmc/probed/host-{host_kernel}/guest-{guest_kernel}"),
            LINE,
            counted_the_same,
        )
    }
}

fn counted_the_same(seen: &Seen, _: &GuestTest) -> Result<()> {
    /// The probes run inside of what is counted.
    const OFF: f64 = 0.05;
    seen.succeeded()?;
    ensure!(seen.number("probes=")? > 20, "few places can be probed");
    for hits in ["hits=", "traced="] {
        ensure!(seen.number(hits)? > 0, "{hits}0");
    }
    let counts = perf::counts(&seen.console, "cycles");
    ensure!(counts.len() == 4, "four counts were due: {counts:?}");
    for count in &counts {
        let off = (count / counts[0] - 1.0).abs();
        ensure!(off < OFF, "{count} of {counts:?}");
    }
    Ok(())
}

/// Packet filters that the guest's kernel has compiled, whose constants look like its
/// reader, stay as they are while counters are used (G-502).
fn filtered(host_kernel: &'static str, guest_kernel: &'static str) -> GuestTest {
    const LINE: &str = "cd /proc/sys/net/core; echo jit=$(cat bpf_jit_enable) harden=$(cat bpf_jit_harden); \
         perf stat -x, -e cycles spin 100000000 2>&1; \
         filters 200 sh -c 'perf stat -a -x, -e cycles spin 100000000 2>&1; perf record -F 100 -e cycles -o /tmp/data spin 200000000 2>&1'";
    GuestTest {
        host_kernel,
        guest_kernel,
        ..GuestTest::new(
            format!("rdpmc/filters/host-{host_kernel}/guest-{guest_kernel}"),
            LINE,
            |seen, _| {
                seen.succeeded()?;
                for text in [
                    "jit=1 harden=0",
                    "changed=0",
                    "before=200",
                    "command=0",
                    "after=200",
                ] {
                    seen.says(text)?;
                }
                let counts = perf::counts(&seen.console, "cycles");
                ensure!(counts.len() == 2, "two counts were due: {counts:?}");
                ensure!(counts.iter().all(|&count| count > 0.0), "{counts:?}");
                Ok(())
            },
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
pub(super) fn died(text: &str) -> usize {
    text.lines().filter(|line| line.ends_with(SEGV)).count()
}

/// So many programs, each of whose values lay between the two `read(2)` around it.
pub(super) fn exact(text: &str, programs: usize) -> Result<()> {
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
