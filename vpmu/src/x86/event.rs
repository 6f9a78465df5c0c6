//! The architectural events: the ones that mean the same on every CPU.

use super::cpuid::Vendor;
use super::regs::{AmdEventSel, EventSel};

/// A pre-defined architectural event, or the reference clock that only fixed
/// counter 2 counts.
///
/// SDM vol. 3B, "Pre-defined Architectural Performance Events".
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Vendor;
/// use vpmu::x86::event::ArchEvent;
/// use vpmu::x86::regs::EventSel;
///
/// let sel = EventSel::from_bits(0x00c4); // branches
/// let event = ArchEvent::from_event_sel(sel).unwrap();
/// assert_eq!(event.name(), "branches");
/// assert_eq!(event.code(Vendor::Intel).map(|code| code.config()), Some(0x00c4));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ArchEvent {
    /// Unhalted core cycles: 003c, fixed counter 1.
    Cycles = 0,
    /// Instructions retired: 00c0, fixed counter 0.
    Instructions = 1,
    /// Unhalted reference cycles at bus frequency: 013c. Linux: `bus-cycles`.
    BusCycles = 2,
    /// Last-level cache references: 4f2e.
    LlcReferences = 3,
    /// Last-level cache misses: 412e.
    LlcMisses = 4,
    /// Branch instructions retired: 00c4.
    Branches = 5,
    /// Mispredicted branches retired: 00c5.
    BranchMisses = 6,
    /// Unhalted reference cycles at TSC frequency: fixed counter 2 alone.
    /// Linux: `ref-cycles`, pseudo code 0300.
    RefTsc = 7,
}

impl ArchEvent {
    /// All of them, in the order of their bits in CPUID.0AH:EBX, `RefTsc` last.
    pub const ALL: [Self; 8] = [
        Self::Cycles,
        Self::Instructions,
        Self::BusCycles,
        Self::LlcReferences,
        Self::LlcMisses,
        Self::Branches,
        Self::BranchMisses,
        Self::RefTsc,
    ];

    /// Intel's codes. The last one is Linux's and no CPU's: what fixed counter 2
    /// counts has no code on a general-purpose counter.
    const INTEL: [(u64, Self); 8] = [
        (0x003c, Self::Cycles),
        (0x00c0, Self::Instructions),
        (0x013c, Self::BusCycles),
        (0x4f2e, Self::LlcReferences),
        (0x412e, Self::LlcMisses),
        (0x00c4, Self::Branches),
        (0x00c5, Self::BranchMisses),
        (0x0300, Self::RefTsc),
    ];

    /// AMD's codes, of CPUs of family 17h or later: those of the driver's generic
    /// events (guest-contract §3.1).
    const AMD: [(u64, Self); 7] = [
        (0x0076, Self::Cycles),
        (0x00c0, Self::Instructions),
        (0xff60, Self::LlcReferences),
        (0x0964, Self::LlcMisses),
        (0x00c2, Self::Branches),
        (0x00c3, Self::BranchMisses),
        // Cycles not halted at the P0 frequency, which is the TSC's.
        (0x1_0000_0120, Self::RefTsc),
    ];

    const fn codes(vendor: Vendor) -> &'static [(u64, Self)] {
        match vendor {
            Vendor::Intel => &Self::INTEL,
            Vendor::Amd => &Self::AMD,
        }
    }

    /// Its code on this vendor's CPUs; `None` if it has none.
    #[must_use]
    pub fn code(self, vendor: Vendor) -> Option<RawEvent> {
        let found = Self::codes(vendor).iter().find(|(_, event)| *event == self);
        found.map(|(code, _)| RawEvent(*code))
    }

    /// The event that an event select chooses. `None` if it is not
    /// architectural: another code, or edge, counter mask or any-thread set, which
    /// change what is counted. Invert does not without a counter mask (SDM vol.
    /// 3B, "Architectural Performance Monitoring Version 1").
    #[must_use]
    pub fn from_event_sel(sel: EventSel) -> Option<Self> {
        if sel.edge() || sel.cmask() != 0 || sel.any_thread() || sel.is_pseudo() {
            return None;
        }
        RawEvent::of_event_sel(sel.into_bits())
            .code()
            .event(Vendor::Intel)
    }

    /// The event that an AMD event select of a CPU of family 17h or later
    /// chooses. `None` if it is another one, or has edge, invert or counter mask.
    #[must_use]
    pub fn from_amd_event_sel(sel: AmdEventSel) -> Option<Self> {
        if sel.edge() || sel.inv() || sel.cmask() != 0 {
            return None;
        }
        RawEvent::of_event_sel(sel.into_bits())
            .code()
            .event(Vendor::Amd)
    }

    /// The event of fixed counter `i`; `None` where this project has none.
    #[must_use]
    pub const fn of_fixed(i: u8) -> Option<Self> {
        match i {
            0 => Some(Self::Instructions),
            1 => Some(Self::Cycles),
            2 => Some(Self::RefTsc),
            _ => None,
        }
    }

    /// Linux's generic name: what `perf list` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::BusCycles => "bus-cycles",
            Self::LlcReferences => "cache-references",
            Self::LlcMisses => "cache-misses",
            Self::Branches => "branches",
            Self::BranchMisses => "branch-misses",
            Self::RefTsc => "ref-cycles",
        }
    }
}

