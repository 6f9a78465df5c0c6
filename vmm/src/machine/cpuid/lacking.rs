//! Whether a host has the CPU that a guest has found on another one.

use crate::kvm::CpuidEntry;

/// A register of CPUID whose bits are features: leaf, subleaf, the register and its name,
/// and the bits that follow what the guest does.
type FeatureRegister = (u32, u32, fn(&CpuidEntry) -> u32, &'static str, u32);

/// OSXSAVE and OSPKE mirror bits of CR4 (SDM vol. 2A, "CPUID").
const OSXSAVE: u32 = 1 << 27;
const OSPKE: u32 = 1 << 4;
/// MONITOR may be switched by IA32_MISC_ENABLE.
const MONITOR: u32 = 1 << 3;

const FEATURES: [FeatureRegister; 15] = [
    (0x1, 0, |e| e.ecx, "ECX", OSXSAVE | MONITOR),
    (0x1, 0, |e| e.edx, "EDX", 0),
    (0x6, 0, |e| e.eax, "EAX", 0),
    (0x7, 0, |e| e.ebx, "EBX", 0),
    (0x7, 0, |e| e.ecx, "ECX", OSPKE),
    (0x7, 0, |e| e.edx, "EDX", 0),
    (0x7, 1, |e| e.eax, "EAX", 0),
    (0xd, 0, |e| e.eax, "EAX", 0),
    (0xd, 1, |e| e.eax, "EAX", 0),
    (0x4000_0001, 0, |e| e.eax, "EAX", 0),
    (0x8000_0001, 0, |e| e.ecx, "ECX", 0),
    (0x8000_0001, 0, |e| e.edx, "EDX", 0),
    (0x8000_0007, 0, |e| e.edx, "EDX", 0),
    (0x8000_0008, 0, |e| e.ebx, "EBX", 0),
    (0x8000_0021, 0, |e| e.eax, "EAX", 0),
];

/// The features in `saved` that are not in `here`, as bits of CPUID: "7.0 EBX bit 5+8".
pub(crate) fn lacking(saved: &[CpuidEntry], here: &[CpuidEntry]) -> Vec<String> {
    let mut lacks = Vec::new();
    let vendor = |table: &[CpuidEntry]| find(table, 0, 0).map(|e| (e.ebx, e.ecx, e.edx));
    if vendor(saved) != vendor(here) {
        lacks.push("the CPU's vendor".to_owned());
    }
    for (leaf, subleaf, register, name, varies) in FEATURES {
        let bits = |table| find(table, leaf, subleaf).as_ref().map_or(0, register);
        let missing = bits(saved) & !bits(here) & !varies;
        let missing = (0..u32::BITS).filter(|bit| missing & 1 << bit != 0);
        let missing: Vec<String> = missing.map(|bit| bit.to_string()).collect();
        if !missing.is_empty() {
            let bits = missing.join("+");
            lacks.push(format!("CPUID {leaf:x}.{subleaf} {name} bit {bits}"));
        }
    }
    lacks
}

fn find(table: &[CpuidEntry], leaf: u32, subleaf: u32) -> Option<CpuidEntry> {
    let is_it = |e: &&CpuidEntry| e.leaf == leaf && (!e.indexed || e.subleaf == subleaf);
    table.iter().find(is_it).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf7(ebx: u32, ecx: u32) -> CpuidEntry {
        CpuidEntry {
            leaf: 7,
            indexed: true,
            ebx,
            ecx,
            ..CpuidEntry::default()
        }
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_more_is_not() {
        let none = Vec::<String>::new();
        assert_eq!(
            lacking(&[leaf7(0x121, 0)], &[leaf7(0x1, 0)]),
            ["CPUID 7.0 EBX bit 5+8"]
        );
        assert_eq!(lacking(&[leaf7(0x1, 0)], &[leaf7(0x21, 8)]), none);
        assert_eq!(
            lacking(&[leaf7(0, OSPKE)], &[leaf7(0, 0)]),
            none,
            "the guest's doing"
        );
        assert_eq!(lacking(&[leaf7(1, 0)], &[]), ["CPUID 7.0 EBX bit 0"]);
        assert_eq!(lacking(&[], &[leaf7(1, 0)]), none);
    }

    #[test]
    fn another_vendor_is_another_cpu() {
        let vendor = |ebx| CpuidEntry {
            ebx,
            ..CpuidEntry::default()
        };
        assert_eq!(lacking(&[vendor(1)], &[vendor(2)]), ["the CPU's vendor"]);
    }
}
