//! What the host lets this thread open, found by trying.

use crate::host::{HostEvent, Privilege};
use crate::units::Count;
use crate::x86::event::ArchEvent;

use super::event::{PerfFd, PerfOpenError, Spec};
use super::sysfs::{EventAddress, EventSource};
use crate::ids::PmuType;

/// User mode alone, which `perf_event_paranoid` = 2 still allows.
const USER: Privilege = Privilege {
    user: true,
    kernel: false,
};

const TASK_CLOCK: Spec = Spec {
    address: EventAddress::TASK_CLOCK,
    privilege: USER,
    guest_only: false,
};

/// Opens a software event (the task clock) on the calling thread, and closes
/// it again: every Linux host counts it, so a failure is a matter of
/// permission.
///
/// # Errors
/// [`PerfOpenError`] as the host says.
pub fn software_event() -> Result<(), PerfOpenError> {
    PerfFd::open(&TASK_CLOCK).map(drop)
}

/// Whether the host takes the type of this core PMU in the upper half of
/// `config`, found by a trial: sysfs does not say it. A host with several core
/// PMUs has the capability on each as a rule, and it is not needed elsewhere.
///
/// Linux: `PERF_PMU_CAP_EXTENDED_HW_TYPE`.
///
/// # Errors
/// [`PerfOpenError`] if the host refuses for another reason: a permission.
pub fn extended_type(kind: PmuType) -> Result<bool, PerfOpenError> {
    let source = EventSource::Pmu(kind);
    // One event is enough; a PMU need not count each.
    for event in ArchEvent::ALL {
        match source.probe(event) {
            Ok(()) => return Ok(true),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The most events that [`pinned_counters`] opens: more than any PMU has
/// counters.
pub const MOST_COUNTERS: usize = 32;

/// How many counters `source` really gives the calling thread now for guest
/// counts of `event`, up to [`MOST_COUNTERS`]: pinned events of guest mode are
/// opened one after the other until one gets no counter, and all are closed
/// again. A fixed counter for the event is among them; what others hold (a
/// watchdog, other pinned events) is not.
///
/// The thread must be bound to a CPU on which `source` counts: elsewhere no
/// event needs a counter, and none is ever refused.
///
/// # Errors
/// [`PerfOpenError`] if the host opens not even one: it has no such PMU, or does
/// not permit it.
pub fn pinned_counters(source: EventSource, event: ArchEvent) -> Result<usize, PerfOpenError> {
    const BOTH: Privilege = Privilege {
        user: true,
        kernel: true,
    };
    let spec = source.spec(&HostEvent {
        code: event.into(),
        privilege: BOTH,
    });
    at_the_same_time(&spec)
}

fn at_the_same_time(spec: &Spec) -> Result<usize, PerfOpenError> {
    let mut events = vec![PerfFd::open(spec)?];
    while events.last_mut().is_some_and(has_counter) {
        if events.len() >= MOST_COUNTERS {
            return Ok(MOST_COUNTERS);
        }
        match PerfFd::open(spec) {
            Ok(event) => events.push(event),
            Err(_no_more) => return Ok(events.len()),
        }
    }
    Ok(events.len().saturating_sub(1))
}

/// Starts the event that this thread opened last. It is scheduled before the call
/// returns: if there is a counter too few, it is the one in the error state,
/// which a read tells.
fn has_counter(event: &mut PerfFd) -> bool {
    event.start(Count(u64::MAX)).is_ok() && event.read().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::linux::sysfs::{PmuDevice, Sysfs};

    #[test]
    fn every_host_has_software_events() {
        match software_event() {
            Ok(()) => {}
            Err(e) if e.is_permission() => eprintln!("skipped: not permitted here: {}", e.errno()),
            Err(e) => panic!("{e}: errno {}", e.errno()),
        }
    }

    /// The clock has no counters to run out of.
    #[test]
    fn the_search_ends_at_the_most() {
        match at_the_same_time(&TASK_CLOCK) {
            Ok(found) => assert_eq!(found, MOST_COUNTERS),
            Err(e) if e.is_permission() => eprintln!("skipped: not permitted here: {}", e.errno()),
            Err(e) => panic!("{e}: errno {}", e.errno()),
        }
    }

    #[test]
    fn a_pmu_that_is_not_there_has_no_counters() {
        let absent = PmuType(0xfff0);
        let error = pinned_counters(EventSource::Pmu(absent), ArchEvent::Cycles).unwrap_err();
        assert!(
            error.is_unsupported() || error.is_permission(),
            "{}",
            error.errno()
        );
        match extended_type(absent) {
            Ok(is) => assert!(!is),
            Err(error) => assert!(error.is_permission(), "{}", error.errno()),
        }
    }

    #[test]
    fn a_host_without_a_core_pmu_opens_none() {
        let pmus = Sysfs::default().pmus().unwrap();
        let counters = pinned_counters(EventSource::Hardware, ArchEvent::Instructions);
        if pmus.iter().any(PmuDevice::is_core) {
            eprintln!("this host has a core PMU: {counters:?}");
        } else {
            assert!(counters.is_err(), "{counters:?}");
        }
    }
}
