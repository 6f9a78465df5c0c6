//! The sections on the host: its CPU, its PMUs, and the permissions of this user.

use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::HostCpu;

use super::super::report::{
    CountersReport, Finding, HostPmuReport, PermissionReport, Report, UncoreReport,
};
use super::page::{TextPage, not_known, say, yes};

/// The host's CPU and PMUs.
pub(super) fn host(page: &mut TextPage, report: &Report) {
    page.section("Host");
    let cpu = say(&report.cpu, |cpu| {
        format!("{}, {} ({})", cpu.vendor, cpu.model, cpu.signature)
    });
    page.line("CPU", &cpu);
    pmus(page, report);
    uncore(page, &report.uncore);
}

fn pmus(page: &mut TextPage, report: &Report) {
    match &report.pmus {
        Finding::Value(pmus) => {
            let mut label = "PMUs";
            for pmu in pmus {
                page.line(label, &pmu_words(pmu));
                label = "";
            }
            if pmus.is_empty() {
                page.line(label, "none");
            }
        }
        Finding::Unknown { unknown } => page.line("PMUs", &not_known(unknown)),
    }
    for counters in &report.counters {
        let free = say(&counters.free, |free| counters_words(*free, counters));
        page.line(&format!("counters of {}", counters.pmu), &free);
    }
    if report.counters.is_empty() {
        page.line("counters", "none: no core PMU");
    }
}

fn uncore(page: &mut TextPage, options: &[UncoreReport]) {
    for option in options {
        page.line(
            &format!("--uncore {}", option.option),
            &uncore_words(option),
        );
    }
}

fn uncore_words(option: &UncoreReport) -> String {
    match &option.instances {
        Finding::Value(count) => {
            let domains = match option.domains.as_slice() {
                [] => String::new(),
                domains => format!(", {}", domains.join(" ")),
            };
            format!(
                "possible: {count} on the host{domains}; for guests with {}",
                option.guests
            )
        }
        Finding::Unknown { unknown } => format!("not possible: {unknown}"),
    }
}

fn pmu_words(pmu: &HostPmuReport) -> String {
    let cpus = match (&pmu.cpus, &pmu.cpumask) {
        (Some(cpus), _) => format!("CPUs {}", set(cpus)),
        (None, Some(cpus)) => match pmu.scope {
            Some(scope) => format!("one for each {scope}, read on CPUs {}", set(cpus)),
            None => format!("shared, read on CPUs {}", set(cpus)),
        },
        (None, None) => "all CPUs".to_owned(),
    };
    format!("{} (type {}, {cpus})", pmu.name, pmu.r#type)
}

fn counters_words(free: usize, counters: &CountersReport) -> String {
    let mut words = format!("{free} for instructions");
    if !counters.events.is_empty() && counters.events.iter().all(|other| other.free == free) {
        words = format!("{free} for any event");
    } else {
        for other in &counters.events {
            words.push_str(&format!(", {} for {}", other.free, other.event));
        }
    }
    words.push_str(" (pinned guest events at the same time); addressed by type: ");
    words.push_str(&say(&counters.extended_type, |is| yes(*is).to_owned()));
    words
}

fn set(cpus: &[u32]) -> CpuSet {
    cpus.iter().copied().map(HostCpu).collect()
}

/// The permissions of this user to count events.
pub(super) fn permission(page: &mut TextPage, permission: &PermissionReport) {
    page.section("Permission");
    let paranoid = say(&permission.perf_event_paranoid, i32::to_string);
    page.line("perf_event_paranoid", &paranoid);
    page.line("effective user id", &say(&permission.euid, u32::to_string));
    let capability = |found| say(found, |is: &bool| yes(*is).to_owned());
    page.line("CAP_PERFMON", &capability(&permission.cap_perfmon));
    page.line("CAP_SYS_ADMIN", &capability(&permission.cap_sys_admin));
    let event = &permission.software_event;
    page.line(
        "software event",
        &format!("{} ({})", yes(event.possible), event.reason),
    );
    let pending = say(&permission.pending_signals, |signals| {
        format!(
            "{} of {} taken (a vCPU with a PMU takes one)",
            signals.used, signals.limit
        )
    });
    page.line("pending signals", &pending);
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::report;
    use super::*;

    #[test]
    fn counters_that_count_anything_are_one_number() {
        let mut counters = report().counters[0].clone();
        counters.events[0].free = 5;
        let words = counters_words(5, &counters);
        assert!(words.starts_with("5 for any event (pinned"), "{words}");
    }

    #[test]
    fn a_pmu_says_where_it_counts() {
        let mut pmu = report().pmus.value().unwrap()[0].clone();
        pmu.cpus = Some(vec![0, 1, 2, 3, 8]);
        assert_eq!(pmu_words(&pmu), "cpu (type 4, CPUs 0-3,8)");
        (pmu.cpus, pmu.cpumask) = (None, Some(vec![0]));
        assert_eq!(pmu_words(&pmu), "cpu (type 4, shared, read on CPUs 0)");
        pmu.scope = Some("die");
        assert_eq!(
            pmu_words(&pmu),
            "cpu (type 4, one for each die, read on CPUs 0)"
        );
    }
}
