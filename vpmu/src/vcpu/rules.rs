//! What the operator lets a guest's counters do.

use alloc::vec::Vec;

use crate::guest::{Demand, Encoding};
use crate::host::{EventAttr, HostEvent};
use crate::state::crc;
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};

/// How the guest's counters share the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// They take turns where the host has too few, and what the guest reads is
    /// scaled by the time that each had.
    #[default]
    Flexible,
    /// Each has its own or is in error; nothing is scaled.
    Pinned,
}

/// Which events a guest may count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EventFilter {
    /// The architectural ones.
    #[default]
    Architectural,
    /// Any that the host counts.
    All,
    /// As lists say.
    Lists(FilterLists),
}

/// Events by name and by code. What is denied is denied, also if it is allowed;
/// an empty list of allowed events allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterLists {
    allow: EventList,
    deny: EventList,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct EventList {
    named: ArchEventSet,
    /// Sorted.
    codes: Vec<RawEvent>,
}

impl EventList {
    fn new(events: impl IntoIterator<Item = HostEvent>) -> Self {
        let mut list = Self::default();
        for event in events {
            match event {
                HostEvent::Architectural(event) => list.named = list.named.with(event),
                HostEvent::Raw(event) => list.codes.push(event.code()),
            }
        }
        list.codes.sort_unstable();
        list
    }

    fn is_empty(&self) -> bool {
        self.named == ArchEventSet::EMPTY && self.codes.is_empty()
    }

    fn has(&self, event: HostEvent) -> bool {
        match event {
            HostEvent::Architectural(event) => self.named.contains(event),
            HostEvent::Raw(event) => self.codes.binary_search(&event.code()).is_ok(),
        }
    }
}

impl FilterLists {
    /// Lists of events; of codes, edge, invert and counter mask are passed over.
    #[must_use]
    pub fn new(
        allow: impl IntoIterator<Item = HostEvent>,
        deny: impl IntoIterator<Item = HostEvent>,
    ) -> Self {
        Self {
            allow: EventList::new(allow),
            deny: EventList::new(deny),
        }
    }
}

impl EventFilter {
    /// Whether a guest may count `event`.
    #[must_use]
    pub fn admits(&self, event: HostEvent) -> bool {
        match self {
            Self::Architectural => matches!(event, HostEvent::Architectural(_)),
            Self::All => true,
            Self::Lists(lists) => {
                !lists.deny.has(event) && (lists.allow.is_empty() || lists.allow.has(event))
            }
        }
    }

    /// A number that other filters do not have, by all likelihood.
    pub(super) fn checksum(&self) -> u32 {
        let mut bytes = Vec::new();
        match self {
            Self::Architectural => bytes.push(0),
            Self::All => bytes.push(1),
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
        crc::of(&[&bytes])
    }

    /// Those of `events` that a guest may count: what CPUID should tell it.
    #[must_use]
    pub fn admitted(&self, events: ArchEventSet) -> ArchEventSet {
        let admitted = |e: &ArchEvent| events.contains(*e) && self.admits((*e).into());
        ArchEvent::ALL.into_iter().filter(admitted).collect()
    }
}

/// What the operator lets a guest's counters do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How they share the host's.
    pub policy: Policy,
    /// Which events they may count.
    pub filter: EventFilter,
    /// Whether the guest's codes mean on the host what they mean in the guest:
    /// both are of one vendor, and the host counts codes.
    pub codes_match: bool,
}

impl From<Policy> for Rules {
    fn from(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }
}

impl Rules {
    /// What becomes of a guest's demand.
    pub(super) fn judge(&self, demand: Demand) -> Demand {
        match demand {
            Demand::Event(EventAttr {
                event: HostEvent::Architectural(event),
                ..
            }) if !self.filter.admits(event.into()) => {
                Demand::Denied(Encoding::Architectural(event))
            }
            Demand::NotBacked(encoding) if self.codes_match => match encoding.raw() {
                Some((event, privilege)) if self.filter.admits(HostEvent::Raw(event)) => {
                    let event = HostEvent::Raw(event);
                    Demand::Event(EventAttr { event, privilege })
                }
                Some(_) => Demand::Denied(encoding),
                None => demand,
            },
            demand => demand,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::regs::EventSel;

    fn raw(code: u64) -> HostEvent {
        HostEvent::Raw(RawEvent::of_event_sel(code))
    }

    #[test]
    fn what_is_denied_is_denied_also_if_it_is_allowed() {
        let both = [ArchEvent::Cycles.into(), raw(0x1d1)];
        let filter = EventFilter::Lists(FilterLists::new(both, [raw(0x1d1)]));
        assert!(filter.admits(ArchEvent::Cycles.into()));
        assert!(!filter.admits(raw(0x1d1)));
        assert!(
            !filter.admits(ArchEvent::Instructions.into()),
            "not allowed"
        );
        let all_but = EventFilter::Lists(FilterLists::new([], [ArchEvent::Cycles.into()]));
        assert!(all_but.admits(raw(0x1d1)) && all_but.admits(ArchEvent::Branches.into()));
        assert_eq!(
            all_but.admitted(ArchEventSet::ALL).unavailable_mask(),
            1,
            "CPUID says so"
        );
    }

    #[test]
    fn modifiers_do_not_get_around_a_list() {
        let filter = EventFilter::Lists(FilterLists::new([], [raw(0x1d1)]));
        let sel = EventSel::from_bits(0x53_01d1).with_cmask(3).with_inv(true);
        assert!(!filter.admits(raw(sel.into_bits())));
    }

    /// Issue: other encodings only on the same vendor and only where the policy
    /// allows.
    #[test]
    fn codes_need_both_the_vendor_and_the_filter() {
        let sel = EventSel::from_bits(0x53_01d1);
        let demand = Demand::NotBacked(Encoding::Raw(sel));
        let rules = |filter, codes_match| Rules {
            policy: Policy::Flexible,
            filter,
            codes_match,
        };
        let judged = |r: Rules| r.judge(demand);
        assert_eq!(judged(rules(EventFilter::All, false)), demand);
        assert_eq!(
            judged(rules(EventFilter::Architectural, true)),
            Demand::Denied(Encoding::Raw(sel))
        );
        let Demand::Event(attr) = judged(rules(EventFilter::All, true)) else {
            panic!("it is backed");
        };
        assert_eq!(attr.event, raw(0x1d1));
        assert!(attr.privilege.user && attr.privilege.kernel);
        let any_thread = Demand::NotBacked(Encoding::Raw(sel.with_any_thread(true)));
        assert_eq!(rules(EventFilter::All, true).judge(any_thread), any_thread);
    }
}
