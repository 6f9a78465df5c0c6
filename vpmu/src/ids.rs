//! Numbers that name things. Each is its own type, so that a vCPU number is
//! never compared with a host CPU number, nor an MSR with a counter.

use core::fmt;

/// A virtual CPU of one VM: 0 is the boot CPU.
///
/// # Examples
/// ```
/// use vpmu::ids::VcpuId;
///
/// assert_eq!(VcpuId(3).to_string(), "3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u16);

/// A CPU of the host, as numbered in `/sys/devices/system/cpu`.
///
/// # Examples
/// ```
/// use vpmu::ids::HostCpu;
///
/// assert!(HostCpu(0) < HostCpu(15));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostCpu(pub u32);

/// The index of a model-specific register (ECX of RDMSR and WRMSR).
///
/// # Examples
/// ```
/// use vpmu::ids::MsrIndex;
/// use vpmu::x86::msr::GLOBAL_CTRL;
///
/// assert_eq!(GLOBAL_CTRL, MsrIndex(0x38f));
/// assert_eq!(GLOBAL_CTRL.to_string(), "0x38f");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MsrIndex(pub u32);

impl fmt::Debug for MsrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MSR {:#x}", self.0)
    }
}

impl fmt::Display for MsrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a PMU: `perf_event_attr.type` names the PMU of an event by it, and
/// so does the upper half of `config` of a generic event on a hybrid machine. The
/// scheduler numbers its PMUs like this, and so does the host in
/// `/sys/bus/event_source/devices/*/type`. Linux: `pmu->type`.
///
/// # Examples
/// ```
/// use vpmu::ids::PmuType;
///
/// // The first type that sysfs can give to a PMU without a fixed one.
/// assert_eq!(PmuType::FIRST_DYNAMIC, PmuType(6));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PmuType(pub u32);

impl PmuType {
    /// Generic hardware events; owned by no PMU.
    pub const HARDWARE: Self = Self(0);
    /// Software events.
    pub const SOFTWARE: Self = Self(1);
    /// Tracepoints.
    pub const TRACEPOINT: Self = Self(2);
    /// Generic cache events; owned by no PMU.
    pub const HW_CACHE: Self = Self(3);
    /// Raw events of the core PMU (on a hybrid machine: of the P cores).
    pub const RAW: Self = Self(4);
    /// Hardware breakpoints.
    pub const BREAKPOINT: Self = Self(5);
    /// The first type that dynamic registration may hand out.
    pub const FIRST_DYNAMIC: Self = Self(6);
}

/// A counter of the guest's PMU, numbered by its bit in IA32_PERF_GLOBAL_CTRL:
/// general-purpose counter *i* is bit *i*, fixed counter *i* is bit 32 + *i*.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 2".
///
/// # Examples
/// ```
/// use vpmu::ids::Pmc;
///
/// assert_eq!(Pmc::gp(3).map(|pmc| pmc.to_string()).as_deref(), Some("gp3"));
/// assert_eq!(Pmc::fixed(1).and_then(Pmc::fixed_number), Some(1));
/// assert_eq!(Pmc::gp(8), None, "there are eight at most");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pmc(u8);

impl Pmc {
    /// The most general-purpose counters that a guest PMU may have.
    pub const MAX_GP: u8 = 8;
    /// The most fixed counters that a guest PMU may have.
    pub const MAX_FIXED: u8 = 4;
    /// How many different values [`Pmc::slot`] takes.
    pub const SLOTS: usize = (Self::MAX_GP + Self::MAX_FIXED) as usize;
    const FIXED_BASE: u8 = 32;

    /// General-purpose counter `i`; `None` from [`Pmc::MAX_GP`] on.
    #[must_use]
    pub const fn gp(i: u8) -> Option<Self> {
        if i < Self::MAX_GP {
            Some(Self(i))
        } else {
            None
        }
    }

    /// Fixed counter `i`; `None` from [`Pmc::MAX_FIXED`] on.
    #[must_use]
    pub const fn fixed(i: u8) -> Option<Self> {
        if i < Self::MAX_FIXED {
            Some(Self(Self::FIXED_BASE + i))
        } else {
            None
        }
    }

    /// The counter's number among the fixed ones, if it is one.
    #[must_use]
    pub const fn fixed_number(self) -> Option<u8> {
        self.0.checked_sub(Self::FIXED_BASE)
    }

    /// A dense number in `0..SLOTS`, for arrays: first the general-purpose
    /// counters, then the fixed ones.
    #[must_use]
    pub const fn slot(self) -> usize {
        match self.fixed_number() {
            Some(i) => (Self::MAX_GP + i) as usize,
            None => self.0 as usize,
        }
    }
}

