//! What RDPMC takes as an index, and that a real RDMSR of the same number is none.
//! guest-contract §1.4 (RDPMC), §3.2, §5.5, §8 (0x0, 0x20000000, 0x40000000);
//! rules G-103, G-503.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::{Counters, Kind};
use guest_tests::cpu::{self, Gp, rdmsr_checked, wrmsr};
use guest_tests::pmu::{self, Leaf0A};
use guest_tests::{check, payload};

payload!(main);

/// PERF_METRICS, of a hybrid core alone.
const METRICS: u32 = 0x2000_0000;
/// AMD: the first DF and L3 counters, as long as there are none. Not 10H: at a
/// rewritten site that is KVM's TSC (guest-contract §3.2).
const AMD_OTHERS: [u32; 4] = [6, 9, 10, 15];
/// A way to read a counter by RDPMC.
type Reader = fn(u32) -> Result<u64, Gp>;
/// The two sites.
const READERS: [(&str, Reader); 2] = [
    ("plain", cpu::rdpmc_checked),
    ("with NOP", cpu::rdpmc_nop_checked),
];

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    counters.clear();
    let fixed = if counters.kind == Kind::Intel {
        Leaf0A::read().fixed
    } else {
        0
    };
    for (site, read) in READERS {
        for i in 0..counters.number {
            let value = 0x1234_5600 + u64::from(i);
            wrmsr(counters.counter(i), value);
            check!(report, "G-503", read(i), Ok(value), "RDPMC {site}: {i}");
        }
        for i in 0..fixed {
            wrmsr(pmu::FIXED + i, 0x6543_2100 + u64::from(i));
            let index = pmu::RDPMC_FIXED | i;
            let value = Ok(0x6543_2100 + u64::from(i));
            check!(
                report,
                "G-503",
                read(index),
                value,
                "RDPMC {site}: {index:#x}"
            );
        }
        let others = [
            counters.number,
            METRICS,
            METRICS | 1,
            pmu::RDPMC_FIXED | fixed,
            pmu::RDPMC_FIXED | 0xf,
            1 << 31,
            u32::MAX,
        ];
        for index in others.into_iter().chain(AMD_OTHERS) {
            if index < counters.number {
                continue;
            }
            check!(
                report,
                "G-503",
                read(index),
                Err(Gp),
                "RDPMC {site}: {index:#x}"
            );
        }
    }
    real_rdmsr(report);
}

/// RDMSR elsewhere than at a rewritten RDPMC.
fn real_rdmsr(report: &mut Report) {
    for (msr, expected) in [
        (0, Ok(0)),
        (1, Ok(0)),
        (2, Err(Gp)),
        (0xf, Err(Gp)),
        (METRICS, Err(Gp)),
        (pmu::RDPMC_FIXED, Err(Gp)),
        (pmu::RDPMC_FIXED | 0xf, Err(Gp)),
    ] {
        let read = rdmsr_checked(msr);
        check!(report, "G-503", read, expected, "a real RDMSR of {msr:#x}");
    }
}
