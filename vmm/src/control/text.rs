//! The answers of the API as text, for `perfvisor ctl`.

use vpmu::Totals;

use super::report::{
    Info, Monitor, NewState, PmuReport, PowerState, StateReport, VcpuPlace, VcpuPmuReport, VcpuSlot,
};
use super::uncore_text::uncore;
use crate::config::MonitorPolicy;
use crate::machine::{MoveReport, MoveStage};
use crate::vcpu::{CounterStatus, MonitorReading, MonitorStatus, UncountedNames};

/// The column at which the values of `info` start.
const COLUMN: usize = 10;

/// `perfvisor ctl info`.
pub(super) fn info(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        text.push_str(&format!("{label:COLUMN$}{value}\n"));
    };
    line(
        "VMM",
        &format!("{} {}, process {}", info.name, info.version, info.pid),
    );
    line(
        "state",
        match info.state {
            PowerState::Running => "running",
            PowerState::Paused => "paused",
        },
    );
    if let Some(reason) = &info.paused_because {
        line("because", reason);
    }
    line(
        "uptime",
        &format!("{}.{:03} s", info.uptime_ms / 1000, info.uptime_ms % 1000),
    );
    let vcpus = match info.possible_vcpus {
        possible if possible == info.vcpus => possible.to_string(),
        possible => format!("{} of {possible}", info.vcpus),
    };
    line("vCPUs", &vcpus);
    line("memory", &format!("{} MiB", info.memory_bytes >> 20));
    line("kernel", &info.kernel.display().to_string());
    if info.console.lost_bytes > 0 {
        let lost = info.console.lost_bytes;
        line("console", &format!("{lost} bytes lost: nobody read them"));
    }
    match &info.pmu {
        None => line("PMU", "none"),
        Some(pmu) => {
            line("PMU", &pmu.backing);
            match &pmu.totals {
                Some(figures) => line("so far", &totals(figures)),
                None => line("so far", "not known: a vCPU did not answer"),
            }
            if !pmu.uncounted.is_empty() {
                line("uncounted", &uncounted(&pmu.uncounted));
            }
        }
    }
    text
}

/// `perfvisor ctl pmu`.
pub(super) fn pmu(report: &PmuReport) -> String {
    let Some(backing) = &report.backing else {
        return "the guest has no PMU".to_owned();
    };
    let mut text = format!("PMU: {backing}\n");
    for vcpu in &report.vcpus {
        text.push_str(&one_vcpu(vcpu));
    }
    text.extend(report.uncore.iter().map(uncore));
    text
}

fn one_vcpu(vcpu: &VcpuPmuReport) -> String {
    let head = [
        "counter",
        "state",
        "event",
        "host event",
        "enabled",
        "running",
        "value",
        "",
    ];
    let rows = vcpu.pmu.counters.iter().map(row);
    let rows = rows.chain(vcpu.pmu.monitors.iter().map(monitor_row));
    let uncounted = match &vcpu.pmu.uncounted {
        none if none.is_empty() => String::new(),
        some => format!("  nothing counts {}\n", uncounted(some)),
    };
    format!(
        "\nvCPU {}: {}\n{uncounted}{}",
        vcpu.vcpu,
        totals(&vcpu.pmu.totals),
        table(std::iter::once(head.map(str::to_owned)).chain(rows))
    )
}

/// Rows with aligned columns.
pub(super) fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<_> = rows.collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!(" {cell:width$} "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(counter: &CounterStatus) -> [String; 8] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let share;
    let mut notes: Vec<&str> = Vec::new();
    if counter.clock_derived {
        notes.push("clock-derived");
    }
    if counter.sampled {
        notes.push("levels sampled");
    }
    if counter.estimated {
        notes.push("estimated");
    } else if counter.scaled {
        let percent = u128::from(counter.running_ns) * 100 / u128::from(counter.enabled_ns.max(1));
        share = format!("{percent} % of it counted, scaled");
        notes.push(&share);
    }
    notes.extend(counter.why.as_deref());
    [
        counter.counter.clone(),
        counter.state.name().replace('_', " "),
        or_dash(&counter.event),
        or_dash(&counter.host_event),
        format!("{} ns", counter.enabled_ns),
        format!("{} ns", counter.running_ns),
        counter.value.to_string(),
        notes.join("; "),
    ]
}

/// A monitor among the counters of its vCPU.
fn monitor_row(monitor: &MonitorStatus) -> [String; 8] {
    let reading = &monitor.reading;
    let mut notes = quality(reading);
    if monitor.policy == MonitorPolicy::Pinned {
        notes.push("pinned");
    }
    [
        format!("monitor{}", monitor.monitor),
        reading.state.name().replace('_', " "),
        "-".to_owned(),
        monitor.event.clone(),
        format!("{} ns", reading.enabled_ns),
        format!("{} ns", reading.running_ns),
        reading.count.to_string(),
        notes.join("; "),
    ]
}

