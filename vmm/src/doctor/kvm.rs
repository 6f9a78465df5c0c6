//! The KVM of the host: its kind, its features, and whether it runs Linux.

use std::io;
use std::path::Path;

use super::report::{FeaturesReport, Finding, KvmKindName, KvmReport, YesOrNo};
use crate::error_text::one_line;
use crate::kvm::{Hypervisor, KvmError, MODULES, Parameter, SYS_MODULE};
use crate::probe::{HostFacts, KvmKind, Picos, ProbeError, exit_cost, instruction_cost};

pub(super) fn examine(device: &Path, hypervisor: &Result<Hypervisor, KvmError>) -> KvmReport {
    let facts = HostFacts::read();
    let modules = Path::new(SYS_MODULE);
    let common = KvmReport {
        device: device.display().to_string(),
        present: device.exists(),
        denied: hypervisor.as_ref().is_err_and(is_denial),
        access: match hypervisor {
            Err(error @ KvmError::Open { advice, .. })
                if is_denial(error) || is_another_device(device) =>
            {
                Some(advice.clone())
            }
            _ => None,
        },
        api_version: Finding::unknown(""),
        kind: Finding::Value(KvmKindName::None),
        extension: facts.extension.map(|extension| extension.to_string()),
        modules: MODULES
            .iter()
            .filter(|name| modules.join(name).exists())
            .map(|&name| name.to_owned())
            .collect(),
        linux_guest: no_kvm(),
        instruction_ps: Finding::unknown("KVM does not open"),
        exit_ns: Finding::unknown("KVM does not open"),
        features: Finding::unknown("KVM does not open"),
        enable_pmu: parameter(modules, "enable_pmu"),
        mediated_pmu: parameter(modules, "enable_mediated_pmu"),
    };
    match hypervisor {
        Ok(hypervisor) => examine_open(common, facts, hypervisor),
        Err(error) => KvmReport {
            api_version: Finding::unknown(one_line(error)),
            ..common
        },
    }
}

fn examine_open(common: KvmReport, facts: HostFacts, hypervisor: &Hypervisor) -> KvmReport {
    let cost = instruction_cost(hypervisor);
    let instruction_ps = match &cost {
        Ok(cost) => Finding::Value(cost.0),
        Err(error) => Finding::unknown(one_line(error)),
    };
    let kind = kind(facts, cost);
    let features = hypervisor.features();
    KvmReport {
        api_version: Finding::Value(hypervisor.api_version()),
        linux_guest: linux_guest(&kind),
        kind,
        instruction_ps,
        exit_ns: Finding::from(exit_cost(hypervisor).map(|cost| cost.0)),
        features: Finding::Value(FeaturesReport {
            msr_filter: features.msr_filter,
            user_space_msr: features.user_space_msr,
            pmu_capability: features.pmu_capability,
            sync_regs: features.sync_regs,
        }),
        ..common
    }
}

fn is_denial(error: &KvmError) -> bool {
    matches!(error, KvmError::Open { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
}

/// Whether the user names a device that does not exist, on a host with `/dev/kvm`.
fn is_another_device(device: &Path) -> bool {
    let usual = Path::new("/dev/kvm");
    device != usual && !device.exists() && usual.exists()
}

fn kind(facts: HostFacts, cost: Result<Picos, ProbeError>) -> Finding<KvmKindName> {
    Finding::from(facts.kind(|| cost).map(|kind| match kind {
        KvmKind::Hardware(_) => KvmKindName::Hardware,
        KvmKind::Nested(_) => KvmKindName::Nested,
        KvmKind::Emulated => KvmKindName::Emulated,
        KvmKind::Unnamed => KvmKindName::Unnamed,
    }))
}

fn no_kvm() -> YesOrNo {
    YesOrNo {
        possible: false,
        reason: "there is no KVM that opens".to_owned(),
    }
}

fn linux_guest(kind: &Finding<KvmKindName>) -> YesOrNo {
    let (possible, reason) = match kind {
        Finding::Value(KvmKindName::None) => return no_kvm(),
        Finding::Value(KvmKindName::Hardware) => (true, "hardware virtualisation"),
        Finding::Value(KvmKindName::Nested) => (true, "hardware virtualisation, nested"),
        Finding::Value(KvmKindName::Unnamed) => (true, "guest instructions run at full speed"),
        Finding::Value(KvmKindName::Emulated) => (
            false,
            "this KVM emulates every guest instruction, too slowly to boot Linux",
        ),
        Finding::Unknown { unknown } => {
            return YesOrNo {
                possible: false,
                reason: format!("a guest of a few instructions failed: {unknown}"),
            };
        }
    };
    YesOrNo {
        possible,
        reason: reason.to_owned(),
    }
}

/// A parameter of the first module that has it.
fn parameter(modules: &Path, name: &str) -> Finding<Parameter> {
    match Parameter::read(modules, name) {
        Ok(Some(found)) => Finding::Value(found),
        Ok(None) => Finding::unknown("no KVM module has this parameter"),
        Err(error) => Finding::unknown(format!("cannot read {name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kvms_at_speed_run_linux() {
        for (kind, possible) in [
            (KvmKindName::None, false),
            (KvmKindName::Hardware, true),
            (KvmKindName::Nested, true),
            (KvmKindName::Emulated, false),
            (KvmKindName::Unnamed, true),
        ] {
            assert_eq!(linux_guest(&Finding::Value(kind)).possible, possible);
        }
        let failed = linux_guest(&Finding::unknown("a triple fault"));
        assert!(!failed.possible && failed.reason.contains("triple fault"));
    }

    #[test]
    fn the_vpmu_parameter_of_no_module() {
        let found = parameter(Path::new("/nonexistent"), "enable_pmu");
        assert!(found.value().is_none());
    }

    #[test]
    fn a_host_without_kvm_is_reported() {
        let device = Path::new("/nonexistent/kvm");
        let report = examine(device, &Hypervisor::open(device));
        assert!(!report.present && !report.denied && !report.linux_guest.possible);
        assert_eq!(report.kind, Finding::Value(KvmKindName::None));
        let Finding::Unknown { unknown } = report.api_version else {
            panic!("it does not open");
        };
        assert!(unknown.contains("/nonexistent/kvm"), "{unknown}");
    }
}
