//! Where nothing serves RDPMC (`--pmu rdpmc=off`), CPUID shows no PMU.
//! guest-contract §5.4; rule G-501.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::cpuid;
use guest_tests::pmu::Leaf0A;
use guest_tests::{check, payload};

payload!(main);

fn main(report: &mut Report) {
    let version = Leaf0A::read().version;
    check!(report, "G-501", version, 0, "version of leaf 0AH");
    let core = cpuid(0x8000_0001, 0).ecx >> 23 & 1;
    check!(report, "G-501", core, 0, "PERFCTR_CORE");
    let has_leaf = cpuid(0x8000_0000, 0).eax >= 0x8000_0022;
    let v2 = cpuid(0x8000_0022, 0).eax & u32::from(has_leaf);
    check!(report, "G-501", v2, 0, "PerfMonV2");
    let pdcm = cpuid(1, 0).ecx >> 15 & 1;
    check!(report, "G-501", pdcm, 0, "PDCM");
}
