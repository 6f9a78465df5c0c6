//! The uncore PMUs in the text of `perfvisor ctl pmu`.

use super::text::table;
use crate::pmu::{
    UncoreChange, UncoreCounterStatus, UncoreInstanceStatus, UncoreLogEntry, UncoreStatus,
};

/// The part of `perfvisor ctl pmu` that is about uncore PMUs.
pub(super) fn uncore(status: &UncoreStatus) -> String {
    let mut text = String::new();
    for pmu in &status.pmus {
        text.push_str(&format!("\n{}, one per {}\n", pmu.pmu, pmu.scope));
        for instance in &pmu.instances {
            text.push_str(&one_instance(instance));
        }
    }
    if !status.log.is_empty() {
        text.push_str("\nDesignated vCPUs and migrations, by the host's monotonic clock\n");
        text.extend(status.log.iter().map(log_line));
    }
    text
}

fn one_instance(instance: &UncoreInstanceStatus) -> String {
    let designated = match instance.designated {
        Some(vcpu) => format!("designated vCPU {vcpu}"),
        None => "none of its vCPUs is plugged in".to_owned(),
    };
    let mut text = format!("  {}: {designated}\n", instance.instance);
    if instance.counters.is_empty() {
        return text;
    }
    let head = [
        "counter",
        "state",
        "event",
        "host event",
        "vCPU",
        "enabled",
        "running",
        "count",
        "",
    ];
    let rows = instance.counters.iter().map(row);
    text.push_str(&table(std::iter::once(head.map(str::to_owned)).chain(rows)));
    text
}

fn row(counter: &UncoreCounterStatus) -> [String; 9] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        counter.counter.clone(),
        counter.state.name().replace('_', " "),
        or_dash(&counter.event),
        or_dash(&counter.host_event),
        or_dash(&counter.vcpu.map(|vcpu| vcpu.to_string())),
        format!("{} ns", counter.enabled_ns),
        format!("{} ns", counter.running_ns),
        format!("{} {}", counter.count, counter.unit),
        counter.why.clone().unwrap_or_default(),
    ]
}

fn log_line(entry: &UncoreLogEntry) -> String {
    let vcpu = |vcpu: Option<u16>| vcpu.map_or("none".to_owned(), |n| format!("vCPU {n}"));
    let (from, to) = (vcpu(entry.from), vcpu(entry.to));
    let what = match entry.change {
        UncoreChange::Designated => format!("designated is {to}, was {from}"),
        UncoreChange::Moved => format!("moved from {from} to {to}"),
        UncoreChange::Off => format!("off with {from}"),
        UncoreChange::Resumed => format!("counts again, on {to}"),
    };
    let counter = entry.counter.as_deref().map(|name| format!(" {name}"));
    let count = entry.count.map(|count| format!(", count {count}"));
    format!(
        "  {} ns: {} {}{}: {what}{}\n",
        entry.at_ns,
        entry.pmu,
        entry.instance,
        counter.unwrap_or_default(),
        count.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmu::{UncoreCounterState, UncorePmuStatus};

    #[test]
    fn instances_counters_and_the_log() {
        let counter = UncoreCounterStatus {
            counter: "energy-pkg".to_owned(),
            event: Some("power/energy-pkg/".to_owned()),
            state: UncoreCounterState::NoVcpu,
            why: Some("because".to_owned()),
            count: 7,
            unit: "uJ".to_owned(),
            ..UncoreCounterStatus::default()
        };
        let instance = |instance, designated, counters| UncoreInstanceStatus {
            instance,
            designated,
            counters,
        };
        let entry = |change, counter: Option<&str>, from, to| UncoreLogEntry {
            at_ns: 5,
            pmu: "power".to_owned(),
            instance: 1,
            change,
            counter: counter.map(str::to_owned),
            from,
            to,
            ..UncoreLogEntry::default()
        };
        let mut moved = entry(UncoreChange::Moved, Some("energy-pkg"), Some(2), Some(3));
        moved.count = Some(9);
        let text = uncore(&UncoreStatus {
            pmus: vec![UncorePmuStatus {
                pmu: "power".to_owned(),
                scope: "die".to_owned(),
                instances: vec![
                    instance(0, Some(0), vec![]),
                    instance(1, None, vec![counter]),
                ],
            }],
            log: vec![entry(UncoreChange::Designated, None, Some(2), None), moved],
        });
        assert_eq!(
            text,
            "\npower, one per die\n\
             \x20 0: designated vCPU 0\n\
             \x20 1: none of its vCPUs is plugged in\n\
             \x20 counter     state    event              host event  vCPU  enabled  running  count\n\
             \x20 energy-pkg  no vcpu  power/energy-pkg/  -           -     0 ns     0 ns     7 uJ   because\n\
             \nDesignated vCPUs and migrations, by the host's monotonic clock\n\
             \x20 5 ns: power 1: designated is none, was vCPU 2\n\
             \x20 5 ns: power 1 energy-pkg: moved from vCPU 2 to vCPU 3, count 9\n"
        );
    }
}
