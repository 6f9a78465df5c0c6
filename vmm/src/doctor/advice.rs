//! The advice of `perfvisor doctor`: how to enable more on this host.

use super::report::{Finding, KvmKindName, Report};
use crate::kvm::Parameter;

/// Concrete steps, the most important first.
pub(super) fn advice(report: &Report) -> Vec<String> {
    let mut list = Vec::new();
    kvm(report, &mut list);
    permission(report, &mut list);
    pending_signals(report, &mut list);
    uncore(report, &mut list);
    backing(report, &mut list);
    mediated_pmu(report, &mut list);
    rdpmc(report, &mut list);
    list
}

fn kvm(report: &Report, list: &mut Vec<String>) {
    let kvm = &report.kvm;
    let module = match kvm.extension.as_deref() {
        Some("vmx") => "kvm_intel",
        Some(_) => "kvm_amd",
        None => "kvm_intel or kvm_amd",
    };
    match kvm.kind {
        Finding::Value(KvmKindName::None) if !kvm.present && kvm.access.is_some() => {
            list.extend(kvm.access.clone());
        }
        Finding::Value(KvmKindName::None) if !kvm.present && kvm.extension.is_some() => {
            list.push(format!("load KVM: modprobe {module}"));
        }
        Finding::Value(KvmKindName::None) if !kvm.present => list.push(format!(
            "enable virtualisation in the firmware, or nested virtualisation in the hypervisor that runs this machine, then load {module}; until then, `cargo xtask guest` runs guests in an emulated host"
        )),
        Finding::Value(KvmKindName::None) if kvm.denied => list.push(match &kvm.access {
            Some(advice) => format!("for access to {}: {advice}", kvm.device),
            None => format!("for access to {}, run as root", kvm.device),
        }),
        Finding::Value(KvmKindName::Emulated) => list.push(format!(
            "for Linux guests, use bare metal or a virtual machine with nested virtualisation (CPU flag vmx or svm, module {module}); on this machine, `cargo xtask guest` runs them in an emulated host"
        )),
        // The device's own line says what is wrong with it.
        Finding::Value(KvmKindName::None) => {}
        Finding::Value(KvmKindName::Hardware | KvmKindName::Nested | KvmKindName::Unnamed) | Finding::Unknown { .. } => {}
    }
    let Some(features) = kvm.features.value() else {
        return;
    };
    if !features.msr_filter || !features.user_space_msr {
        list.push("for a guest PMU, use host kernel 5.10 or later: this KVM lacks the MSR filter or user-space MSRs".to_owned());
    }
    if !features.pmu_capability && kvm.enable_pmu.value().is_some_and(Parameter::is_on) {
        list.push(format!("this KVM cannot switch its own vPMU off for one VM: load {module} with enable_pmu=0, or use host kernel 5.18 or later"));
    }
}

fn permission(report: &Report, list: &mut Vec<String>) {
    let permission = &report.permission;
    if !permission.software_event.possible {
        let level = match permission.perf_event_paranoid.value() {
            Some(level) => format!("it is {level} now"),
            None => "it cannot be read here".to_owned(),
        };
        list.push(format!(
            "to count with host counters, run as root or with CAP_PERFMON, or set /proc/sys/kernel/perf_event_paranoid to 1 or less ({level}); a container may also forbid perf_event_open; --pmu type=software needs no permission"
        ));
    }
}

/// Fewer than a small VM's vCPUs need.
const FEW_SIGNALS: u64 = 64;

fn pending_signals(report: &Report, list: &mut Vec<String>) {
    let Some(signals) = report.permission.pending_signals.value() else {
        return;
    };
    let left = signals.limit.saturating_sub(signals.used);
    if left < FEW_SIGNALS {
        list.push(format!(
            "raise RLIMIT_SIGPENDING (ulimit -i): each vCPU of a VM with a PMU takes one pending signal, and {left} of {} are left to this user",
            signals.limit
        ));
    }
}

fn uncore(report: &Report, list: &mut Vec<String>) {
    let denied = report.uncore.iter().filter(|option| option.denied);
    let denied: Vec<_> = denied.map(|option| option.option).collect();
    if !denied.is_empty() {
        list.push(format!(
            "for --uncore {}=on, run as root or with CAP_PERFMON, or set /proc/sys/kernel/perf_event_paranoid to 0 or less: these PMUs count whole CPUs",
            denied.join("=on,")
        ));
    }
}

