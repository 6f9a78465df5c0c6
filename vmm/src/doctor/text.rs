//! The report of `perfvisor doctor` as text.

use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::HostCpu;

use super::report::{
    BackingReport, CountersReport, FeaturesReport, Finding, HostPmuReport, KvmKindName, KvmReport,
    PermissionReport, Report, UncoreReport,
};

/// The column at which values start.
const COLUMN: usize = 22;

/// The whole report: sections of aligned lines.
pub(super) fn render(report: &Report) -> String {
    let mut page = TextPage::default();
    let verdict = &report.linux_guest_with_pmu;
    page.text(&format!(
        "A Linux guest with a PMU can{} run here: {}.",
        if verdict.possible { "" } else { "not" },
        verdict.reason
    ));
    kvm(&mut page, &report.kvm);
    page.section("Host");
    match &report.cpu {
        Finding::Value(cpu) => {
            let line = format!("{}, {} ({})", cpu.vendor, cpu.model, cpu.signature);
            page.line("CPU", &line);
        }
        Finding::Unknown { unknown } => page.line("CPU", &not_known(unknown)),
    }
    pmus(&mut page, report);
    uncore(&mut page, &report.uncore);
    permission(&mut page, &report.permission);
    guest(&mut page, report);
    page.section("Advice");
    if report.advice.is_empty() {
        page.text("  none");
    }
    for advice in &report.advice {
        page.text(&format!("  - {advice}"));
    }
    page.0
}

#[derive(Default)]
struct TextPage(String);

impl TextPage {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.text(&format!("\n{title}"));
    }

    fn line(&mut self, label: &str, value: &str) {
        self.text(&format!("  {label:COLUMN$}{value}"));
    }
}

fn not_known(why: &str) -> String {
    format!("not known: {why}")
}

