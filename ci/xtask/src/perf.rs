//! perf in a guest: the line that the demo and the guest tests run, and what its
//! output must show.

use anyhow::{Context, Result, bail, ensure};

/// Stat. Every event that the tool calls "hardware" is in the list, so that those
/// without a backing show up as such.
const STAT: &str = "\
dd=\"dd if=/dev/zero of=/dev/null bs=1M count=${count:-1000}\"
echo '=== perf stat'
perf stat -e cycles,ref-cycles,instructions,branches,branch-misses \\
    -e cache-references,cache-misses,bus-cycles,task-clock,page-faults,context-switches \\
    $dd 2>&1 || exit
";

/// Record, report, and the interrupts behind them.
const RECORD: &str = "\
dd=\"dd if=/dev/zero of=/dev/null bs=1M count=${count:-1000}\"
echo '=== perf record'
perf record -e cycles $rate -o /tmp/perf.data $dd 2>&1 || exit
echo '=== perf report'
perf report -i /tmp/perf.data --stdio --stdio-color never --percent-limit 0.5 2>&1 || exit
echo '=== interrupts'
grep -E 'CPU0|NMI|PMI' /proc/interrupts
";

/// Set before the line in the nested host: a PMI costs the guest half a millisecond of
/// wall time there, and five on a machine that gives the host a tenth of a CPU, so that the
/// default of 4,000 a second cannot be had.
///
/// Counting instructions would make it cheap, but QEMU 7.2 then delivers an interrupt
/// to a nested guest twice if one of the host's timers expires before the guest's
/// handler has left the guest: the injection leaves its vector in the CPU's exception
/// index, and the end of the instruction budget takes it for an exception. The guest
/// then waits for a lock that it holds. Timers that expire all the time, as those of a
/// sampled counter do, hit that within seconds.
///
/// Of the guests' kernels 6.1 takes some five times as long to clear a page in an
/// emulation: its loop has a few instructions for each eight bytes.
pub(crate) const SLOW_HOST: &str =
    "rate='-F 100' count=2000; case $(uname -r) in 6.1.*) count=500; esac\n";

/// The line for a nested host or for a machine of our own.
pub(crate) fn line(nested: bool) -> String {
    line_with(if nested { SLOW_HOST } else { "" })
}

/// The line after these settings of `rate` and `count`.
pub(crate) fn line_with(settings: &str) -> String {
    format!("{settings}{STAT}{RECORD}")
}

/// The part of the line that samples, for a nested host.
pub(crate) fn sampling_line() -> String {
    format!("{SLOW_HOST}{RECORD}")
}

/// The key of the number of PMIs in perfvisor's last line.
const INJECTED: &str = "pmis_injected=";
/// The functions that clear user memory, in the kernels' various builds.
const HOT: [&str; 2] = ["clear_user", "rep_stos"];

/// The part of the console after a headline of the demo.
pub(crate) fn section<'a>(console: &'a str, name: &str) -> Result<&'a str> {
    let head = format!("=== {name}\n");
    let (_, after) = console
        .split_once(&head)
        .with_context(|| format!("the guest did not come to `{name}`"))?;
    if after.starts_with("=== ") {
        return Ok("");
    }
    Ok(after.split("\n=== ").next().unwrap_or(after))
}

/// The line of an event in `perf stat`: the words before and with its name.
fn event<'a>(stat: &'a str, name: &str) -> Result<&'a str> {
    let of_event = |line: &&str| {
        let before = line.split('#').next().unwrap_or_default();
        before
            .split_whitespace()
            .any(|word| word.split(':').next() == Some(name))
    };
    let counted = |line: &&str| !line.trim_start().starts_with("Performance counter stats");
    let line = stat.lines().filter(counted).find(of_event);
    line.with_context(|| format!("perf stat shows no `{name}`"))
}

/// `perf stat` has a count of cycles.
pub(crate) fn cycles(console: &str) -> Result<()> {
    let line = event(section(console, "perf stat")?, "cycles")?;
    let number = line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .replace(',', "");
    match number.parse::<u64>() {
        Ok(1..) => Ok(()),
        _ => bail!("not a count of cycles: {}", line.trim()),
    }
}

