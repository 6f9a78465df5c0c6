//! The report in three lines: what works, what does not work, what to change.

use super::super::report::{EventReport, KvmKindName, Report};
use super::page::TextPage;

/// Adds the three lines; `details` says where all of the advice stands.
pub(super) fn summary(page: &mut TextPage, report: &Report, details: &str) {
    let or = |list: Vec<String>, none: &str| match list.as_slice() {
        [] => none.to_owned(),
        list => list.join("; "),
    };
    page.text(&format!("Works: {}", or(works(report), "nothing")));
    let missing = or(missing(report), "everything that was tried works");
    page.text(&format!("Does not work: {missing}"));
    page.text(&format!("To change: {}", change(&report.advice, details)));
}

fn works(report: &Report) -> Vec<String> {
    let mut list = Vec::new();
    if report.kvm.linux_guest.possible {
        list.push("Linux guests".to_owned());
    } else if runs_programs(report) {
        list.push("bare-metal ELF programs of at most 1 MiB".to_owned());
    }
    if has_pmu(report) {
        list.extend(counted(&report.backing.events));
    }
    let uncore = options(report, true);
    if has_pmu(report) && !uncore.is_empty() {
        list.push(format!("--uncore {}", uncore.join(", ")));
    }
    list
}

fn missing(report: &Report) -> Vec<String> {
    let mut list = Vec::new();
    let verdict = &report.linux_guest_with_pmu;
    if !report.kvm.linux_guest.possible {
        list.push(format!("Linux guests ({})", report.kvm.linux_guest.reason));
    } else if !verdict.possible {
        list.push(format!("a PMU in guests ({})", verdict.reason));
    }
    if has_pmu(report) {
        list.extend(uncounted(&report.backing.events));
        if let Some(rdpmc) = report.rdpmc.value()
            && rdpmc.class != "gp-fault"
        {
            list.push("RDPMC in guest programs is wrong for up to 10 ms".to_owned());
        }
    }
    for counters in &report.counters {
        if counters.free.value() == Some(&0) {
            list.push(format!("no counter of host PMU {} is free", counters.pmu));
        }
    }
    let uncore = options(report, false);
    if !uncore.is_empty() {
        list.push(format!("--uncore {}", uncore.join(", ")));
    }
    list
}

/// The first piece of advice, and how many more there are.
fn change(advice: &[String], details: &str) -> String {
    match advice {
        [] => format!("nothing (details: {details})"),
        [only] => format!("{only} (details: {details})"),
        [first, others @ ..] => format!("{first} ({} more: {details})", others.len()),
    }
}

/// Whether this KVM runs small programs, though no Linux.
fn runs_programs(report: &Report) -> bool {
    report.kvm.kind.value() == Some(&KvmKindName::Emulated)
}

/// Whether the guests that run here can have a PMU.
fn has_pmu(report: &Report) -> bool {
    let features = report.kvm.features.value();
    features.is_some_and(|features| features.msr_filter && features.user_space_msr)
        && report.backing.chosen.value().is_some()
}

/// The events of the guest's PMU that count, and the source of their counts.
fn counted(events: &[EventReport]) -> Option<String> {
    let counted: Vec<_> = events.iter().filter(|event| counts(event)).collect();
    let source = match &counted.first()?.pmu {
        Some(pmu) => format!("by host PMU {pmu}"),
        None => "by a clock".to_owned(),
    };
    Some(if counted.len() == events.len() && events.len() > 1 {
        format!("all {} hardware events of perf ({source})", events.len())
    } else {
        format!("in guests, perf events {} ({source})", names(&counted))
    })
}

/// The events that a guest sees as `<not supported>`.
fn uncounted(events: &[EventReport]) -> Option<String> {
    let uncounted: Vec<_> = events.iter().filter(|event| !counts(event)).collect();
    uncounted.first()?;
    Some(format!(
        "in guests, perf events {} (no host PMU counts them)",
        names(&uncounted)
    ))
}

fn counts(event: &EventReport) -> bool {
    event.backing != "unavailable"
}

fn names(events: &[&EventReport]) -> String {
    let names: Vec<_> = events.iter().map(|event| event.event).collect();
    names.join(", ")
}

/// The options of `--uncore` that are possible here, or those that are not.
fn options(report: &Report, possible: bool) -> Vec<&'static str> {
    let options = report.uncore.iter();
    options
        .filter(|option| option.instances.value().is_some() == possible)
        .map(|option| option.option)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::report::Finding;
    use super::super::super::sample::report;
    use super::*;

    fn lines(report: &Report) -> Vec<String> {
        let mut page = TextPage::default();
        summary(&mut page, report, "--verbose");
        page.finish().lines().map(str::to_owned).collect()
    }

    fn event(event: &'static str, backing: &'static str, pmu: Option<&str>) -> EventReport {
        EventReport {
            event,
            backing,
            pmu: pmu.map(str::to_owned),
        }
    }

    #[test]
    fn a_host_with_a_pmu() {
        let mut report = report();
        let all = ["cycles", "instructions"];
        report.backing.events = all.map(|name| event(name, "hardware", Some("cpu"))).into();
        assert_eq!(
            lines(&report),
            [
                "Works: Linux guests; all 2 hardware events of perf (by host PMU cpu); --uncore power",
                "Does not work: --uncore amd_l3",
                "To change: nothing (details: --verbose)",
            ]
        );
        report.uncore.clear();
        assert_eq!(
            lines(&report)[1],
            "Does not work: everything that was tried works"
        );
    }

    #[test]
    fn a_host_with_a_clock_alone() {
        let mut report = report();
        report.uncore.clear();
        report.backing.events = vec![
            event("cycles", "clock-derived", None),
            event("instructions", "unavailable", None),
            event("branches", "unavailable", None),
        ];
        report.advice = ["use another host", "and", "so on"]
            .map(str::to_owned)
            .into();
        assert_eq!(
            lines(&report),
            [
                "Works: Linux guests; in guests, perf events cycles (by a clock)",
                "Does not work: in guests, perf events instructions, branches (no host PMU counts them)",
                "To change: use another host (2 more: --verbose)",
            ]
        );
    }

    #[test]
    fn a_host_whose_kvm_runs_no_linux() {
        let mut report = report();
        report.uncore.clear();
        report.kvm.kind = Finding::Value(KvmKindName::Emulated);
        report.kvm.linux_guest.possible = false;
        let [works, missing, _] = &lines(&report)[..] else {
            panic!("three lines");
        };
        assert!(works.starts_with("Works: bare-metal ELF"), "{works}");
        assert_eq!(missing, "Does not work: Linux guests (because)");
    }

    #[test]
    fn a_host_without_kvm_runs_nothing() {
        let mut report = report();
        report.kvm.kind = Finding::Value(KvmKindName::None);
        report.kvm.linux_guest.possible = false;
        report.kvm.features = Finding::unknown("KVM does not open");
        assert_eq!(lines(&report)[0], "Works: nothing");
    }

    #[test]
    fn a_lack_of_counters_and_of_rdpmc_is_named() {
        let mut report = report();
        report.uncore.clear();
        report.counters[0].free = Finding::Value(0);
        if let Finding::Value(rdpmc) = &mut report.rdpmc {
            rdpmc.class = "silent-zero";
        }
        let line = &lines(&report)[1];
        assert!(
            line.contains("no counter of host PMU cpu is free"),
            "{line}"
        );
        assert!(line.contains("RDPMC in guest programs"), "{line}");
    }
}