fn backing(report: &Report, list: &mut Vec<String>) {
    let Some(pmus) = report.pmus.value() else {
        return;
    };
    let cores: Vec<_> = pmus.iter().filter(|pmu| pmu.core).collect();
    if cores.len() > 1 {
        list.push("this host is hybrid: one PMU for each kind of its CPUs; type=auto counts on both kinds and opens twice the host events; type=core or type=atom binds the vCPUs to one kind; type=hybrid with --cpus core-types= shows the guest both kinds".to_owned());
    } else if cores.is_empty() && report.linux_guest_with_pmu.possible {
        list.push("for hardware counts (instructions, branches, caches), use a host with a core PMU: bare metal, or a virtual machine whose hypervisor gives it a vPMU (QEMU: -cpu host,pmu=on)".to_owned());
    }
    for counters in &report.counters {
        if counters.free == Finding::Value(0) {
            list.push(format!(
                "no counter of {} is free: other users hold all of them with pinned events; sysctl kernel.nmi_watchdog=0 frees one on each CPU",
                counters.pmu
            ));
        }
    }
}

/// Linux 7.0 and later: one kind of VM or the other has the host's PMU.
fn mediated_pmu(report: &Report, list: &mut Vec<String>) {
    let parameter = report.kvm.mediated_pmu.value();
    if let Some(Parameter { module, .. }) = parameter.filter(|parameter| parameter.is_on()) {
        list.push(format!(
            "while a VM of another program uses KVM's mediated vPMU, this host counts for no guest of perfvisor: perf_event_open fails with EOPNOTSUPP, and type=auto takes a clock; while a guest of perfvisor counts, such a VM's vCPUs fail with EBUSY; to keep the host's PMU for perfvisor, load {module} with enable_mediated_pmu=0"
        ));
    }
}

fn rdpmc(report: &Report, list: &mut Vec<String>) {
    let Some(rdpmc) = report.rdpmc.value() else {
        return;
    };
    if !report.kvm.linux_guest.possible {
        return;
    }
    if rdpmc.class != "gp-fault" {
        list.push("this host's KVM answers RDPMC by itself: a guest program that maps a counting event reads wrong values for up to 10 ms; use a later kernel (6.12 is known to work), or write 0 to /sys/bus/event_source/devices/cpu/rdpmc in the guest: programs that use RDPMC (PAPI, libpfm) fall back to read(2)".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::HostPmuReport;
    use super::super::sample::{parameter, report};
    use super::*;

    fn has(list: &[String], part: &str) -> bool {
        list.iter().any(|advice| advice.contains(part))
    }

    #[test]
    fn a_good_host_has_no_advice() {
        let list = advice(&report());
        assert!(list.is_empty(), "{list:?}");
    }

    #[test]
    fn a_mediated_vpmu_is_named() {
        let mut bad = report();
        bad.kvm.mediated_pmu = parameter("kvm_intel", "Y");
        assert!(has(
            &advice(&bad),
            "load kvm_intel with enable_mediated_pmu=0"
        ));
    }

    #[test]
    fn each_lack_has_its_advice() {
        let mut bad = report();
        bad.kvm.kind = Finding::Value(KvmKindName::Emulated);
        assert!(has(&advice(&bad), "cargo xtask guest"));

        let mut bad = report();
        bad.kvm.kind = Finding::Value(KvmKindName::None);
        assert!(!has(&advice(&bad), "join the group"), "not a KVM device");
        bad.kvm.denied = true;
        bad.kvm.access = Some("join the group kvm".to_owned());
        assert!(has(&advice(&bad), "join the group"));
        bad.kvm.present = false;
        assert!(has(&advice(&bad), "join the group"), "another device");
        bad.kvm.access = None;
        assert!(has(&advice(&bad), "modprobe kvm_intel"));
        bad.kvm.extension = None;
        assert!(has(&advice(&bad), "firmware"));

        let mut bad = report();
        if let Finding::Value(rdpmc) = &mut bad.rdpmc {
            rdpmc.class = "silent-zero";
        }
        assert!(has(&advice(&bad), "for up to 10 ms; use a later kernel"));

        let mut bad = report();
        bad.permission.software_event.possible = false;
        assert!(has(&advice(&bad), "it is 4 now"));

        let mut bad = report();
        if let Finding::Value(signals) = &mut bad.permission.pending_signals {
            signals.used = 990;
        }
        assert!(has(&advice(&bad), "10 of 1000 are left"));

        let mut bad = report();
        bad.pmus = Finding::Value(Vec::new());
        assert!(has(&advice(&bad), "pmu=on"));
        bad.pmus = Finding::Value(vec![HostPmuReport {
            name: "cpu_core".to_owned(),
            r#type: 4,
            core: true,
            cpus: Some(vec![0]),
            cpumask: None,
            scope: None,
        }]);
        if let Finding::Value(pmus) = &mut bad.pmus {
            let mut atom = pmus[0].clone();
            atom.name = "cpu_atom".to_owned();
            pmus.push(atom);
        }
        assert!(has(&advice(&bad), "hybrid"));

        let mut bad = report();
        for option in &mut bad.uncore {
            option.denied = true;
        }
        assert!(has(
            &advice(&bad),
            "for --uncore power=on,amd_l3=on, run as root"
        ));

        let mut bad = report();
        for counters in &mut bad.counters {
            counters.free = Finding::Value(0);
        }
        assert!(has(&advice(&bad), "nmi_watchdog"));
    }
}
