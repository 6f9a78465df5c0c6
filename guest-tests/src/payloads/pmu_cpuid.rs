//! What CPUID says of the PMU in the profile `intel-generic` with version 2:
//! guest-contract §0, §1.1, §1.5, §1.6; rules G-002, G-008.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{self, cpuid};
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::{check, payload, println};

payload!(main);

/// A feature bit: rule, leaf, register (0 EAX … 3 EDX), bit, expected, name.
struct Feature(&'static str, u32, usize, u32, bool, &'static str);

const FEATURES: [Feature; 14] = [
    Feature("s1.1", 1, 2, 15, true, "PDCM"),
    Feature("G-008", 1, 2, 31, true, "HYPERVISOR"),
    Feature("s1.5", 1, 2, 2, false, "DTES64"),
    Feature("s1.5", 1, 3, 21, false, "DS"),
    Feature("s1.1", 6, 2, 0, false, "APERF/MPERF"),
    Feature("s1.1", 7, 1, 4, false, "HLE"),
    Feature("s1.1", 7, 1, 11, false, "RTM"),
    Feature("s1.5", 7, 1, 25, false, "Intel PT"),
    Feature("s1.5", 7, 2, 24, false, "bus-lock detection"),
    Feature("s1.5", 7, 3, 13, false, "TSX_FORCE_ABORT"),
    Feature("s1.1", 7, 3, 15, false, "hybrid"),
    Feature("s1.5", 7, 3, 19, false, "arch LBR"),
    Feature("s1.1", 1, 3, 5, true, "MSR"),
    Feature("s1.1", 1, 3, 9, true, "APIC"),
];

fn main(report: &mut Report) {
    identity(report);
    for Feature(rule, leaf, register, bit, expected, name) in FEATURES {
        let leaf_data = cpuid(leaf, 0);
        let registers = [leaf_data.eax, leaf_data.ebx, leaf_data.ecx, leaf_data.edx];
        let value = registers[register];
        check!(
            report,
            rule,
            value >> bit & 1 == 1,
            expected,
            "CPUID {leaf:#x} {name}"
        );
    }
    leaf_0a(report);
    check!(
        report,
        "s1.1",
        cpu::rdmsr_checked(pmu::CAPABILITIES),
        Ok(0x2000),
        "PERF_CAPABILITIES"
    );
    check!(
        report,
        "s1.2",
        cpu::rdmsr(MISC_ENABLE) & 0x1880,
        0x1880,
        "MISC_ENABLE: monitoring, no BTS, no PEBS"
    );
}

const MISC_ENABLE: u32 = 0x1a0;

/// Vendor, family, model and the KVM signature.
fn identity(report: &mut Report) {
    let first = cpuid(0, 0);
    check!(
        report,
        "s0",
        [first.ebx, first.edx, first.ecx],
        words(b"GenuineIntel"),
        "vendor"
    );
    check!(
        report,
        "s1.1",
        first.eax >= 0xa,
        true,
        "highest leaf {:#x} includes 0AH",
        first.eax
    );
    let signature = cpuid(1, 0).eax;
    let family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
    let model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
    check!(report, "s0", family, 6, "family");
    check!(report, "s1.6", model, 0x66, "model");
    let kvm = cpuid(0x4000_0000, 0);
    check!(
        report,
        "G-008",
        [kvm.ebx, kvm.ecx, kvm.edx],
        words(b"KVMKVMKVM\0\0\0"),
        "KVM signature"
    );
}

fn leaf_0a(report: &mut Report) {
    let leaf = Leaf0A::read();
    println!("{leaf:x?} (hex)");
    check!(report, "s1.1", leaf.version, 2, "0AH version");
    check!(
        report,
        "s1.1",
        (4..=8).contains(&leaf.gp),
        true,
        "0AH GP counters {} in 4..8",
        leaf.gp
    );
    check!(report, "s1.1", leaf.width, 48, "0AH GP width");
    check!(
        report,
        "s1.1",
        leaf.events,
        7,
        "0AH length of the event bitmap"
    );
    check!(
        report,
        "s1.1",
        leaf.absent >> 7,
        0,
        "0AH event bits beyond the seventh"
    );
    check!(report, "G-101", leaf.absent & 1, 0, "0AH cycles absent");
    check!(report, "G-002", leaf.fixed, 3, "0AH fixed counters");
    check!(report, "s1.1", leaf.fixed_width, 48, "0AH fixed width");
}

/// Twelve letters as the three registers that hold them.
fn words(text: &[u8; 12]) -> [u32; 3] {
    core::array::from_fn(|i| u32::from_le_bytes(core::array::from_fn(|j| text[4 * i + j])))
}
