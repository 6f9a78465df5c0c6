//! The section on KVM.

use super::super::report::{FeaturesReport, Finding, KvmKindName, KvmReport};
use super::page::{TextPage, list, say, yes};
use crate::kvm::Parameter;

/// KVM, its cost and its features.
pub(super) fn kvm(page: &mut TextPage, kvm: &KvmReport) {
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
    page.line("KVM's own vPMU", &say(&kvm.enable_pmu, enable_pmu));
    if let Some(on) = kvm.mediated_pmu.value() {
        page.line("mediated vPMU", &format!("enable_mediated_pmu={on}"));
    }
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
fn enable_pmu(parameter: &Parameter) -> String {
    let effect = if parameter.is_on() {
        "on, except for VMs that switch it off"
    } else {
        "off for every VM"
    };
    format!("enable_pmu={parameter}: {effect}")
}

/// Picoseconds as nanoseconds with two decimals.
fn nanos(picos: u64) -> String {
    format!("{}.{:02} ns", picos / 1000, picos % 1000 / 10)
}
