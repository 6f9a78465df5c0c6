//! What the host lets this thread open, found by trying.

use perf_event_open_sys::bindings;

use crate::host::{EventAttr, Privilege};
use crate::units::Count;
use crate::x86::event::ArchEvent;

use super::driver::EventSource;
use super::event::{OpenError, PerfEvent, Spec};

/// User mode alone, which `perf_event_paranoid` = 2 still allows.
const USER: Privilege = Privilege {
    user: true,
    kernel: false,
};

const TASK_CLOCK: Spec = Spec {
    kind: bindings::PERF_TYPE_SOFTWARE,
    config: bindings::PERF_COUNT_SW_TASK_CLOCK as u64,
    privilege: USER,
    guest_only: false,
};

/// Opens a software event (the task clock) on the calling thread, and closes
/// it again: every Linux host counts it, so a failure is a matter of
/// permission.
///
/// # Errors
/// [`OpenError`] as the host says.
pub fn software_event() -> Result<(), OpenError> {
    PerfEvent::open(&TASK_CLOCK).map(drop)
}

/// How many pinned `cycles` events of `source` count on the calling thread at
/// the same time, `most` at the most: one is added after the other until one
/// stands still. A fixed counter for cycles is among them, and so is nothing
/// that others (a watchdog, other pinned events) hold. On a hybrid host the
/// thread has to stay on the CPUs of `source`, or the answer is 0.
///
/// # Errors
/// [`OpenError`] if the host opens not even one: it has no such PMU, or does
/// not permit it.
pub fn pinned_counters(source: EventSource, most: usize) -> Result<usize, OpenError> {
    let mut spec = source.spec(&EventAttr {
        event: ArchEvent::Cycles.into(),
        privilege: USER,
    });
    spec.guest_only = false;
    at_the_same_time(&spec, most)
}

fn at_the_same_time(spec: &Spec, most: usize) -> Result<usize, OpenError> {
    let mut events = vec![PerfEvent::open(spec)?];
    while all_count(&mut events) {
        if events.len() >= most {
            return Ok(most);
        }
        match PerfEvent::open(spec) {
            Ok(event) => events.push(event),
            Err(_no_more) => return Ok(events.len()),
        }
    }
    Ok(events.len().saturating_sub(1))
}

/// Starts the last event; whether every one then moves. One that has lost its
/// counter does not read, one that waits for another CPU reads the same.
fn all_count(events: &mut [PerfEvent]) -> bool {
    let started = events
        .last_mut()
        .is_none_or(|event| event.start(Count(u64::MAX)).is_ok());
    let before: Vec<_> = events.iter().map(PerfEvent::read).collect();
    for turn in 0..10_000_u32 {
        core::hint::black_box(turn);
    }
    let moved = |(event, before): (&PerfEvent, &Result<Count, _>)| match (before, event.read()) {
        (Ok(before), Ok(after)) => after > *before,
        _ => false,
    };
    started && events.iter().zip(&before).all(moved)
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

    /// The clock has no counters to run out of.
    #[test]
    fn the_search_ends_at_the_most() {
        match at_the_same_time(&TASK_CLOCK, 5) {
            Ok(found) => assert_eq!(found, 5),
            Err(e) => eprintln!("SKIP: not permitted here: {}", e.errno()),
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
