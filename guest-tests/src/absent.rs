//! The MSRs of PMUs that a guest may lack, and how it knows that it does
//! (guest-contract §8, §1.5, §6).

use crate::args;
use crate::check::Report;
use crate::counters::is_amd;
use crate::cpu::cpuid;
use crate::pmu::Leaf0A;
use crate::registers::faults;

/// What says that a run of registers is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// No model has it.
    Never,
    /// A GenuineIntel CPU with this version of leaf 0AH, or a later one.
    Version(u32),
    /// An AuthenticAMD CPU.
    Amd,
    /// The bit of leaf, register (0 EAX … 3 EDX).
    Bit(u32, usize, u32),
    /// Any bit of 8000_0022H:ECX.
    Umc,
    /// Nothing in CPUID: `uncore=1` on the command line, and an Intel CPU.
    IntelPower,
}

/// First and last index, what says that they are there, and their name.
#[derive(Debug, Clone, Copy)]
pub struct Run(pub u32, pub u32, pub Sign, pub &'static str);

/// Leaf 8000_0001H:ECX, of AMD.
const fn amd_feature(bit: u32) -> Sign {
    Sign::Bit(0x8000_0001, 2, bit)
}

/// Every run.
pub static TABLE: [Run; 48] = [
    Run(0xc1, 0xc2, Sign::Version(1), "counters"),
    Run(0x186, 0x187, Sign::Version(1), "event selects"),
    Run(0x309, 0x30b, Sign::Version(2), "fixed counters"),
    Run(0x30c, 0x30c, Sign::Never, "fixed counter 3, slots"),
    Run(0x329, 0x329, Sign::Never, "PERF_METRICS"),
    Run(0x345, 0x345, Sign::Version(2), "PERF_CAPABILITIES"),
    Run(0x38d, 0x390, Sign::Version(2), "global registers"),
    Run(0x391, 0x392, Sign::Version(4), "STATUS_SET, INUSE"),
    Run(0x4c1, 0x4c4, Sign::Version(2), "full-width counters"),
    Run(0xe7, 0xe8, Sign::Bit(6, 2, 0), "MPERF, APERF"),
    Run(0x10f, 0x10f, Sign::Bit(7, 3, 13), "TSX_FORCE_ABORT"),
    Run(0x19c, 0x19c, Sign::Bit(6, 0, 0), "THERM_STATUS"),
    Run(0x1a6, 0x1a7, Sign::Never, "OFFCORE_RSP"),
    Run(0x1c8, 0x1c9, Sign::Never, "LBR select, top of stack"),
    Run(0x3f1, 0x3f2, Sign::Never, "PEBS"),
    Run(0x3f6, 0x3f7, Sign::Never, "load latency, front end"),
    Run(0x3f8, 0x3f8, Sign::Never, "C-state residency"),
    Run(0x3fa, 0x3fa, Sign::Never, "C-state residency"),
    Run(0x560, 0x561, Sign::Never, "Intel PT output"),
    Run(0x570, 0x571, Sign::Never, "Intel PT"),
    Run(0x600, 0x600, Sign::Never, "DS_AREA"),
    Run(0x606, 0x606, Sign::IntelPower, "RAPL unit"),
    Run(0x60d, 0x60d, Sign::Never, "C-state residency"),
    Run(0x611, 0x611, Sign::IntelPower, "RAPL, package"),
    Run(0x619, 0x619, Sign::IntelPower, "RAPL, RAM"),
    Run(0x639, 0x639, Sign::IntelPower, "RAPL, PP0"),
    Run(0x641, 0x641, Sign::IntelPower, "RAPL, PP1"),
    Run(0x64d, 0x64d, Sign::IntelPower, "RAPL, platform"),
    Run(0x64e, 0x64e, Sign::Never, "PPERF"),
    Run(0x680, 0x681, Sign::Never, "LBR from"),
    Run(0x6c0, 0x6c1, Sign::Never, "LBR to"),
    Run(0xdc0, 0xdc0, Sign::Never, "LBR info"),
    Run(0x1200, 0x1200, Sign::Bit(7, 3, 19), "arch LBR info"),
    Run(0x1328, 0x1329, Sign::Never, "snoop response"),
    Run(0x14ce, 0x14cf, Sign::Bit(7, 3, 19), "arch LBR"),
    Run(0x1500, 0x1500, Sign::Bit(7, 3, 19), "arch LBR from"),
    Run(0x1600, 0x1600, Sign::Bit(7, 3, 19), "arch LBR to"),
    Run(0x1900, 0x1903, Sign::Never, "version 6 counters"),
    Run(0xc000_00e7, 0xc000_00e8, Sign::Never, "AMD MPERF, APERF"),
    Run(0xc000_00e9, 0xc000_00e9, IRPERF, "AMD IRPERF"),
    Run(0xc000_010e, 0xc000_010f, Sign::Never, "AMD LbrExtV2"),
    Run(0xc000_0300, 0xc000_0303, PERFMON_V2, "AMD PerfMonV2"),
    Run(0xc001_0000, 0xc001_0007, Sign::Amd, "AMD, four counters"),
    Run(0xc001_0200, 0xc001_020b, CORE, "AMD, six counters"),
    Run(0xc001_0230, 0xc001_023b, L3, "AMD L3"),
    Run(0xc001_0240, 0xc001_0247, DF, "AMD DF"),
    Run(0xc001_0299, 0xc001_029b, RAPL, "AMD RAPL"),
    Run(0xc001_0800, 0xc001_087f, Sign::Umc, "AMD UMC"),
];

/// Runs that no model has, of AMD.
pub static NEVER_AMD: [Run; 5] = [
    Run(0xc001_020c, 0xc001_022f, Sign::Never, "AMD, more counters"),
    Run(0xc001_0280, 0xc001_0280, amd_feature(27), "AMD PTSC"),
    Run(0xc001_0300, 0xc001_0301, Sign::Never, "AMD LBR from, to"),
    Run(0xc001_0880, 0xc001_08ff, Sign::Never, "AMD UMC, more"),
    Run(0xc001_1030, 0xc001_103b, amd_feature(10), "AMD IBS"),
];

const CORE: Sign = amd_feature(23);
const DF: Sign = amd_feature(24);
const L3: Sign = amd_feature(28);
const IRPERF: Sign = Sign::Bit(0x8000_0008, 1, 1);
const RAPL: Sign = Sign::Bit(0x8000_0007, 3, 14);
const PERFMON_V2: Sign = Sign::Bit(0x8000_0022, 0, 0);

impl Sign {
    /// Whether the registers are there, as far as the guest can know.
    #[must_use]
    pub fn is_seen(self) -> bool {
        match self {
            Self::Never => false,
            Self::Version(version) => !is_amd() && Leaf0A::read().version >= version,
            Self::Amd => is_amd(),
            Self::Bit(leaf, register, bit) => {
                let of_amd = leaf >> 31 == 1;
                (!of_amd || is_amd())
                    && leaf <= cpuid(leaf & 1 << 31, 0).eax
                    && register_of(leaf, register) >> bit & 1 == 1
            }
            Self::Umc => Self::Bit(0x8000_0022, 0, 0).is_seen() && cpuid(0x8000_0022, 0).ecx != 0,
            Self::IntelPower => !is_amd() && args::number("uncore", 0) == 1,
        }
    }
}

fn register_of(leaf: u32, register: usize) -> u32 {
    let leaf = cpuid(leaf, 0);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx][register & 3]
}

/// Every run of `table` whose sign is not seen gives #GP to any access.
/// Returns how many runs that were.
pub fn check(report: &mut Report, table: &[Run]) -> u32 {
    let mut absent = 0;
    for Run(first, last, sign, name) in table {
        if sign.is_seen() {
            continue;
        }
        absent += 1;
        for msr in *first..=*last {
            faults(report, msr, name);
        }
    }
    absent
}