/// An event by its code: an event select without what says where, whether and
/// with which interrupt to count. Both vendors have the fields at the same
/// places, and so does the `config` of a raw host event.
///
/// SDM vol. 3B, "Architectural Performance Monitoring Version 1"; APM vol. 2,
/// "Core Performance Event-Select Registers".
///
/// # Examples
/// ```
/// use vpmu::x86::cpuid::Vendor;
/// use vpmu::x86::event::{ArchEvent, RawEvent};
///
/// // Of a whole event select, the event and its modifiers are kept.
/// let raw = RawEvent::of_event_sel(0x53_003c);
/// assert_eq!(raw.event(Vendor::Intel), Some(ArchEvent::Cycles));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RawEvent(u64);

impl RawEvent {
    /// Event select, unit mask, edge, invert, counter mask, AMD's high bits of
    /// the event select.
    const FIELDS: u64 = 0xf_ff84_ffff;
    /// Event select and unit mask.
    const CODE: u64 = 0xf_0000_ffff;

    /// The event of an event select register, of either vendor.
    #[must_use]
    pub const fn of_event_sel(bits: u64) -> Self {
        Self(bits & Self::FIELDS)
    }

    /// The `config` of a raw host event.
    #[must_use]
    pub const fn config(self) -> u64 {
        self.0
    }

    /// The same event without edge, invert and counter mask.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & Self::CODE)
    }

    /// The architectural event whose code this is on `vendor`'s CPUs, without
    /// edge, invert and counter mask.
    #[must_use]
    pub fn event(self, vendor: Vendor) -> Option<ArchEvent> {
        let found = ArchEvent::codes(vendor)
            .iter()
            .find(|(code, _)| *code == self.0);
        found.map(|(_, event)| *event)
    }
}

/// As `perf` writes it: `r1d1`.
impl core::fmt::Display for RawEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "r{:x}", self.0)
    }
}

/// A set of architectural events, such as those that a host can back.
///
/// # Examples
/// ```
/// use vpmu::x86::event::{ArchEvent, ArchEventSet};
///
/// let set: ArchEventSet = [ArchEvent::Cycles, ArchEvent::Instructions].into_iter().collect();
/// assert!(set.contains(ArchEvent::Cycles));
/// assert_eq!(ArchEventSet::ALL.without(set).count(), 6);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchEventSet(u8);

impl ArchEventSet {
    /// No event.
    pub const EMPTY: Self = Self(0);
    /// All events of [`ArchEvent::ALL`].
    pub const ALL: Self = Self(0xff);
    /// What an AMD guest takes for granted: CPUID has no way to say that one
    /// of them is missing (guest-contract §3.1).
    pub const AMD_GENERIC: Self = Self::EMPTY
        .with(ArchEvent::Cycles)
        .with(ArchEvent::Instructions)
        .with(ArchEvent::LlcReferences)
        .with(ArchEvent::LlcMisses)
        .with(ArchEvent::Branches)
        .with(ArchEvent::BranchMisses);

    /// A bit for each event, by its number in [`ArchEvent::ALL`].
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with `event` in it.
    #[must_use]
    pub const fn with(self, event: ArchEvent) -> Self {
        Self(self.0 | 1 << event as u8)
    }

    /// Whether `event` is in the set.
    #[must_use]
    pub const fn contains(self, event: ArchEvent) -> bool {
        self.0 & (1 << event as u8) != 0
    }

    /// The events of this set that `other` lacks.
    pub fn without(self, other: Self) -> impl Iterator<Item = ArchEvent> {
        let lacking = move |event: &ArchEvent| self.contains(*event) && !other.contains(*event);
        ArchEvent::ALL.into_iter().filter(lacking)
    }