/// Notes on a monitor's count that was not counted by hardware.
fn quality(reading: &MonitorReading) -> Vec<&'static str> {
    let notes = [
        (reading.clock_derived, "clock-derived"),
        (reading.sampled, "levels sampled"),
    ];
    let notes = notes.into_iter().filter(|(is_so, _)| *is_so);
    notes.map(|(_, note)| note).collect()
}

/// `perfvisor ctl monitor`.
pub(super) fn monitors(monitors: &[Monitor]) -> String {
    let mut text = String::new();
    for monitor in monitors {
        text.push_str(&one_monitor(monitor));
    }
    text
}

fn one_monitor(monitor: &Monitor) -> String {
    let policy = match monitor.policy {
        MonitorPolicy::Flexible => "flexible",
        MonitorPolicy::Pinned => "pinned",
    };
    let whose = match monitor.vcpu {
        None => "all vCPUs".to_owned(),
        Some(vcpu) => format!("vCPU {vcpu}"),
    };
    let mut rows =
        vec![["vCPU", "state", "enabled", "running", "count", "scaled", ""].map(str::to_owned)];
    rows.extend(monitor.counts.iter().map(|count| {
        let reading = &count.reading;
        [
            count.vcpu.to_string(),
            reading.state.name().to_owned(),
            format!("{} ns", reading.enabled_ns),
            format!("{} ns", reading.running_ns),
            reading.count.to_string(),
            reading.scaled_count.to_string(),
            quality(reading).join("; "),
        ]
    }));
    let (number, event) = (monitor.monitor, &monitor.event);
    format!(
        "monitor {number}: {event}, {policy}, {whose}\n{}",
        table(rows.into_iter())
    )
}

/// The figures that are not zero; the others are in the JSON.
fn totals(totals: &Totals) -> String {
    let figures: Vec<_> = named(totals)
        .into_iter()
        .filter(|&(_, figure)| figure > 0)
        .map(|(name, figure)| format!("{figure} {name}"))
        .collect();
    if figures.is_empty() {
        "no overflows, nothing lost".to_owned()
    } else {
        figures.join(", ")
    }
}

/// The events that nobody counts, and how many times the guest wanted each.
fn uncounted(events: &UncountedNames) -> String {
    let times = |(event, times): (&String, &u64)| format!("{event} ({times} times)");
    let all: Vec<_> = events.iter().map(times).collect();
    all.join(", ")
}

