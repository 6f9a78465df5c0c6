//! The standard events: what the generic tables of a guest's driver have beside the
//! architectural events.
//!
//! A program asks for `stalled-cycles-frontend` or `L1-dcache-loads`, and the driver
//! has a table with the code of its CPU for it. The table's code is all that a PMU
//! sees. Here it is turned back into the name, which a host's kernel turns into the
//! code of its own CPU.

use core::fmt;

use super::event::RawEvent;
use super::regs::AmdEventSel;

/// An event of the driver's tables that is not architectural: by the names that
/// Linux gives them in `PERF_TYPE_HARDWARE` and `PERF_TYPE_HW_CACHE`.
///
/// # Examples
/// ```
/// use vpmu::x86::regs::AmdEventSel;
/// use vpmu::x86::standard::StandardEvent;
///
/// let sel = AmdEventSel::from_bits(0x53_0040);
/// let event = StandardEvent::from_amd_event_sel(sel).unwrap();
/// assert_eq!(event.name(), "L1-dcache-loads");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum StandardEvent {
    /// Cycles in which the front end delivers nothing.
    StalledFrontend = 0,
    /// Cycles in which the back end takes nothing.
    StalledBackend = 1,
    /// Accesses of the first data cache.
    L1dLoads = 2,
    /// Misses of the first data cache.
    L1dLoadMisses = 3,
    /// Fills of the first data cache by the prefetcher.
    L1dPrefetches = 4,
    /// Accesses of the first instruction cache.
    L1iLoads = 5,
    /// Misses of the first instruction cache.
    L1iLoadMisses = 6,
    /// Accesses of the TLB for data.
    DtlbLoads = 7,
    /// Page walks for data.
    DtlbLoadMisses = 8,
    /// Accesses of the TLB for instructions.
    ItlbLoads = 9,
    /// Page walks for instructions.
    ItlbLoadMisses = 10,
}

impl StandardEvent {
    /// All of them, by number.
    pub const ALL: [Self; 11] = [
        Self::StalledFrontend,
        Self::StalledBackend,
        Self::L1dLoads,
        Self::L1dLoadMisses,
        Self::L1dPrefetches,
        Self::L1iLoads,
        Self::L1iLoadMisses,
        Self::DtlbLoads,
        Self::DtlbLoadMisses,
        Self::ItlbLoads,
        Self::ItlbLoadMisses,
    ];

    /// The codes of AMD's CPUs of family 17h or later, as drivers of Linux since
    /// 5.2 have them (guest-contract §3.1). Of several for one event the first is
    /// that of the newest driver that has it; stalls have other codes before Zen 2,
    /// and misses of the instruction cache another one before Linux 7.
    const AMD: [(u64, Self); 13] = [
        (0x00a9, Self::StalledFrontend),
        (0x0287, Self::StalledFrontend),
        (0x0187, Self::StalledBackend),
        (0x0040, Self::L1dLoads),
        (0xc860, Self::L1dLoadMisses),
        (0xff5a, Self::L1dPrefetches),
        (0x0080, Self::L1iLoads),
        (0x1060, Self::L1iLoadMisses),
        (0x0081, Self::L1iLoadMisses),
        (0xff45, Self::DtlbLoads),
        (0xf045, Self::DtlbLoadMisses),
        (0x0084, Self::ItlbLoads),
        (0xff85, Self::ItlbLoadMisses),
    ];

    /// Its codes on AMD's CPUs.
    pub fn amd_codes(self) -> impl Iterator<Item = RawEvent> {
        let mine = Self::AMD
            .into_iter()
            .filter(move |(_, event)| *event == self);
        mine.map(|(code, _)| RawEvent::of_event_sel(code))
    }

    /// The event that an AMD event select chooses. `None` if it is none of these, or
    /// has edge, invert or counter mask, which change what is counted.
    #[must_use]
    pub fn from_amd_event_sel(sel: AmdEventSel) -> Option<Self> {
        if sel.edge() || sel.inv() || sel.cmask() != 0 {
            return None;
        }
        let code = RawEvent::of_event_sel(sel.into_bits()).config();
        let found = Self::AMD.iter().find(|(of_table, _)| *of_table == code);
        found.map(|(_, event)| *event)
    }

    /// The event of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }

    /// What `perf list` calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StalledFrontend => "stalled-cycles-frontend",
            Self::StalledBackend => "stalled-cycles-backend",
            Self::L1dLoads => "L1-dcache-loads",
            Self::L1dLoadMisses => "L1-dcache-load-misses",
            Self::L1dPrefetches => "L1-dcache-prefetches",
            Self::L1iLoads => "L1-icache-loads",
            Self::L1iLoadMisses => "L1-icache-load-misses",
            Self::DtlbLoads => "dTLB-loads",
            Self::DtlbLoadMisses => "dTLB-load-misses",
            Self::ItlbLoads => "iTLB-loads",
            Self::ItlbLoadMisses => "iTLB-load-misses",
        }
    }
}

