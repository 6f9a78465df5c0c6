//! The event of one counter in a saved state, and its place among the bytes.

use crate::host::{EventCode, HostEvent, Privilege};
use crate::ids::{Pmc, PmcSet};
use crate::sched::EventState;
use crate::times::Times;
use crate::units::Nanos;
use crate::x86::event::{ArchEvent, RawEvent};
use crate::x86::standard::StandardEvent;

use super::RestoreError;
use super::body::LONGEST;
use super::wire::{Reader, Writer};

/// A counter's event as it goes on in another host's backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    /// What it counts.
    pub(crate) attr: HostEvent,
    /// Off, enabled (whether it has a counter or waits for one) or in error.
    pub(crate) state: EventState,
    /// What it counted so far.
    pub(crate) count: u64,
    /// For how long.
    pub(crate) times: Times,
    /// The part of the estimate that entered the guest's counter already.
    pub(crate) taken: u64,
    /// The guest stopped it before its first turn.
    pub(crate) starved: bool,
}

/// The event of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedEvent {
    /// Which counter.
    pub(crate) pmc: Pmc,
    /// What goes on.
    pub(crate) carried: Carried,
}

impl SavedEvent {
    pub(super) fn write(&self, w: &mut Writer) {
        let Carried {
            attr,
            state,
            count,
            times,
            taken,
            starved,
        } = self.carried;
        w.count(self.pmc.slot());
        w.byte(match state {
            EventState::Active | EventState::Inactive => 1,
            EventState::Error => 2,
            _ => 0,
        });
        let (kind, event) = match attr.code {
            EventCode::Architectural(event) => (0, event as u64),
            EventCode::Raw(event) => (1, event.config()),
            EventCode::Standard(event) => (2, event as u64),
        };
        w.byte(kind);
        w.word(event);
        let Privilege { user, kernel } = attr.privilege;
        w.byte(u8::from(user) | u8::from(kernel) << 1);
        for number in [count, times.enabled.0, times.running.0, taken] {
            w.word(number);
        }
        w.byte(starved.into());
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, RestoreError> {
        const NO_EVENT: RestoreError = RestoreError::Impossible("an event");
        let slot = usize::from(r.byte()?);
        let mut all = PmcSet::first(Pmc::MAX_GP, Pmc::MAX_FIXED).iter();
        let pmc = all.find(|pmc| pmc.slot() == slot).ok_or(NO_EVENT)?;
        let state = match r.byte()? {
            0 => EventState::Off,
            1 => EventState::Inactive,
            2 => EventState::Error,
            _ => return Err(NO_EVENT),
        };
        let carried = Carried {
            state,
            attr: read_attr(r)?.ok_or(NO_EVENT)?,
            count: r.word()?,
            times: Times {
                enabled: Nanos(r.word()?),
                running: Nanos(r.word()?),
            },
            taken: r.word()?,
            starved: r.flag("an event")?,
        };
        let Times { enabled, running } = carried.times;
        if running > enabled || enabled.0 > LONGEST {
            return Err(RestoreError::Impossible("the times of an event"));
        }
        Ok(Self { pmc, carried })
    }
}

/// What an event counts; `None` if there is no such event.
fn read_attr(r: &mut Reader<'_>) -> Result<Option<HostEvent>, RestoreError> {
    let (kind, number, levels) = (r.byte()?, r.word()?, r.byte()?);
    let event = match kind {
        0 => usize::try_from(number)
            .ok()
            .and_then(|n| ArchEvent::ALL.get(n))
            .map(|event| EventCode::Architectural(*event)),
        1 => Some(RawEvent::of_event_sel(number))
            .filter(|event| event.config() == number)
            .map(EventCode::Raw),
        2 => usize::try_from(number)
            .ok()
            .and_then(|n| StandardEvent::ALL.get(n))
            .map(|event| EventCode::Standard(*event)),
        _ => None,
    };
    let privilege = Privilege {
        user: levels & 1 != 0,
        kernel: levels & 2 != 0,
    };
    let attr = event.map(|event| HostEvent {
        code: event,
        privilege,
    });
    Ok(attr.filter(|_| (1..=3).contains(&levels)))
}
