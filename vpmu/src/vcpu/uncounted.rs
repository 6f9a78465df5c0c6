//! The events that the guest wanted and did not get, by name.

use core::fmt;

use crate::guest::Encoding;
use crate::host::EventCode;

/// An event that the guest wanted and that nobody counts: it reads 0, or keeps its
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// Which; `None` for a fixed counter without an event, and for all events beyond
    /// the first [`Uncounted::MOST`].
    pub event: Option<EventCode>,
    /// How many times a counter was started for it in vain.
    pub times: u64,
}

impl Uncounted {
    /// So many events of a vCPU are told apart.
    pub const MOST: usize = 16;
}

/// As `perf` writes it: `L1-dcache-loads`, `r1d1`; `others` without a name.
impl fmt::Display for Uncounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.event {
            Some(event) => event.fmt(f),
            None => f.write_str("others"),
        }
    }
}

/// All of a vCPU. A guest that tries every code finds no end of memory here.
#[derive(Clone, Debug, Default)]
pub(super) struct UncountedEvents {
    named: [Option<Uncounted>; Uncounted::MOST],
    others: u64,
}

impl UncountedEvents {
    /// A counter was started for the event in vain.
    pub(super) fn note(&mut self, event: Option<EventCode>) {
        let is_it = |place: &&mut Option<Uncounted>| place.is_none_or(|known| known.event == event);
        let place = event.and_then(|_| self.named.iter_mut().find(is_it));
        match place {
            Some(place) => {
                let times = place.map_or(0, |known| known.times) + 1;
                *place = Some(Uncounted { event, times });
            }
            None => self.others += 1,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Uncounted> {
        let others = (self.others > 0).then_some(Uncounted {
            event: None,
            times: self.others,
        });
        self.named.iter().copied().flatten().chain(others)
    }
}

impl Encoding {
    /// The event by the name that it has on every CPU, or else by its code; `None` for
    /// what a fixed counter without an event counts.
    #[must_use]
    pub fn code(&self) -> Option<EventCode> {
        if let Self::Architectural(event) = self {
            return Some((*event).into());
        }
        let standard = self.standard().map(EventCode::from);
        standard.or_else(|| Some(self.raw()?.0.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::event::RawEvent;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    #[test]
    fn events_are_counted_by_name_up_to_a_number_of_names() {
        let mut all = UncountedEvents::default();
        for code in [1, 2, 1, 3, 1].map(RawEvent::of_event_sel) {
            all.note(Some(code.into()));
        }
        let text: Vec<_> = all.iter().map(|u| (u.to_string(), u.times)).collect();
        let named = |name: &str, times| (name.to_string(), times);
        assert_eq!(text, [named("r1", 3), named("r2", 1), named("r3", 1)]);
        for code in 4..100 {
            all.note(Some(RawEvent::of_event_sel(code).into()));
        }
        all.note(None);
        let last = all.iter().last().unwrap();
        assert_eq!(
            (last.to_string(), last.times),
            named("others", 100 - 17 + 1)
        );
        assert_eq!(all.iter().count(), Uncounted::MOST + 1);
    }
}