    /// CPUID.0AH:EBX: a bit for each pre-defined event that is *not* in the set.
    #[must_use]
    pub const fn unavailable_mask(self) -> u32 {
        (!self.0 & 0x7f) as u32
    }
}

impl FromIterator<ArchEvent> for ArchEventSet {
    fn from_iter<I: IntoIterator<Item = ArchEvent>>(events: I) -> Self {
        events.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// G-101: a software backing shows EBX = 7e.
    #[test]
    fn what_a_clock_backs_leaves_mask_7e() {
        let clock: ArchEventSet = [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect();
        assert_eq!(clock.unavailable_mask(), 0x7e);
        assert_eq!(ArchEventSet::ALL.unavailable_mask(), 0);
    }

    /// guest-contract §1.1: the driver's codes of the generic events.
    #[test]
    fn event_selects_name_the_generic_events() {
        for (code, event) in [
            (0x003c, ArchEvent::Cycles),
            (0x00c0, ArchEvent::Instructions),
            (0x013c, ArchEvent::BusCycles),
            (0x4f2e, ArchEvent::LlcReferences),
            (0x412e, ArchEvent::LlcMisses),
            (0x00c4, ArchEvent::Branches),
            (0x00c5, ArchEvent::BranchMisses),
        ] {
            let sel = EventSel::from_bits(code | 0x53_0000);
            assert_eq!(ArchEvent::from_event_sel(sel), Some(event));
            assert_eq!(ArchEvent::from_event_sel(sel.with_cmask(1)), None);
            assert_eq!(ArchEvent::from_event_sel(sel.with_edge(true)), None);
            let inverted = sel.with_inv(true);
            assert_eq!(ArchEvent::from_event_sel(inverted), Some(event));
            assert_eq!(ArchEvent::from_event_sel(inverted.with_cmask(1)), None);
        }
        for other in [0x53_01d1, 0x53_0300] {
            let sel = EventSel::from_bits(other);
            assert_eq!(ArchEvent::from_event_sel(sel), None, "{other:#x}");
        }
    }

    /// guest-contract §3.1: the driver's codes of the generic events, family
    /// 17h and later.
    #[test]
    fn amd_event_selects_name_the_generic_events() {
        for (code, event) in [
            (0x76, ArchEvent::Cycles),
            (0xc0, ArchEvent::Instructions),
            (0xff60, ArchEvent::LlcReferences),
            (0x0964, ArchEvent::LlcMisses),
            (0xc2, ArchEvent::Branches),
            (0xc3, ArchEvent::BranchMisses),
            (0x1_0000_0120, ArchEvent::RefTsc),
        ] {
            let sel = AmdEventSel::from_bits(code | 0x53_0000);
            assert_eq!(ArchEvent::from_amd_event_sel(sel), Some(event), "{code:#x}");
            for other in [sel.with_cmask(1), sel.with_edge(true), sel.with_inv(true)] {
                assert_eq!(ArchEvent::from_amd_event_sel(other), None, "{code:#x}");
            }
            assert_eq!(
                ArchEvent::from_amd_event_sel(sel.with_event_high(0xf)),
                None,
                "{code:#x}: all twelve bits count"
            );
        }
        // Family 10h's cache events, and Intel's cycles.
        for code in [0x077d, 0x077e, 0x003c, 0x0120, 0x00d0] {
            let sel = AmdEventSel::from_bits(code | 0x53_0000);
            assert_eq!(ArchEvent::from_amd_event_sel(sel), None, "{code:#x}");
        }
    }

    /// A code and the event that it stands for find each other.
    #[test]
    fn codes_and_events_are_one_to_one() {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let mut without_code = Vec::new();
            for event in ArchEvent::ALL {
                match event.code(vendor) {
                    Some(code) => assert_eq!(code.event(vendor), Some(event), "{vendor:?}"),
                    None => without_code.push(event),
                }
            }
            let expected: &[ArchEvent] = match vendor {
                Vendor::Intel => &[],
                Vendor::Amd => &[ArchEvent::BusCycles],
            };
            assert_eq!(without_code, expected);
        }
        let long = RawEvent::of_event_sel(0x1_0000_003c);
        assert_eq!(long.event(Vendor::Intel), None);
        let modified = RawEvent::of_event_sel(0x100_003c);
        assert_eq!(modified.event(Vendor::Intel), None);
    }
}