/// Every figure with its name.
const fn named(totals: &Totals) -> [(&'static str, u64); 12] {
    // Whole, so that a new total is not forgotten.
    let Totals {
        overflows,
        skid,
        longest_skid,
        pmis_injected,
        pmis_suppressed,
        not_counted,
        starved,
        estimated,
        scaled_reads,
        pinned_errors,
        rotations,
        host_revocations,
    } = *totals;
    [
        ("overflows", overflows),
        ("events of skid", skid),
        ("events of skid at most for one overflow", longest_skid),
        ("PMIs injected", pmis_injected),
        ("PMIs suppressed", pmis_suppressed),
        ("not counted", not_counted),
        ("starved", starved),
        ("estimated", estimated),
        ("scaled reads", scaled_reads),
        ("pinned errors", pinned_errors),
        ("rotations", rotations),
        ("host revocations", host_revocations),
    ]
}

/// `perfvisor ctl vcpu`.
pub(super) fn vcpu(slot: &VcpuSlot) -> String {
    let state = match slot.state {
        VcpuPlace::Absent => "not plugged in",
        VcpuPlace::Inserting => "offered to the guest",
        VcpuPlace::Present => "plugged in",
        VcpuPlace::Removing => "asked back from the guest",
        VcpuPlace::Ejecting => "given back by the guest; its thread has not ended yet",
    };
    format!("vCPU {}: {state}\n", slot.vcpu)
}

/// `perfvisor ctl pause`, `resume`, `shutdown`.
pub(super) fn state(report: &StateReport) -> String {
    match report.state {
        NewState::Running => "running",
        NewState::Paused => "paused",
        NewState::ShutdownRequested => {
            "the guest was asked to power off; if it does not, end the VM with \
             perfvisor ctl shutdown --force"
        }
        NewState::Ending => "the VM ends",
    }
    .to_owned()
}

/// A line of `perfvisor ctl migrate`.
pub(super) fn migration(report: &MoveReport) -> String {
    let MoveReport {
        round,
        round_pages,
        pages,
        ..
    } = report;
    let kib = report.bytes >> 10;
    let ms = report.elapsed_ms;
    let so_far = format!("{pages} pages, {kib} KiB, {round} rounds, {ms} ms");
    match report.stage {
        MoveStage::None => "the VM has not been moved".to_owned(),
        MoveStage::Connecting => "waiting for the destination".to_owned(),
        MoveStage::Copying => format!("round {round}: {round_pages} pages"),
        MoveStage::Finishing => format!("round {round}: {round_pages} pages, the guest stands"),
        MoveStage::Moved => {
            let downtime = report.downtime_ms.unwrap_or_default();
            format!("moved: the guest stood for {downtime} ms; {so_far}")
        }
        MoveStage::Failed => {
            let why = report.failure.as_deref().unwrap_or_default();
            format!("the VM was not moved and goes on here: {why}")
        }
        MoveStage::Cancelled => format!("cancelled: the VM goes on here; {so_far}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::MonitorCount;
    use super::*;
    use crate::vcpu::{CountingState, VcpuPmuStatus};

    #[test]
    fn no_total_is_left_out() {
        let totals = Totals {
            overflows: 1,
            skid: 2,
            longest_skid: 3,
            pmis_injected: 4,
            pmis_suppressed: 5,
            not_counted: 6,
            starved: 7,
            estimated: 8,
            scaled_reads: 9,
            pinned_errors: 10,
            rotations: 11,
            host_revocations: 12,
        };
        let mut twice = totals;
        twice += totals;
        let figures: Vec<_> = named(&twice).into_iter().map(|(_, n)| n).collect();
        // The longest is no sum.
        assert_eq!(figures, [2, 4, 3, 8, 10, 12, 14, 16, 18, 20, 22, 24]);
        // The keys of the API.
        assert_eq!(
            serde_json::to_string(&totals).unwrap(),
            "{\"overflows\":1,\"skid\":2,\"longest_skid\":3,\"pmis_injected\":4,\
             \"pmis_suppressed\":5,\"not_counted\":6,\"starved\":7,\"estimated\":8,\"scaled_reads\":9,\
             \"pinned_errors\":10,\"rotations\":11,\"host_revocations\":12}"
        );
    }

    #[test]
    fn every_counter_is_one_aligned_line() {
        let counters = vec![
            CounterStatus {
                counter: "gp0".to_owned(),
                event: Some("cycles:u".to_owned()),
                host_event: Some("guest time".to_owned()),
                state: CountingState::Counting,
                value: 12,
                clock_derived: true,
                ..CounterStatus::default()
            },
            CounterStatus {
                counter: "fixed1".to_owned(),
                event: Some("raw event select 0x1".to_owned()),
                state: CountingState::NotBacked,
                why: Some("because".to_owned()),
                enabled_ns: 1_234_567,
                ..CounterStatus::default()
            },
        ];
        let text = pmu(&PmuReport {
            backing: Some("clock".to_owned()),
            vcpus: vec![VcpuPmuReport {
                vcpu: 3,
                pmu: VcpuPmuStatus {
                    counters,
                    monitors: vec![MonitorStatus {
                        monitor: 1,
                        event: "cycles".to_owned(),
                        policy: MonitorPolicy::Pinned,
                        reading: MonitorReading {
                            state: CountingState::Error,
                            count: 99,
                            ..MonitorReading::default()
                        },
                    }],
                    totals: Totals {
                        overflows: 5,
                        rotations: 2,
                        ..Totals::default()
                    },
                    uncounted: [("r1".to_owned(), 2)].into(),
                },
            }],
            uncore: None,
        });
        assert_eq!(
            text,
            "PMU: clock\n\n\
             vCPU 3: 5 overflows, 2 rotations\n\
             \x20 nothing counts r1 (2 times)\n\
             \x20 counter   state       event                 host event  enabled     running  value\n\
             \x20 gp0       counting    cycles:u              guest time  0 ns        0 ns     12     clock-derived\n\
             \x20 fixed1    not backed  raw event select 0x1  -           1234567 ns  0 ns     0      because\n\
             \x20 monitor1  error       -                     cycles      0 ns        0 ns     99     pinned\n"
        );
    }

    #[test]
    fn a_count_that_is_no_whole_one_says_how_much_of_it_is() {
        let counter = |running_ns, estimated| CounterStatus {
            enabled_ns: 3_000,
            running_ns,
            scaled: true,
            estimated,
            ..CounterStatus::default()
        };
        let note = |counter| row(&counter)[7].clone();
        assert_eq!(note(counter(1_000, false)), "33 % of it counted, scaled");
        assert_eq!(note(counter(0, true)), "estimated");
        assert_eq!(note(counter(0, false)), "0 % of it counted, scaled");
    }

    #[test]
    fn a_monitor_has_a_line_for_each_vcpu() {
        let count = MonitorCount {
            vcpu: 2,
            reading: MonitorReading {
                state: CountingState::Waiting,
                count: 10,
                scaled_count: 40,
                enabled_ns: 4,
                running_ns: 1,
                ..MonitorReading::default()
            },
        };
        let text = monitors(&[Monitor {
            monitor: 3,
            event: "instructions:u".to_owned(),
            vcpu: Some(2),
            counts: vec![count],
            ..Monitor::default()
        }]);
        assert_eq!(
            text,
            "monitor 3: instructions:u, flexible, vCPU 2\n\
             \x20 vCPU  state    enabled  running  count  scaled\n\
             \x20 2     waiting  4 ns     1 ns     10     40\n"
        );
    }
}
