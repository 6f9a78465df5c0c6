//! What the host lets this thread open, found by trying.

use perf_event_open_sys::bindings;

use crate::host::{EventAttr, Privilege, ReadError};
use crate::units::Count;
use crate::x86::event::ArchEvent;

use super::driver::EventSource;
use super::event::{OpenError, PerfEvent, Spec};

/// User mode alone, which `perf_event_paranoid` = 2 still allows.
const USER: Privilege = Privilege {
    user: true,
    kernel: false,
};

/// Opens a software event (the task clock) on the calling thread, and closes
/// it again: every Linux host counts it, so a failure is a matter of
/// permission.
///
/// # Errors
/// [`OpenError`] as the host says.
pub fn software_event() -> Result<(), OpenError> {
    let spec = Spec {
        kind: bindings::PERF_TYPE_SOFTWARE,
        config: u64::from(bindings::PERF_COUNT_SW_TASK_CLOCK),
        privilege: USER,
        guest_only: false,
    };
    PerfEvent::open(&spec).map(drop)
}

/// How many pinned `cycles` events of `source` count on the calling thread at
/// the same time, `most` at the most: one is added after the other until one
/// reads as lost. A fixed counter for cycles is among them, and so is nothing
/// that others (a watchdog, other pinned events) hold.
///
/// # Errors
/// [`OpenError`] if the host opens not even one: it has no such PMU, or does
/// not permit it.
pub fn pinned_counters(source: EventSource, most: usize) -> Result<usize, OpenError> {
    let mut spec = source.spec(&EventAttr {
        event: ArchEvent::Cycles,
        privilege: USER,
    });
    spec.guest_only = false;
    let mut events = vec![PerfEvent::open(&spec)?];
    while counts_all(&events) {
        if events.len() >= most {
            return Ok(most);
        }
        match PerfEvent::open(&spec) {
            Ok(event) => events.push(event),
            Err(_no_more) => return Ok(events.len()),
        }
    }
    Ok(events.len().saturating_sub(1))
}

/// Starts the last event and asks every one for its count.
fn counts_all(events: &[PerfEvent]) -> bool {
    let started = events
        .last()
        .is_none_or(|event| event.start(Count(u64::MAX)).is_ok());
    started && events.iter().all(|event| !is_lost(event))
}

fn is_lost(event: &PerfEvent) -> bool {
    matches!(event.read(), Err(ReadError::Lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::linux::sysfs::{PmuType, Sysfs};

    #[test]
    fn every_host_has_software_events() {
        match software_event() {
            Ok(()) => {}
            Err(e) if e.is_permission() => eprintln!("SKIP: not permitted here: {}", e.errno()),
            Err(e) => panic!("{e}: errno {}", e.errno()),
        }
    }

    #[test]
    fn a_pmu_that_is_not_there_has_no_counters() {
        let error = pinned_counters(EventSource::Pmu(PmuType(0xfff0)), 16).unwrap_err();
        assert!(
            error.is_unsupported() || error.is_permission(),
            "{}",
            error.errno()
        );
    }

    #[test]
    fn a_host_without_a_core_pmu_opens_none() {
        let pmus = Sysfs::default().pmus().unwrap();
        let counters = pinned_counters(EventSource::Hardware, 16);
        if pmus.iter().any(|pmu| pmu.name.starts_with("cpu")) {
            eprintln!("this host has a core PMU: {counters:?}");
        } else {
            assert!(counters.is_err(), "{counters:?}");
        }
    }
}
