//! Names of the architectural PMU, and what CPUID says of it.

use crate::check::Report;
use crate::{check, cpu};

/// IA32_PMC0: legacy access to GP counter 0.
pub const PMC: u32 = 0xc1;
/// IA32_PERFEVTSEL0.
pub const EVENT_SELECT: u32 = 0x186;
/// IA32_FIXED_CTR0.
pub const FIXED: u32 = 0x309;
/// IA32_PERF_CAPABILITIES.
pub const CAPABILITIES: u32 = 0x345;
/// IA32_FIXED_CTR_CTRL.
pub const FIXED_CONTROL: u32 = 0x38d;
/// IA32_PERF_GLOBAL_STATUS.
pub const GLOBAL_STATUS: u32 = 0x38e;
/// IA32_PERF_GLOBAL_CTRL.
pub const GLOBAL_CONTROL: u32 = 0x38f;
/// IA32_PERF_GLOBAL_OVF_CTRL.
pub const GLOBAL_OVERFLOW: u32 = 0x390;
/// IA32_PERF_GLOBAL_STATUS_SET.
pub const GLOBAL_STATUS_SET: u32 = 0x391;
/// IA32_PERF_GLOBAL_INUSE.
pub const GLOBAL_INUSE: u32 = 0x392;
/// IA32_DEBUGCTL.
pub const DEBUG_CONTROL: u32 = 0x1d9;
/// IA32_A_PMC0: full-width access to GP counter 0.
pub const FULL_PMC: u32 = 0x4c1;
/// RDPMC index of fixed counter 0.
pub const RDPMC_FIXED: u32 = 0x4000_0000;

/// Event select: cycles not halted, in user and kernel mode, EN clear.
pub const CYCLES: u64 = 0x3_003c;
/// Event select: INT.
pub const INT: u64 = 1 << 20;
/// Event select: EN.
pub const EN: u64 = 1 << 22;
/// Fixed control of counter 1 (cycles): user and kernel mode.
pub const FIXED1_ON: u64 = 0x30;
/// The bit of GP counter 0 in the global registers.
pub const GP0: u64 = 1;
/// The bit of fixed counter 1 in the global registers.
pub const FIXED1: u64 = 1 << 33;

/// TSC ticks after which a counter that should have moved has failed.
pub const PATIENCE: u64 = 1 << 32;

/// CPUID leaf 0AH. Intel SDM vol. 2A, "CPUID".
#[derive(Debug, Clone, Copy)]
pub struct Leaf0A {
    /// Version of architectural performance monitoring.
    pub version: u32,
    /// General-purpose counters.
    pub gp: u32,
    /// Their width in bits.
    pub width: u32,
    /// Length of the event bitmap.
    pub events: u32,
    /// A set bit n: architectural event n is absent.
    pub absent: u32,
    /// Fixed counters, `EDX[4:0]`.
    pub fixed: u32,
    /// Their width in bits.
    pub fixed_width: u32,
}

impl Leaf0A {
    /// Reads the leaf; all zero where the CPU does not have it.
    #[must_use]
    pub fn read() -> Self {
        let leaf = if cpu::cpuid(0, 0).eax < 0xa {
            core::arch::x86_64::CpuidResult {
                eax: 0,
                ebx: 0,
                ecx: 0,
                edx: 0,
            }
        } else {
            cpu::cpuid(0xa, 0)
        };
        Self {
            version: leaf.eax & 0xff,
            gp: leaf.eax >> 8 & 0xff,
            width: leaf.eax >> 16 & 0xff,
            events: leaf.eax >> 24,
            absent: leaf.ebx,
            fixed: leaf.edx & 0x1f,
            fixed_width: leaf.edx >> 5 & 0xff,
        }
    }

    /// Reads the leaf of a CPU that has the global registers, which is the first check
    /// of a payload that needs them.
    #[must_use]
    pub fn with_global_registers(report: &mut Report) -> Option<Self> {
        let leaf = Self::read();
        check!(
            report,
            "s0",
            leaf.version >= 2,
            true,
            "leaf 0AH version {} has global registers",
            leaf.version
        )
        .then_some(leaf)
    }

    /// The bits of all GP counters in the global registers.
    #[must_use]
    pub fn gp_mask(self) -> u64 {
        low_bits(self.gp)
    }

    /// The bits of all fixed counters in the global registers.
    #[must_use]
    pub fn fixed_mask(self) -> u64 {
        low_bits(self.fixed) << 32
    }

    /// The largest value of a counter.
    #[must_use]
    pub fn max_count(self) -> u64 {
        low_bits(self.width)
    }
}

/// A mask of the `count` lowest bits.
#[must_use]
pub fn low_bits(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

/// A part of a wait. A guest that spins with interrupts off and never leaves guest mode gets
/// a host in Bochs 2.7 to stand still (`resources/README.md`): PAUSE leaves it now and then,
/// if one comes at most 128 ticks after the other, which is KVM's `ple_gap`.
fn wait() {
    for _ in 0..5 {
        cpu::spin(20);
        core::hint::spin_loop();
    }
}

/// Spins until `done` or the end of [`PATIENCE`]; says whether it was done.
pub fn spin_until(mut done: impl FnMut() -> bool) -> bool {
    let start = cpu::rdtsc();
    loop {
        if done() {
            return true;
        }
        if cpu::rdtsc().wrapping_sub(start) > PATIENCE {
            return false;
        }
        wait();
    }
}

/// Spins for at least `ticks` of the TSC.
pub fn spin_for(ticks: u64) {
    let start = cpu::rdtsc();
    while cpu::rdtsc().wrapping_sub(start) < ticks {
        wait();
    }
}