impl fmt::Debug for Pmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Pmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fixed_number() {
            Some(i) => write!(f, "fixed{i}"),
            None => write!(f, "gp{}", self.0),
        }
    }
}

/// A monitor of a vCPU: an event that an operator attached, beside the guest's
/// counters.
///
/// # Examples
/// ```
/// use vpmu::ids::MonitorId;
///
/// assert_eq!(MonitorId::all().count(), usize::from(MonitorId::MAX));
/// assert_eq!(MonitorId::new(MonitorId::MAX), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorId(u8);

impl MonitorId {
    /// The most monitors that a vCPU may have.
    pub const MAX: u8 = 8;

    /// Monitor `i`; `None` from [`MonitorId::MAX`] on.
    #[must_use]
    pub const fn new(i: u8) -> Option<Self> {
        if i < Self::MAX { Some(Self(i)) } else { None }
    }

    /// All there can be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::MAX).map(Self)
    }

    /// Its number, for arrays of monitors.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for MonitorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of counters, laid out as IA32_PERF_GLOBAL_CTRL.
///
/// # Examples
/// ```
/// use vpmu::ids::{Pmc, PmcSet};
///
/// let mut set = PmcSet::first(4, 3);
/// assert_eq!(set.len(), 7);
/// set.remove(Pmc::gp(0).unwrap());
/// assert!(set.iter().all(|pmc| pmc != Pmc::gp(0).unwrap()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PmcSet(pub u64);

impl PmcSet {
    /// No counter.
    pub const EMPTY: Self = Self(0);

    /// The first `gp` general-purpose and the first `fixed` fixed counters.
    /// Numbers above the maxima of [`Pmc`] count as the maxima.
    #[must_use]
    pub const fn first(gp: u8, fixed: u8) -> Self {
        let gp = if gp > Pmc::MAX_GP { Pmc::MAX_GP } else { gp };
        let fixed = if fixed > Pmc::MAX_FIXED {
            Pmc::MAX_FIXED
        } else {
            fixed
        };
        Self(((1 << gp) - 1) | (((1 << fixed) - 1) << Pmc::FIXED_BASE))
    }

    /// The first `gp` general-purpose counters and the fixed counters whose
    /// bits are set in `fixed`.
    #[must_use]
    pub const fn with_fixed_bitmap(gp: u8, fixed: u8) -> Self {
        let known = Self::first(0, Pmc::MAX_FIXED).0;
        Self(Self::first(gp, 0).0 | ((fixed as u64) << Pmc::FIXED_BASE) & known)
    }

    /// The counters whose bits are set in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The counters of this set that the other does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether `pmc` is in the set.
    #[must_use]
    pub const fn contains(self, pmc: Pmc) -> bool {
        self.0 & (1 << pmc.0) != 0
    }

    /// How many counters the set has. Bits that are no counter of [`Pmc`] do
    /// not count.
    #[must_use]
    pub const fn len(self) -> u8 {
        let known = Self::first(Pmc::MAX_GP, Pmc::MAX_FIXED);
        #[expect(clippy::cast_possible_truncation, reason = "64 at most")]
        {
            self.and(known).0.count_ones() as u8
        }
    }

    /// Whether the set has no counter.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds `pmc`.
    pub const fn insert(&mut self, pmc: Pmc) {
        self.0 |= 1 << pmc.0;
    }

    /// Takes `pmc` out.
    pub const fn remove(&mut self, pmc: Pmc) {
        self.0 &= !(1 << pmc.0);
    }

    /// The counters of the set, general-purpose ones first, ascending. Bits
    /// that are no counter of [`Pmc`] are passed over.
    pub fn iter(self) -> impl Iterator<Item = Pmc> {
        let known = Self::first(Pmc::MAX_GP, Pmc::MAX_FIXED);
        let mut left = self.and(known).0;
        core::iter::from_fn(move || {
            let bit = u8::try_from(left.trailing_zeros())
                .ok()
                .filter(|b| *b < 64)?;
            left &= left - 1;
            Some(Pmc(bit))
        })
    }
}

impl From<Pmc> for PmcSet {
    fn from(pmc: Pmc) -> Self {
        Self(1 << pmc.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_lists_its_counters_and_passes_over_other_bits() {
        let set = PmcSet(0x8000_0005_0000_0003 | 1 << 48);
        let names: alloc::vec::Vec<_> = set.iter().map(|p| alloc::format!("{p}")).collect();
        assert_eq!(names, ["gp0", "gp1", "fixed0", "fixed2"]);
        assert_eq!(PmcSet::first(4, 3), PmcSet(0x7_0000_000f));
        assert_eq!(Pmc::gp(8), None);
        assert_eq!(Pmc::fixed(3).map(Pmc::slot), Some(Pmc::SLOTS - 1));
    }
}
