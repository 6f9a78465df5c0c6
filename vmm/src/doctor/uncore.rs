//! Which uncore PMUs `--uncore` can show to a guest on this host.

use vpmu::host::EnergyDomain;
use vpmu::host::linux::sysfs::Sysfs;
use vpmu::uncore::UncorePmu;

use super::report::{Finding, UncoreReport};
use crate::error_text::one_line;
use crate::pmu::{self, UncoreError};

/// Each option of `--uncore`.
pub(super) fn examine(sysfs: &Sysfs) -> Vec<UncoreReport> {
    [
        ("power", UncorePmu::Power, "any model"),
        ("amd_l3", UncorePmu::L3, "model=amd-core or amd-v2"),
        ("amd_df", UncorePmu::DataFabric, "model=amd-core or amd-v2"),
        ("amd_umc", UncorePmu::Umc(0), "model=amd-v2"),
    ]
    .map(|(option, pmu, guests)| one(option, pmu, guests, sysfs))
    .into()
}

fn one(option: &'static str, pmu: UncorePmu, guests: &'static str, sysfs: &Sysfs) -> UncoreReport {
    let found = match pmu {
        UncorePmu::Umc(_) => pmu::all_umc(sysfs),
        _ => pmu::find_one(pmu, sysfs).map(|source| vec![source]),
    };
    let denied = found.as_ref().is_err_and(UncoreError::is_permission);
    let domains = match (&found, pmu) {
        (Ok(sources), UncorePmu::Power) => sources
            .iter()
            .flat_map(|source| source.energy_domains())
            .map(EnergyDomain::name)
            .collect(),
        _ => Vec::new(),
    };
    let instances = found.map(|sources| sources.iter().map(|s| s.instances().len()).sum());
    UncoreReport {
        option,
        guests,
        instances: match instances {
            Ok(count) => Finding::Value(count),
            Err(UncoreError::Host { source, .. }) => Finding::unknown(one_line(&source)),
            Err(error) => Finding::unknown(one_line(&error)),
        },
        domains,
        denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever this machine has, each option is told of, with a reason if it is
    /// not possible.
    #[test]
    fn each_option_has_an_answer() {
        let reports = examine(&Sysfs::default());
        let options: Vec<_> = reports.iter().map(|report| report.option).collect();
        assert_eq!(options, ["power", "amd_l3", "amd_df", "amd_umc"]);
        for report in reports {
            match report.instances {
                Finding::Value(count) => assert!(count > 0),
                Finding::Unknown { unknown } => assert!(unknown.contains("host"), "{unknown}"),
            }
            assert!(report.domains.is_empty() || report.option == "power");
        }
    }
}
