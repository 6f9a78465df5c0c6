//! Which events a guest may count: all, the architectural ones, those and the standard
//! ones, or those of lists.

use alloc::vec::Vec;

use crate::crc;
use crate::host::EventCode;
use crate::x86::cpuid::Vendor;
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use crate::x86::standard::{StandardEvent, StandardSet};

/// Which events a guest may count.
///
/// # Examples
/// ```
/// use vpmu::EventFilter;
/// use vpmu::host::EventCode;
/// use vpmu::x86::event::{ArchEvent, RawEvent};
///
/// let code = EventCode::Raw(RawEvent::of_event_sel(0x01c2));
/// assert!(EventFilter::Architectural.admits(ArchEvent::Cycles.into()));
/// assert!(!EventFilter::Architectural.admits(code));
/// assert!(!EventFilter::Standard.admits(code));
/// assert!(EventFilter::All.admits(code));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventFilter {
    /// The architectural ones.
    #[default]
    Architectural,
    /// Those and the standard ones ([`StandardEvent`]): what the generic tables of a
    /// guest's driver have.
    Standard,
    /// Any that the host counts.
    All,
    /// As lists say.
    Lists(FilterLists),
}

/// Events by name and by code. What is denied is denied, also if it is allowed;
/// an empty list of allowed events allows all.
///
/// # Examples
/// ```
/// use vpmu::host::EventCode;
/// use vpmu::x86::cpuid::Vendor;
/// use vpmu::x86::event::ArchEvent;
/// use vpmu::{EventFilter, FilterLists};
///
/// let allowed = [EventCode::from(ArchEvent::Cycles)];
/// let filter = EventFilter::Lists(FilterLists::new(allowed, []));
/// // On a guest of this vendor, the event's code is admitted as well.
/// let filter = filter.for_vendor(Vendor::Intel);
/// let code = ArchEvent::Cycles.code(Vendor::Intel).unwrap();
/// assert!(filter.admits(EventCode::Raw(code)));
/// assert!(!filter.admits(ArchEvent::Instructions.into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterLists {
    allow: EventList,
    deny: EventList,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct EventList {
    named: ArchEventSet,
    standard: StandardSet,
    /// Sorted.
    codes: Vec<RawEvent>,
}

impl EventList {
    fn new(events: impl IntoIterator<Item = EventCode>) -> Self {
        let mut list = Self::default();
        for event in events {
            match event {
                EventCode::Architectural(event) => list.named = list.named.with(event),
                EventCode::Standard(event) => list.standard = list.standard.with(event),
                EventCode::Raw(event) => list.codes.push(event.code()),
            }
        }
        list.codes.sort_unstable();
        list
    }

    /// The same with the code of each name and the name of each code.
    fn for_vendor(&self, vendor: Vendor) -> Self {
        let mut both = self.clone();
        for event in ArchEvent::ALL {
            let code = event.code(vendor);
            let is_listed = self.named.contains(event)
                || code.is_some_and(|code| self.has(EventCode::Raw(code)));
            if is_listed {
                both.named = both.named.with(event);
                both.codes.extend(code);
            }
        }
        // Of Intel's models here none has a standard event.
        if vendor == Vendor::Amd {
            for event in StandardEvent::ALL {
                let listed = self.standard.contains(event)
                    || event.amd_codes().any(|code| self.has(EventCode::Raw(code)));
                if listed {
                    both.standard = both.standard.with(event);
                    both.codes.extend(event.amd_codes());
                }
            }
        }
        both.codes.sort_unstable();
        both.codes.dedup();
        both
    }

    fn is_empty(&self) -> bool {
        self.named == ArchEventSet::EMPTY
            && self.standard == StandardSet::EMPTY
            && self.codes.is_empty()
    }

    fn has(&self, event: EventCode) -> bool {
        match event {
            EventCode::Architectural(event) => self.named.contains(event),
            EventCode::Standard(event) => self.standard.contains(event),
            EventCode::Raw(event) => self.codes.binary_search(&event.code()).is_ok(),
        }
    }
}

impl FilterLists {
    /// Lists of events; of codes, edge, invert and counter mask are passed over.
    #[must_use]
    pub fn new(
        allow: impl IntoIterator<Item = EventCode>,
        deny: impl IntoIterator<Item = EventCode>,
    ) -> Self {
        Self {
            allow: EventList::new(allow),
            deny: EventList::new(deny),
        }
    }
}

impl EventFilter {
    /// The same for a guest with `vendor`'s CPU: a list that names an event has
    /// its code as well, and the other way round.
    #[must_use]
    pub fn for_vendor(self, vendor: Vendor) -> Self {
        match self {
            Self::Architectural | Self::Standard | Self::All => self,
            Self::Lists(lists) => Self::Lists(FilterLists {
                allow: lists.allow.for_vendor(vendor),
                deny: lists.deny.for_vendor(vendor),
            }),
        }
    }

    /// Whether a guest may count `event`.
    #[must_use]
    pub fn admits(&self, event: EventCode) -> bool {
        match self {
            Self::Architectural => matches!(event, EventCode::Architectural(_)),
            Self::Standard => !matches!(event, EventCode::Raw(_)),
            Self::All => true,
            Self::Lists(lists) => {
                !lists.deny.has(event) && (lists.allow.is_empty() || lists.allow.has(event))
            }
        }
    }

    /// Whether a guest may count any event by its code, beside standard events.
    pub(crate) const fn admits_codes(&self) -> bool {
        match self {
            Self::Architectural | Self::Standard => false,
            Self::All => true,
            // Codes, or all that is not denied.
            Self::Lists(FilterLists { allow, .. }) => {
                !allow.codes.is_empty() || allow.named.bits() == 0 && allow.standard.bits() == 0
            }
        }
    }

    /// A number that other filters do not have, by all likelihood, nor the same filter
    /// where other standard events are counted.
    pub(crate) fn checksum(&self, counted: StandardSet) -> u32 {
        let mut bytes = Vec::new();
        match self {
            Self::Architectural => bytes.push(0),
            Self::All => bytes.push(1),
            Self::Standard => bytes.push(3),
            Self::Lists(lists) => {
                bytes.push(2);
                for list in [&lists.allow, &lists.deny] {
                    bytes.push(list.named.bits());
                    let codes = list.codes.iter().flat_map(|c| c.config().to_le_bytes());
                    bytes.extend(codes);
                    // No code: the end of the list.
                    bytes.extend(u64::MAX.to_le_bytes());
                }
            }
        }
        let admitted = self.admitted_standard(counted);
        if admitted != StandardSet::EMPTY {
            bytes.extend(admitted.bits().to_le_bytes());
        }
        crc::of(&[&bytes])
    }

    /// Those of `events` that a guest may count.
    #[must_use]
    pub fn admitted_standard(&self, events: StandardSet) -> StandardSet {
        events.iter().filter(|e| self.admits((*e).into())).collect()
    }

    /// Those of `events` that a guest may count: what CPUID should tell it.
    #[must_use]
    pub fn admitted(&self, events: ArchEventSet) -> ArchEventSet {
        let admitted = |e: &ArchEvent| events.contains(*e) && self.admits((*e).into());
        ArchEvent::ALL.into_iter().filter(admitted).collect()
    }
}
