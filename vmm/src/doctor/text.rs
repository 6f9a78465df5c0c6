//! The report of `perfvisor doctor` as text: three lines, and before them the
//! details, if the user asks for them with `--verbose`.

mod guest;
mod host;
mod kvm;
mod page;
mod summary;
mod tenants;

use page::TextPage;

use super::report::Report;

/// The summary alone.
pub(super) fn short(report: &Report) -> String {
    let mut page = TextPage::default();
    summary::summary(&mut page, report, "perfvisor doctor --verbose");
    page.finish()
}

/// Every section of the report, then the summary.
pub(super) fn verbose(report: &Report) -> String {
    let mut page = TextPage::default();
    let verdict = &report.linux_guest_with_pmu;
    page.text(&format!(
        "A Linux guest with a PMU can{} run here: {}.",
        if verdict.possible { "" } else { "not" },
        verdict.reason
    ));
    kvm::kvm(&mut page, &report.kvm);
    host::host(&mut page, report);
    host::permission(&mut page, &report.permission);
    guest::guest(&mut page, report);
    tenants::tenants(&mut page, &report.tenants);
    page.section("Advice");
    if report.advice.is_empty() {
        page.text("  none");
    }
    for advice in &report.advice {
        page.text(&format!("  - {advice}"));
    }
    page.section("Summary");
    summary::summary(&mut page, report, "above");
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::super::sample::report;
    use super::*;

    #[test]
    fn values_are_aligned() {
        let text = verbose(&report());
        assert!(text.starts_with("A Linux guest with a PMU can run here: because.\n"));
        for line in [
            "  device                /dev/kvm, API 12",
            "  kind                  hardware virtualisation (vmx)",
            "  guest instruction     0.30 ns",
            "  entry and exit        1200 ns of thread time",
            "  KVM's own vPMU        enable_pmu=Y (kvm): on, except for VMs that switch it off",
            "  PMUs                  cpu (type 4, all CPUs)",
            "  counters of cpu       5 for instructions, 4 for cycles (pinned guest events at the same time); addressed by type: yes",
            "  --uncore power        possible: 2 on the host, energy-pkg energy-ram; for guests with any model",
            "  --uncore amd_l3       not possible: the host has no PMU amd_l3",
            "  perf_event_paranoid   4",
            "  CAP_SYS_ADMIN         not known: no /proc",
            "  pending signals       3 of 1000 taken (a vCPU with a PMU takes one)",
            "    cycles              hardware (PMU cpu)",
            "  RDPMC                 gp-fault (0x0: #GP)",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} in:\n{text}");
        }
    }

    #[test]
    fn both_texts_end_with_the_same_three_subjects() {
        for text in [short(&report()), verbose(&report())] {
            let lines: Vec<_> = text.lines().collect();
            let last: Vec<_> = lines[lines.len() - 3..]
                .iter()
                .map(|line| line.split_once(':').map(|(label, _)| label))
                .collect();
            let labels = ["Works", "Does not work", "To change"].map(Some);
            assert_eq!(last, labels, "{text}");
        }
        assert_eq!(short(&report()).lines().count(), 3);
    }

    #[test]
    fn unknown_is_an_object_with_a_reason() {
        let json = serde_json::to_value(report()).unwrap();
        let permission = json.get("permission").unwrap();
        assert_eq!(permission["cap_sys_admin"]["unknown"], "no /proc");
        assert_eq!(permission["euid"], 1000);
        assert_eq!(json["kvm"]["kind"], "hardware");
        assert_eq!(json["pmus"][0]["type"], 4);
    }
}