/// What `perf stat -x,` has counted of an event, each time.
pub(crate) fn counts(console: &str, event: &str) -> Vec<f64> {
    let of_event = format!(",,{event},");
    console
        .lines()
        .filter(|line| line.contains(&of_event))
        .filter_map(|line| line.split(',').next()?.trim().parse().ok())
        .collect()
}

/// Three loops of 10^9 instructions and one of twice as many were counted as that.
pub(crate) fn accurate(console: &str, event: &str) -> Result<()> {
    /// Instructions of the shorter loop.
    const LOOP: f64 = 1e9;
    let counts = counts(console, event);
    let [first, second, third, double] = counts[..] else {
        bail!("four counts were due, {counts:?} came");
    };
    let runs = [first, second, third];
    for count in runs {
        let off = (count - LOOP).abs() / LOOP;
        ensure!(off < 0.01, "{count} is {:.2} % off", off * 100.0);
    }
    let spread = runs.iter().copied().fold(f64::MIN, f64::max)
        - runs.iter().copied().fold(f64::MAX, f64::min);
    ensure!(spread / LOOP < 0.002, "{runs:?} are {spread} apart");
    let difference = double - runs.iter().sum::<f64>() / 3.0;
    let off = (difference - LOOP).abs() / LOOP;
    ensure!(
        off < 0.005,
        "the difference {difference} is {:.2} % off",
        off * 100.0
    );
    Ok(())
}

/// `perf stat` says that it cannot count instructions.
pub(crate) fn unsupported(console: &str) -> Result<()> {
    let line = event(section(console, "perf stat")?, "instructions")?;
    ensure!(
        line.contains("<not supported>"),
        "shown instead: {}",
        line.trim()
    );
    Ok(())
}

/// perf's hardware events in the line of `perf stat`.
pub(crate) const HARDWARE_EVENTS: usize = 8;

/// How many events `perf stat` calls `<not supported>`.
pub(crate) fn not_supported(console: &str) -> usize {
    let stat = section(console, "perf stat").unwrap_or_default();
    let missing = |line: &&str| line.contains("<not supported>");
    stat.lines().filter(missing).count()
}

/// `perf stat` has counted every event.
pub(crate) fn all_supported(console: &str) -> Result<()> {
    let stat = section(console, "perf stat")?;
    for line in stat.lines().map(str::trim) {
        ensure!(!line.starts_with("<not "), "shown: {line}");
    }
    // Of the list, the last of the hardware events.
    event(stat, "bus-cycles").map(|_| ())
}

/// Whether perfvisor says that a clock backs the guest's counters.
pub(crate) fn is_clock_backed(vmm: &str) -> bool {
    vmm.contains("backing=clock")
}

/// One of the first `among` symbols of `perf report` is the one that clears memory.
pub(crate) fn hot_symbol(console: &str, among: usize) -> Result<()> {
    let report = section(console, "perf report")?;
    let is_entry = |l: &&str| {
        l.split_whitespace()
            .next()
            .is_some_and(|w| w.ends_with('%'))
    };
    let top: Vec<_> = report.lines().filter(is_entry).take(among).collect();
    ensure!(!top.is_empty(), "perf report has no entry");
    ensure!(
        top.iter()
            .any(|entry| HOT.iter().any(|hot| entry.contains(hot))),
        "the top is {}",
        top.join("; ")
    );
    Ok(())
}

/// The sum over the CPUs of a line of `/proc/interrupts`.
fn interrupts_of(console: &str, name: &str) -> Result<u64> {
    let text = section(console, "interrupts")?;
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(':'));
    let line = line.with_context(|| format!("no line `{name}:` in /proc/interrupts"))?;
    Ok(line
        .split_whitespace()
        .map_while(|word| word.parse::<u64>().ok())
        .sum())
}

/// How many PMIs perfvisor says it has injected.
fn injected(vmm: &str) -> Result<u64> {
    let (_, after) = vmm
        .rsplit_once(INJECTED)
        .with_context(|| format!("perfvisor's last line has no `{INJECTED}`"))?;
    let digits = after
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits
        .parse()
        .with_context(|| format!("`{INJECTED}` has no number"))
}

/// Each injected PMI has arrived, as one NMI, and no other.
pub(crate) fn interrupts(console: &str, vmm: &str) -> Result<()> {
    with_late_ones(console, vmm, |_, late| late == 0)
}

