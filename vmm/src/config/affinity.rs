//! `--cpus affinity=` and `core-types=`: the host CPUs and the core type of each vCPU.

use std::collections::BTreeMap;

use vpmu::guest::CoreType;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::VcpuId;

use super::options::{split_outside_brackets, unbracket};

pub(super) const AFFINITY: &str = "[VCPU@[CPUS],…] with vCPUs of this VM, each once, and host CPUs as numbers or ranges, such as [0@[2,3],1@[4-7]]";
pub(super) const CORE_TYPES: &str =
    "[core=[VCPUS],atom=[VCPUS]] that names each vCPU exactly once, such as [core=[0],atom=[1-3]]";

/// The host CPUs that vCPUs may run on. A vCPU that is not named may run where
/// the VMM may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity(BTreeMap<VcpuId, CpuSet>);

impl Affinity {
    /// Reads `[0@[2,3],1@[4-7]]`, Cloud Hypervisor's form.
    pub(super) fn parse(text: &str, max: u16) -> Option<Self> {
        let mut affinity = BTreeMap::new();
        for item in split_outside_brackets(unbracket(text)?) {
            let (vcpu, cpus) = item.split_once('@')?;
            let vcpu = vcpu.parse().ok().filter(|vcpu| *vcpu < max)?;
            let cpus = CpuSet::parse(unbracket(cpus)?)?;
            if cpus.is_empty() || affinity.insert(VcpuId(vcpu), cpus).is_some() {
                return None;
            }
        }
        Some(Self(affinity))
    }

    /// What was asked for one vCPU.
    #[must_use]
    pub fn of(&self, vcpu: VcpuId) -> Option<&CpuSet> {
        self.0.get(&vcpu)
    }
}

/// The type of each vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreTypes(Vec<CoreType>);

impl CoreTypes {
    /// Reads `[core=[0],atom=[1-3]]`.
    pub(super) fn parse(text: &str, max: u16) -> Option<Self> {
        let mut types = vec![None; usize::from(max)];
        for item in split_outside_brackets(unbracket(text)?) {
            let (name, vcpus) = item.split_once('=')?;
            let core_type = match name {
                "core" => CoreType::Core,
                "atom" => CoreType::Atom,
                _ => return None,
            };
            // vCPUs are listed as host CPUs are.
            for vcpu in CpuSet::parse(unbracket(vcpus)?)?.iter() {
                let slot = types.get_mut(usize::try_from(vcpu.0).ok()?)?;
                if slot.replace(core_type).is_some() {
                    return None;
                }
            }
        }
        types.into_iter().collect::<Option<_>>().map(Self)
    }

    /// The type of one vCPU of this VM.
    #[must_use]
    pub fn of(&self, vcpu: VcpuId) -> CoreType {
        // Every vCPU of the VM has one: `parse` saw to it.
        let found = self.0.get(usize::from(vcpu.0));
        found.copied().unwrap_or(CoreType::Core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_is_cloud_hypervisors() {
        let affinity = Affinity::parse("[0@[2,3],2@[4-7]]", 3).unwrap();
        let of = |vcpu| affinity.of(VcpuId(vcpu)).map(ToString::to_string);
        assert_eq!(of(0).as_deref(), Some("2-3"));
        assert_eq!(of(1), None);
        assert_eq!(of(2).as_deref(), Some("4-7"));
        for text in [
            "",
            "[]",
            "0@[1]",
            "[0@1]",
            "[0@[]]",
            "[0@[1],0@[2]]",
            "[3@[1]]",
            "[0@[1-]]",
            "[0@[1]],",
            "[-1@[1]]",
        ] {
            assert_eq!(Affinity::parse(text, 3), None, "{text}");
        }
    }

    #[test]
    fn each_vcpu_has_one_type() {
        let types = CoreTypes::parse("[core=[0,3],atom=[1-2]]", 4).unwrap();
        let of = [0, 1, 2, 3].map(|vcpu| types.of(VcpuId(vcpu)));
        use CoreType::{Atom, Core};
        assert_eq!(of, [Core, Atom, Atom, Core]);
        assert!(CoreTypes::parse("[core=[0-3]]", 4).is_some());
        for text in [
            "core=[0-3]",
            "[core=[0]]",
            "[core=[0-2],atom=[2-3]]",
            "[core=[0-3],big=[1]]",
            "[core=[0-4]]",
            "[core=0-3]",
        ] {
            assert_eq!(CoreTypes::parse(text, 4), None, "{text}");
        }
    }
}
