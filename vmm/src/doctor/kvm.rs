//! The KVM of the host: its kind, its features, and whether it runs Linux.

use std::fs;
use std::io;
use std::path::Path;

use super::report::{FeaturesReport, Finding, KvmKindName, KvmReport, YesOrNo};
use crate::error_text::one_line;
use crate::kvm::{Hypervisor, KvmError};
use crate::probe::{HostFacts, KvmKind, Picos, ProbeError, exit_cost, instruction_cost};

/// The modules, in the order in which their parameters are looked for.
const MODULES: [&str; 4] = ["kvm_intel", "kvm_amd", "kvm_pvm", "kvm"];

pub(super) fn examine(device: &Path, hypervisor: &Result<Hypervisor, KvmError>) -> KvmReport {
    let facts = HostFacts::read();
    let module = |name: &str| Path::new("/sys/module").join(name);
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
            .filter(|name| module(name).exists())
            .map(|&name| name.to_owned())
            .collect(),
        linux_guest: no_kvm(),
        instruction_ps: Finding::unknown("KVM does not open"),
        exit_ns: Finding::unknown("KVM does not open"),
        features: Finding::unknown("KVM does not open"),
        enable_pmu: enable_pmu(Path::new("/sys/module")),
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

/// The parameter of the first module that has it.
fn enable_pmu(modules: &Path) -> Finding<String> {
    for name in MODULES {
        let path = modules.join(name).join("parameters/enable_pmu");
        match fs::read_to_string(&path) {
            Ok(text) => return Finding::Value(format!("{} ({name})", text.trim())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Finding::unknown(format!("cannot read {}: {error}", path.display()));
            }
        }
    }
    Finding::unknown("no KVM module has this parameter")
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
        let found = enable_pmu(Path::new("/nonexistent"));
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
