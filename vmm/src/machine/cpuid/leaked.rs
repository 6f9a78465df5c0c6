//! Features that KVM shows the guest although its CPUID table does not offer them.
//!
//! A KVM that runs CPUID on the host's CPU (kvm_pvm does so for leaf 07H) changes the
//! table that it is given. So the table is read back and compared.

use super::intel::{ARCH_LBR, BUS_LOCK_DETECT, HLE, HYBRID, PT, RTM};
use crate::kvm::CpuidEntry;

/// Leaf 07H: the register that holds a feature, its bit, and its name.
type Feature = (fn(&CpuidEntry) -> u32, u32, &'static str);

/// Features that change what a guest's PMU drivers do.
const FEATURES: [Feature; 6] = [
    (|leaf| leaf.ebx, HLE, "HLE"),
    (|leaf| leaf.ebx, RTM, "RTM"),
    (|leaf| leaf.ebx, PT, "Intel PT"),
    (|leaf| leaf.ecx, BUS_LOCK_DETECT, "bus-lock detection"),
    (|leaf| leaf.edx, HYBRID, "hybrid CPU"),
    (|leaf| leaf.edx, ARCH_LBR, "architectural LBR"),
];

/// The names of the features that are in `shown` and not in `table`.
#[must_use]
pub(crate) fn leaked(table: &[CpuidEntry], shown: &[CpuidEntry]) -> Vec<&'static str> {
    let leaf7 = |entries: &[CpuidEntry]| {
        let found = entries.iter().find(|e| e.leaf == 0x7 && e.subleaf == 0);
        found.copied().unwrap_or_default()
    };
    let (table, shown) = (leaf7(table), leaf7(shown));
    let is_leaked = |(register, bit, _): &&Feature| register(&shown) & !register(&table) & bit != 0;
    FEATURES
        .iter()
        .filter(is_leaked)
        .map(|(_, _, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen on a kvm_pvm host: 07H:EBX was set to 1802042H and read back as F1BF2BFBH.
    #[test]
    fn what_kvm_adds_is_named_and_what_the_guest_was_offered_is_not() {
        let leaf7 = |ebx, edx| CpuidEntry {
            leaf: 0x7,
            indexed: true,
            ebx,
            edx,
            ..CpuidEntry::default()
        };
        let given = [leaf7(0x0180_2042, 0)];
        assert_eq!(leaked(&given, &[leaf7(0xf1bf_2bfb, 0)]), ["HLE", "RTM"]);
        assert_eq!(leaked(&given, &given), [""; 0]);
        assert_eq!(leaked(&[leaf7(0, HYBRID)], &[leaf7(0, HYBRID)]), [""; 0]);
        assert_eq!(leaked(&[], &[leaf7(0, HYBRID)]), ["hybrid CPU"]);
    }
}