/// The same of an AMD guest. Its PMU has no status register: an NMI that comes right
/// behind the write that stopped its counter finds nothing to handle, and Linux claims
/// it for having handled one a moment before, but does not count it as a PMI.
pub(crate) fn interrupts_of_amd(console: &str, vmm: &str) -> Result<()> {
    with_late_ones(console, vmm, |nmi, late| late * 20 <= nmi)
}

fn with_late_ones(console: &str, vmm: &str, may: fn(u64, u64) -> bool) -> Result<()> {
    let (nmi, pmi) = (
        interrupts_of(console, "NMI")?,
        interrupts_of(console, "PMI")?,
    );
    let injected = injected(vmm)?;
    ensure!(pmi > 0, "the guest saw no PMI");
    ensure!(
        nmi == injected && pmi <= nmi && may(nmi, nmi - pmi),
        "the guest counted {nmi} NMIs and {pmi} PMIs, perfvisor injected {injected}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
=== perf stat
1000+0 records in

 Performance counter stats for 'dd cycles':

     1,234,567,890      cycles                           #    0.998 GHz
     1,200,000,000      ref-cycles
   <not supported>      instructions
            119.71 msec task-clock                       #    0.946 CPUs utilized

=== perf record
[ perf record: Captured and wrote 0.085 MB /tmp/p (2196 samples) ]
=== perf report
# Overhead  Command  Shared Object      Symbol
    96.54%  dd       [kernel.kallsyms]  [k] clear_user_erms
     1.46%  dd       [kernel.kallsyms]  [k] read_zero
=== interrupts
           CPU0       CPU1
NMI:       2000        100   Non-maskable interrupts
PMI:       2000        100   Performance monitoring interrupts
=== end
";

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let console = "=== a\n=== b\n1\n2\n=== end\nx";
        assert_eq!(section(console, "a").unwrap(), "");
        assert_eq!(section(console, "b").unwrap(), "1\n2");
        assert!(section(console, "c").is_err());
    }

    #[test]
    fn a_good_run_passes() {
        cycles(CONSOLE).unwrap();
        unsupported(CONSOLE).unwrap();
        hot_symbol(CONSOLE, 1).unwrap();
        interrupts(CONSOLE, "perfvisor: pmu: a=1 pmis_injected=2100, x=3\n").unwrap();
    }

    #[test]
    fn counts_are_held_against_the_loop() {
        let lines = |counts: [u64; 4]| counts.map(|n| format!("{n},,cycles,9,100.00,,\n")).concat();
        let good = [1_002_000_000, 1_001_000_000, 1_001_000_000, 2_003_000_000];
        accurate(&lines(good), "cycles").unwrap();
        assert!(accurate(&lines(good), "instructions").is_err());
        for (n, bad) in [(0, 1_011_000_000), (1, 1_004_000_000), (3, 2_010_000_000)] {
            let mut counts = good;
            counts[n] = bad;
            assert!(accurate(&lines(counts), "cycles").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_run_is_told() {
        assert!(cycles("").is_err());
        let none = CONSOLE.replace("1,234,567,890      cycles", "<not counted>      cycles");
        assert!(
            cycles(&none)
                .unwrap_err()
                .to_string()
                .contains("<not counted>")
        );
        assert!(unsupported(&CONSOLE.replace("<not supported>", "12")).is_err());
        assert!(hot_symbol(&CONSOLE.replace("clear_user_erms", "other"), 1).is_err());
        assert!(interrupts(CONSOLE, "pmis_injected=2099").is_err());
        let late = |n: u32| CONSOLE.replace("PMI:       2000", &format!("PMI:       {n}"));
        assert!(interrupts(&late(1999), "pmis_injected=2100").is_err());
        interrupts_of_amd(&late(1999), "pmis_injected=2100").unwrap();
        assert!(interrupts_of_amd(&late(1990), "pmis_injected=2101").is_err());
        assert!(interrupts_of_amd(&late(1800), "pmis_injected=2100").is_err());
        assert!(interrupts_of_amd(&late(2001), "pmis_injected=2100").is_err());
        assert!(interrupts(CONSOLE, "").is_err());
    }
}
