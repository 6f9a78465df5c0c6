//! The sections on a guest: its PMU, and the memory that its VM takes.

use super::super::report::{BackingReport, Finding, Report};
use super::page::{TextPage, not_known, say};

/// What counts for a guest, its RDPMC, and the memory of its VM.
pub(super) fn guest(page: &mut TextPage, report: &Report) {
    page.section("Guest PMU (--pmu type=auto)");
    events(page, &report.backing);
    match &report.rdpmc {
        Finding::Value(rdpmc) => {
            let line = format!("{} ({})", rdpmc.class, rdpmc.answers.join(", "));
            page.line("RDPMC", &line);
            page.line("  kernel reads", rdpmc.kernel_reads);
            page.line("  user reads", rdpmc.user_reads);
        }
        Finding::Unknown { unknown } => page.line("RDPMC", &not_known(unknown)),
    }
    page.section("Memory");
    let memory = say(&report.memory, |memory| {
        format!(
            "{} KiB PSS, of which {} KiB are private: this process with an idle VM of 1 vCPU and no devices, without the guest's {} MiB of RAM and without kernel memory; a booted guest needs more",
            memory.pss_kib,
            memory.private_kib,
            memory.guest_ram_kib >> 10
        )
    });
    page.line("besides guest RAM", &memory);
}

fn events(page: &mut TextPage, backing: &BackingReport) {
    let chosen = match &backing.chosen {
        Finding::Value(chosen) => chosen.clone(),
        Finding::Unknown { unknown } => format!("none: {unknown}"),
    };
    page.line("backing", &chosen);
    for event in &backing.events {
        let line = match &event.pmu {
            Some(pmu) => format!("{} (PMU {pmu})", event.backing),
            None => event.backing.to_owned(),
        };
        page.line(&format!("  {}", event.event), &line);
    }
    if let Some(note) = backing.note {
        page.line("note", note);
    }
}
