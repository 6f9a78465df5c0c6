//! The general-purpose counters of whichever PMU CPUID tells of, as cycle
//! counters: one way to use all of them, for what does not depend on the model.

use crate::cpu::{cpuid, rdmsr, wrmsr};
use crate::pmu::{self, EN, INT, Leaf0A, low_bits};

/// AMD's legacy selects; its counters are four further.
pub const AMD_LEGACY: u32 = 0xc001_0000;
/// AMD's selects with PERFCTR_CORE, each followed by its counter.
pub const AMD_CORE: u32 = 0xc001_0200;
/// AMD PerfCntrGlobalStatus.
pub const AMD_STATUS: u32 = 0xc000_0300;
/// AMD PerfCntrGlobalCtl.
pub const AMD_CONTROL: u32 = 0xc000_0301;
/// AMD PerfCntrGlobalStatusClr.
pub const AMD_CLEAR: u32 = 0xc000_0302;
/// AMD PerfCntrGlobalStatusSet.
pub const AMD_SET: u32 = 0xc000_0303;
/// AMD's event select: cycles not halted, in user and kernel mode, EN clear.
const AMD_CYCLES: u64 = 0x3_0076;

/// Which registers a PMU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Intel, version 1: no global registers.
    IntelV1,
    /// Intel, version 2 and later.
    Intel,
    /// AMD without PERFCTR_CORE.
    AmdK7,
    /// AMD with PERFCTR_CORE.
    AmdCore,
    /// AMD with PerfMonV2.
    AmdV2,
}

/// The counters of one PMU.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Whose.
    pub kind: Kind,
    /// How many.
    pub number: u32,
    /// Bits of each.
    pub width: u32,
}

/// Whether CPUID says AuthenticAMD.
#[must_use]
pub fn is_amd() -> bool {
    cpuid(0, 0).ebx == u32::from_le_bytes(*b"Auth")
}

impl Counters {
    /// What CPUID says; `None` without a PMU.
    #[must_use]
    pub fn find() -> Option<Self> {
        if is_amd() {
            return Some(Self::find_amd());
        }
        let leaf = Leaf0A::read();
        let kind = match leaf.version {
            0 => return None,
            1 => Kind::IntelV1,
            _ => Kind::Intel,
        };
        Some(Self {
            kind,
            number: leaf.gp,
            width: leaf.width,
        })
    }

    fn find_amd() -> Self {
        let core = cpuid(0x8000_0001, 0).ecx >> 23 & 1 == 1;
        let has_leaf = cpuid(0x8000_0000, 0).eax >= 0x8000_0022;
        let v2 = core && has_leaf && cpuid(0x8000_0022, 0).eax & 1 == 1;
        let (kind, number) = match (core, v2) {
            (_, true) => (Kind::AmdV2, 6),
            (true, false) => (Kind::AmdCore, 6),
            (false, false) => (Kind::AmdK7, 4),
        };
        Self {
            kind,
            number,
            width: 48,
        }
    }

    /// Whether it is AMD's.
    #[must_use]
    pub fn is_amd(self) -> bool {
        !matches!(self.kind, Kind::IntelV1 | Kind::Intel)
    }

    /// Whether there are a global control and a status.
    #[must_use]
    pub fn has_globals(self) -> bool {
        matches!(self.kind, Kind::Intel | Kind::AmdV2)
    }

    /// The event select of counter `i`.
    #[must_use]
    pub fn select(self, i: u32) -> u32 {
        match self.kind {
            Kind::IntelV1 | Kind::Intel => pmu::EVENT_SELECT + i,
            Kind::AmdK7 => AMD_LEGACY + i,
            Kind::AmdCore | Kind::AmdV2 => AMD_CORE + 2 * i,
        }
    }

    /// Counter `i`, at its widest address.
    #[must_use]
    pub fn counter(self, i: u32) -> u32 {
        match self.kind {
            Kind::IntelV1 => pmu::PMC + i,
            Kind::Intel => pmu::FULL_PMC + i,
            Kind::AmdK7 => AMD_LEGACY + 4 + i,
            Kind::AmdCore | Kind::AmdV2 => AMD_CORE + 2 * i + 1,
        }
    }

    /// The value of counter `i`.
    #[must_use]
    pub fn value(self, i: u32) -> u64 {
        rdmsr(self.counter(i))
    }

    /// The event select for cycles, EN clear.
    #[must_use]
    pub fn cycles(self) -> u64 {
        if self.is_amd() {
            AMD_CYCLES
        } else {
            pmu::CYCLES
        }
    }

    /// Gives counter `i` at most 2^31 cycles to its wrap, and enables it with
    /// `flags` (INT). It runs when [`Self::run`] lets it: at once without a
    /// global control.
    pub fn load(self, i: u32, left: u64, flags: u64) {
        wrmsr(self.counter(i), left.wrapping_neg() & low_bits(self.width));
        wrmsr(self.select(i), self.cycles() | EN | flags);
    }

    /// Lets the counters of `mask` run, if there is a global control.
    pub fn run(self, mask: u64) {
        match self.kind {
            Kind::Intel => wrmsr(pmu::GLOBAL_CONTROL, mask),
            Kind::AmdV2 => wrmsr(AMD_CONTROL, mask),
            _ => {}
        }
    }

    /// [`Self::load`], and it alone runs.
    pub fn start(self, i: u32, left: u64, flags: u64) {
        self.stop();
        self.load(i, left, flags);
        self.run(1 << i);
    }

    /// Stops all, as a driver's handler does.
    pub fn stop(self) {
        if self.has_globals() {
            return self.run(0);
        }
        for i in 0..self.number {
            let select = rdmsr(self.select(i));
            if select & EN != 0 {
                wrmsr(self.select(i), select & !EN);
            }
        }
    }

    /// Stops and empties all; no status is left.
    pub fn clear(self) {
        self.stop();
        self.acknowledge(low_bits(self.number));
        for i in 0..self.number {
            wrmsr(self.select(i), 0);
            wrmsr(self.counter(i), 0);
        }
    }

    /// Bits of the counters that wrapped: the status; without one, those with INT
    /// whose highest bit is clear, as drivers tell it.
    #[must_use]
    pub fn overflowed(self) -> u64 {
        match self.kind {
            Kind::Intel => rdmsr(pmu::GLOBAL_STATUS),
            Kind::AmdV2 => rdmsr(AMD_STATUS),
            _ => (0..self.number).fold(0, |bits, i| {
                let asks = rdmsr(self.select(i)) & INT != 0;
                let is_low = self.value(i) >> (self.width - 1) == 0;
                bits | u64::from(asks && is_low) << i
            }),
        }
    }

    /// Clears status bits; without a status, gives these counters 2^31 to go.
    pub fn acknowledge(self, bits: u64) {
        match self.kind {
            Kind::Intel => wrmsr(pmu::GLOBAL_OVERFLOW, bits),
            // As Linux: with ones in all reserved bits (G-302).
            Kind::AmdV2 => wrmsr(AMD_CLEAR, !low_bits(self.number) | bits),
            _ => {
                for i in (0..self.number).filter(|i| bits >> i & 1 == 1) {
                    let left = 1_u64 << 31;
                    wrmsr(self.counter(i), left.wrapping_neg() & low_bits(self.width));
                }
            }
        }
    }
}