/// The value in words, or why it is not known.
fn say<T>(found: &Finding<T>, words: impl Fn(&T) -> String) -> String {
    match found {
        Finding::Value(value) => words(value),
        Finding::Unknown { unknown } => not_known(unknown),
    }
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn kvm(page: &mut TextPage, kvm: &KvmReport) {
    page.section("KVM");
    let device = match (&kvm.api_version, kvm.present) {
        (Finding::Value(version), _) => format!("{}, API {version}", kvm.device),
        (Finding::Unknown { unknown }, true) => format!("{}: {unknown}", kvm.device),
        (Finding::Unknown { unknown }, false) => unknown.clone(),
    };
    page.line("device", &device);
    page.line("kind", &say(&kvm.kind, |kind| kind_words(*kind, kvm)));
    page.line("modules", &list(&kvm.modules));
    page.line(
        "Linux guests",
        &format!(
            "{} ({})",
            yes(kvm.linux_guest.possible),
            kvm.linux_guest.reason
        ),
    );
    page.line(
        "guest instruction",
        &say(&kvm.instruction_ps, |ps| nanos(*ps)),
    );
    page.line(
        "entry and exit",
        &say(&kvm.exit_ns, |ns| format!("{ns} ns of thread time")),
    );
    page.line("features", &say(&kvm.features, features));
    page.line("KVM's own vPMU", &say(&kvm.enable_pmu, |on| enable_pmu(on)));
}

fn kind_words(kind: KvmKindName, kvm: &KvmReport) -> String {
    let extension = kvm.extension.as_deref().unwrap_or("no flag");
    match kind {
        KvmKindName::None => "none: the KVM device cannot be opened".to_owned(),
        KvmKindName::Hardware => format!("hardware virtualisation ({extension})"),
        KvmKindName::Nested => {
            format!("nested hardware virtualisation ({extension}, in a virtual machine)")
        }
        KvmKindName::Emulated if kvm.modules.iter().any(|module| module == "kvm_pvm") => {
            "emulated by software (kvm_pvm)".to_owned()
        }
        KvmKindName::Emulated => "emulated by software".to_owned(),
        KvmKindName::Unnamed => {
            "unknown: no CPU flag names it; guests run at full speed".to_owned()
        }
    }
}

fn features(features: &FeaturesReport) -> String {
    format!(
        "MSR filter {}, user-space MSRs {}, vPMU switch for each VM {}, sync regs {}",
        yes(features.msr_filter),
        yes(features.user_space_msr),
        yes(features.pmu_capability),
        yes(features.sync_regs)
    )
}

/// With the parameter off, KVM has no switch for single VMs, and needs none.
fn enable_pmu(parameter: &str) -> String {
    let effect = if parameter.starts_with('N') {
        "off for every VM"
    } else {
        "on, except for VMs that switch it off"
    };
    format!("enable_pmu={parameter}: {effect}")
}

/// Picoseconds as nanoseconds with two decimals.
fn nanos(picos: u64) -> String {
    format!("{}.{:02} ns", picos / 1000, picos % 1000 / 10)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
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

fn permission(page: &mut TextPage, permission: &PermissionReport) {
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
}

fn guest(page: &mut TextPage, report: &Report) {
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

#[cfg(test)]
pub(super) mod tests {
    use super::super::report::{
        CpuReport, EventCounters, EventReport, MemoryReport, RdpmcReport, YesOrNo,
    };
    use super::*;

    fn verdict(possible: bool) -> YesOrNo {
        YesOrNo {
            possible,
            reason: "because".to_owned(),
        }
    }

    fn kvm_report() -> KvmReport {
        KvmReport {
            device: "/dev/kvm".to_owned(),
            present: true,
            denied: false,
            api_version: Finding::Value(12),
            kind: Finding::Value(KvmKindName::Hardware),
            extension: Some("vmx".to_owned()),
            modules: vec!["kvm_intel".to_owned(), "kvm".to_owned()],
            linux_guest: verdict(true),
            instruction_ps: Finding::Value(307),
            exit_ns: Finding::Value(1_200),
            features: Finding::Value(FeaturesReport {
                msr_filter: true,
                user_space_msr: true,
                pmu_capability: true,
                sync_regs: true,
            }),
            enable_pmu: Finding::Value("Y (kvm)".to_owned()),
        }
    }

    fn shared_pmus() -> Vec<UncoreReport> {
        vec![
            UncoreReport {
                option: "power",
                guests: "any model",
                instances: Finding::Value(2),
                domains: vec!["energy-pkg", "energy-ram"],
                denied: false,
            },
            UncoreReport {
                option: "amd_l3",
                guests: "model=amd-core or amd-v2",
                instances: Finding::unknown("the host has no PMU amd_l3"),
                domains: Vec::new(),
                denied: false,
            },
        ]
    }

    /// A host that has everything but the right to count.
    pub(in super::super) fn report() -> Report {
        Report {
            linux_guest_with_pmu: verdict(true),
            kvm: kvm_report(),
            cpu: Finding::Value(CpuReport {
                vendor: "GenuineIntel".to_owned(),
                model: "A CPU".to_owned(),
                signature: "family 6, model 85, stepping 7".to_owned(),
            }),
            pmus: Finding::Value(vec![HostPmuReport {
                name: "cpu".to_owned(),
                r#type: 4,
                core: true,
                cpus: None,
                cpumask: None,
                scope: None,
            }]),
            counters: vec![CountersReport {
                pmu: "cpu".to_owned(),
                free: Finding::Value(5),
                events: vec![EventCounters {
                    event: "cycles",
                    free: 4,
                }],
                extended_type: Finding::Value(true),
            }],
            uncore: shared_pmus(),
            permission: PermissionReport {
                perf_event_paranoid: Finding::Value(4),
                euid: Finding::Value(1000),
                cap_perfmon: Finding::Value(false),
                cap_sys_admin: Finding::unknown("no /proc"),
                software_event: verdict(true),
            },
            rdpmc: Finding::Value(RdpmcReport {
                class: "gp-fault",
                answers: vec!["0x0: #GP".to_owned()],
                kernel_reads: "served",
                user_reads: "served exactly",
            }),
            backing: BackingReport {
                chosen: Finding::Value("host PMU cpu".to_owned()),
                events: vec![EventReport {
                    event: "cycles",
                    backing: "hardware",
                    pmu: Some("cpu".to_owned()),
                }],
                note: None,
            },
            memory: Finding::Value(MemoryReport {
                guest_ram_kib: 64 << 10,
                pss_kib: 900,
                private_kib: 400,
            }),
            advice: Vec::new(),
        }
    }

    #[test]
    fn values_are_aligned() {
        let text = render(&report());
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
            "    cycles              hardware (PMU cpu)",
            "  RDPMC                 gp-fault (0x0: #GP)",
        ] {
            assert!(text.lines().any(|l| l == line), "{line:?} in:\n{text}");
        }
    }

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