impl fmt::Display for StandardEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of standard events, such as those that a host counts.
///
/// # Examples
/// ```
/// use vpmu::x86::standard::{StandardEvent, StandardSet};
///
/// let set: StandardSet = [StandardEvent::L1dLoads].into_iter().collect();
/// assert!(set.contains(StandardEvent::L1dLoads));
/// assert_eq!(StandardSet::ALL.without(set).count(), 10);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandardSet(u16);

impl StandardSet {
    /// No event.
    pub const EMPTY: Self = Self(0);
    /// All events of [`StandardEvent::ALL`].
    pub const ALL: Self = Self((1 << StandardEvent::ALL.len()) - 1);
    /// What a plain `perf stat`, `-d` and `-d -d` of an AMD guest open beside
    /// architectural events (guest-contract §3.1). Drivers of Linux before 6.9 open
    /// `stalled-cycles-backend` on any AMD CPU, later ones on a Zen 1.
    pub const AMD_DETAILED: Self = Self::ALL.minus(StandardEvent::L1dPrefetches);

    /// A bit for each event, by its number.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The set of these bits; `None` if there is one without an event.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// The set with `event` in it.
    #[must_use]
    pub const fn with(self, event: StandardEvent) -> Self {
        Self(self.0 | 1 << event as u8)
    }

    const fn minus(self, event: StandardEvent) -> Self {
        Self(self.0 & !(1 << event as u8))
    }

    /// Whether `event` is in the set.
    #[must_use]
    pub const fn contains(self, event: StandardEvent) -> bool {
        self.0 >> event as u8 & 1 == 1
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The events of this set that `other` lacks.
    pub fn without(self, other: Self) -> impl Iterator<Item = StandardEvent> {
        Self(self.0 & !other.0).iter()
    }

    /// The events, by number.
    pub fn iter(self) -> impl Iterator<Item = StandardEvent> {
        StandardEvent::ALL
            .into_iter()
            .filter(move |event| self.contains(*event))
    }
}

impl FromIterator<StandardEvent> for StandardSet {
    fn from_iter<I: IntoIterator<Item = StandardEvent>>(events: I) -> Self {
        events.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::event::ArchEvent;

    /// guest-contract §3.1: the driver's codes, family 17h and later.
    #[test]
    fn amd_event_selects_name_the_events_of_the_tables() {
        for (code, name) in [
            (0x0287, "stalled-cycles-frontend"),
            (0x00a9, "stalled-cycles-frontend"),
            (0x0187, "stalled-cycles-backend"),
            (0x0040, "L1-dcache-loads"),
            (0xc860, "L1-dcache-load-misses"),
            (0xff5a, "L1-dcache-prefetches"),
            (0x0080, "L1-icache-loads"),
            (0x0081, "L1-icache-load-misses"),
            (0x1060, "L1-icache-load-misses"),
            (0xff45, "dTLB-loads"),
            (0xf045, "dTLB-load-misses"),
            (0x0084, "iTLB-loads"),
            (0xff85, "iTLB-load-misses"),
        ] {
            let sel = AmdEventSel::from_bits(code | 0x53_0000);
            let event = StandardEvent::from_amd_event_sel(sel).unwrap();
            assert_eq!(event.name(), name, "{code:#x}");
            assert_eq!(StandardEvent::from_name(name), Some(event));
            assert!(event.amd_codes().any(|raw| raw.config() == code), "{name}");
            for other in [sel.with_cmask(1), sel.with_edge(true), sel.with_inv(true)] {
                assert_eq!(StandardEvent::from_amd_event_sel(other), None, "{code:#x}");
            }
            assert_eq!(ArchEvent::from_amd_event_sel(sel), None, "in one table");
        }
        for code in [0x0076, 0x00c0, 0x81d0, 0x1_0000_0040] {
            let sel = AmdEventSel::from_bits(code | 0x53_0000);
            assert_eq!(StandardEvent::from_amd_event_sel(sel), None, "{code:#x}");
        }
    }

    #[test]
    fn a_set_has_a_bit_for_each_event() {
        for (number, event) in StandardEvent::ALL.into_iter().enumerate() {
            let set = StandardSet::EMPTY.with(event);
            assert_eq!(set.bits(), 1 << number);
            assert_eq!(StandardSet::from_bits(set.bits()), Some(set));
            assert!(set.iter().eq([event]));
        }
        assert_eq!(StandardSet::from_bits(1 << 11), None);
        let beside = StandardSet::ALL.without(StandardSet::AMD_DETAILED);
        assert!(
            beside.eq([StandardEvent::L1dPrefetches]),
            "perf stat -d -d -d"
        );
    }
}
