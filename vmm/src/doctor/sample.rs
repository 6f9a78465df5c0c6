//! A report for tests.

use super::report::{
    BackingReport, CountersReport, CpuReport, EventCounters, EventReport, FeaturesReport, Finding,
    HostPmuReport, KvmKindName, KvmReport, MemoryReport, PendingSignalsReport, PermissionReport,
    RdpmcReport, Report, TenantsReport, UncoreReport, YesOrNo,
};
use crate::kvm::Parameter;

fn verdict(possible: bool) -> YesOrNo {
    YesOrNo {
        possible,
        reason: "because".to_owned(),
    }
}

/// A parameter of a KVM module.
pub(super) fn parameter(module: &'static str, value: &str) -> Finding<Parameter> {
    Finding::Value(Parameter {
        module,
        value: value.to_owned(),
    })
}

fn kvm_report() -> KvmReport {
    KvmReport {
        device: "/dev/kvm".to_owned(),
        present: true,
        denied: false,
        access: None,
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
        enable_pmu: parameter("kvm", "Y"),
        mediated_pmu: parameter("kvm_intel", "N"),
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

fn tenants() -> Vec<TenantsReport> {
    vec![
        TenantsReport {
            check: "smt",
            found: Finding::Value("on".to_owned()),
            risk: Some(true),
            meaning: "threads share a core",
            change: Some("switch it off"),
        },
        TenantsReport {
            check: "ksm",
            found: Finding::unknown("no /sys"),
            risk: None,
            meaning: "pages are merged",
            change: None,
        },
    ]
}

/// A host that has everything but the right to count.
pub(super) fn report() -> Report {
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
            pending_signals: Finding::Value(PendingSignalsReport {
                used: 3,
                limit: 1000,
            }),
        },
        tenants: tenants(),
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
