//! Monitors beside the guest's counters: what each class gets of too few host
//! counters, and that a guest neither pauses a monitor nor notices one.

use super::saved::{Any, fresh, run_with, sim};
use super::*;
use crate::guest::Model;
use crate::host::software::{Khz, SoftwarePmu};
use crate::host::{EventCode, HostEvent, HostOpenError, Privilege};
use crate::ids::MonitorId;
use crate::x86::event::RawEvent;

const MS: u64 = 1_000_000;
pub(super) const ATTR: HostEvent = HostEvent {
    code: EventCode::Architectural(ArchEvent::Cycles),
    privilege: Privilege {
        user: true,
        kernel: true,
    },
};

fn id(i: u8) -> MonitorId {
    MonitorId::new(i).unwrap()
}

/// A guest with `counters` counters that count cycles on a host with
/// `host_counters`.
fn guest(counters: u32, host_counters: usize, policy: Policy) -> Any {
    let mut pmu = Any::new(fresh("intel-v2"), sim(host_counters), policy);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    for i in 0..counters {
        pmu.wrmsr(MsrIndex(SEL0.0 + i), CYCLES).unwrap();
    }
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    pmu
}

/// One cycle a nanosecond.
fn run_for(pmu: &mut Any, span: u64) {
    run_with(pmu, span, |_| ());
}

fn view(pmu: &mut Any, i: u8) -> MonitorView {
    let mut views = pmu.monitors();
    views.find(|view| view.id == id(i)).unwrap()
}

fn state_of(pmu: &Any, counter: usize) -> CounterState {
    pmu.counters().nth(counter).unwrap().state
}

fn is_near(value: u64, expected: u64, percent: u64) -> bool {
    value.abs_diff(expected) * 100 <= expected * percent
}

/// What the guest does with its PMU is nothing to a monitor, and the guest's
/// own count is as without one.
#[test]
fn a_monitor_counts_also_while_the_guests_pmu_is_disabled() {
    let mut pmu = guest(1, 4, Policy::Flexible);
    run_for(&mut pmu, MS);
    pmu.attach(id(0), ATTR, Policy::Flexible).unwrap();
    for _ in 0..3 {
        run_for(&mut pmu, MS);
        pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
        run_for(&mut pmu, 2 * MS);
        pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    }
    assert_eq!(pmu.rdpmc(0), Some(4 * MS));
    let times = pmu.counters().next().unwrap().times;
    assert_eq!(
        times.enabled,
        Nanos(4 * MS),
        "R-180: the task's clock stood"
    );
    assert!(!times.is_scaled());
    let monitor = view(&mut pmu, 0);
    assert_eq!((monitor.count, monitor.scaled()), (9 * MS, 9 * MS));
    assert_eq!(monitor.times.enabled, Nanos(9 * MS));
    assert_eq!(monitor.state, CounterState::Counting);
    assert_eq!(pmu.totals().scaled_reads, 0);
}

#[test]
fn a_monitor_is_attached_and_ends_while_the_guests_pmu_is_disabled() {
    let mut pmu = guest(2, 2, Policy::Flexible);
    run_for(&mut pmu, MS);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.attach(id(3), ATTR, Policy::Flexible).unwrap();
    assert!(pmu.wants_guest_time() && !pmu.is_idle());
    run_for(&mut pmu, MS);
    let end = pmu.detach(id(3)).unwrap();
    assert_eq!((end.count, end.state), (MS, CounterState::Counting));
    assert_eq!(pmu.detach(id(3)), None);
    assert!(!pmu.wants_guest_time() && pmu.next_deadline().is_none());
    run_for(&mut pmu, MS);
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    run_for(&mut pmu, MS);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    assert_eq!((pmu.rdpmc(0), pmu.rdpmc(1)), (Some(2 * MS), Some(2 * MS)));
    pmu.release();
    assert_eq!(pmu.host_mut().open_events(), 0);
}

#[test]
fn a_guest_without_any_counter_has_its_monitor_alone() {
    let mut pmu = Any::new(fresh("intel-v2"), sim(1), Policy::Flexible);
    pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
    run_for(&mut pmu, MS);
    assert_eq!(view(&mut pmu, 0).count, MS);
    pmu.reset();
    run_for(&mut pmu, MS);
    assert_eq!(view(&mut pmu, 0).count, 2 * MS, "RESET is the guest's");
    assert!(pmu.detach(id(0)).is_some());
    assert_eq!(pmu.host_mut().open_events(), 0);
    assert!(!pmu.wants_guest_time(), "nothing is paid for nothing");
}

/// R-120, first class before the fourth: of two counters, the guest's two take
/// turns on the one that the monitor leaves.
#[test]
fn a_pinned_monitor_takes_a_counter_from_flexible_ones_which_are_scaled() {
    let mut pmu = guest(2, 2, Policy::Flexible);
    run_for(&mut pmu, 100 * MS);
    pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
    run_for(&mut pmu, 200 * MS);
    let monitor = view(&mut pmu, 0);
    assert_eq!(
        (monitor.count, monitor.state),
        (200 * MS, CounterState::Counting)
    );
    assert!(!monitor.times.is_scaled());
    let running: u64 = pmu.counters().map(|c| c.times.running.0).sum();
    assert_eq!(running, (2 * 100 + 200) * MS, "they have the other counter");
    for i in 0..2 {
        let value = pmu.rdpmc(i).unwrap();
        assert!(is_near(value, 300 * MS, 2), "{value}: R-163, scaled");
    }
    assert_eq!(pmu.totals().scaled_reads, 2);
    pmu.detach(id(0)).unwrap();
    run_for(&mut pmu, 50 * MS);
    for i in 0..2 {
        assert_eq!(state_of(&pmu, i), CounterState::Counting, "and get it back");
    }
}

/// R-120, first before second: the guest's pinned counter that was there first
/// gives way, visibly, and is back when it is enabled again.
#[test]
fn a_pinned_monitor_puts_the_guests_pinned_counter_into_error() {
    let mut pmu = guest(1, 1, Policy::Pinned);
    run_for(&mut pmu, MS);
    pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
    run_for(&mut pmu, MS);
    assert_eq!(view(&mut pmu, 0).count, MS);
    assert_eq!(state_of(&pmu, 0), CounterState::Error);
    assert_eq!(pmu.totals().pinned_errors, 1);
    assert_eq!(pmu.rdpmc(0), Some(MS));
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    assert_eq!(state_of(&pmu, 0), CounterState::Error);
    assert_eq!(pmu.totals().pinned_errors, 2, "again");
    pmu.detach(id(0)).unwrap();
    run_for(&mut pmu, MS);
    assert_eq!(state_of(&pmu, 0), CounterState::Error, "not by itself");
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    run_for(&mut pmu, MS);
    assert_eq!(pmu.rdpmc(0), Some(2 * MS));
}

/// R-120, second before third, although the host takes the counter from the
/// event that was opened last: here the monitor's, then the guest's.
#[test]
fn the_guests_pinned_counters_come_before_a_flexible_monitor() {
    let mut pmu = guest(1, 1, Policy::Pinned);
    pmu.attach(id(0), ATTR, Policy::Flexible).unwrap();
    run_for(&mut pmu, 100 * MS);
    assert_eq!(pmu.rdpmc(0), Some(100 * MS));
    let monitor = view(&mut pmu, 0);
    assert_eq!(
        (monitor.state, monitor.scaled()),
        (CounterState::Waiting, 0)
    );
    assert_eq!(monitor.times.enabled, Nanos(100 * MS));
    pmu.wrmsr(SEL0, 0).unwrap();
    // at the next tick.
    run_for(&mut pmu, 10 * MS);
    assert_eq!(view(&mut pmu, 0).state, CounterState::Counting);
    let other = CYCLES & !(1 << 16);
    pmu.wrmsr(SEL0, other).unwrap();
    run_for(&mut pmu, 10 * MS);
    assert_eq!(state_of(&pmu, 0), CounterState::Counting);
    assert_eq!(view(&mut pmu, 0).state, CounterState::Waiting);
    assert_eq!(pmu.totals().pinned_errors, 0);
    assert_eq!(pmu.totals().not_counted, 0);
}

/// two counters go at once, those of the classes above: what is left is
/// theirs, and all of it.
#[test]
fn those_who_lose_their_counters_to_the_host_take_them_from_lower_classes() {
    let mut pmu = Any::new(fresh("intel-v2"), sim(4), Policy::Pinned);
    // The host takes from the event that was opened last.
    for i in 0..2 {
        pmu.attach(id(i), ATTR, Policy::Flexible).unwrap();
    }
    pmu.wrmsr(SEL0, CYCLES).unwrap();
    pmu.attach(id(2), ATTR, Policy::Pinned).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    run_for(&mut pmu, 10 * MS);
    pmu.host_mut().leave(2);
    run_for(&mut pmu, 200 * MS);
    assert_eq!(state_of(&pmu, 0), CounterState::Counting);
    assert_eq!(view(&mut pmu, 2).state, CounterState::Counting);
    for i in 0..2 {
        assert_eq!(view(&mut pmu, i).state, CounterState::Waiting);
    }
    assert_eq!(pmu.totals().pinned_errors, 0);
    pmu.host_mut().leave(1);
    run_for(&mut pmu, 200 * MS);
    assert_eq!(view(&mut pmu, 2).state, CounterState::Counting);
    assert_eq!(state_of(&pmu, 0), CounterState::Error);
    assert_eq!(pmu.totals().pinned_errors, 1);
}

/// R-120, third before fourth, and R-171: the guest's flexible counters have
/// what flexible monitors leave.
#[test]
fn flexible_monitors_come_before_the_guests_flexible_counters() {
    let mut pmu = guest(2, 2, Policy::Flexible);
    pmu.attach(id(0), ATTR, Policy::Flexible).unwrap();
    run_for(&mut pmu, 200 * MS);
    let monitor = view(&mut pmu, 0);
    assert!(is_near(monitor.count, 200 * MS, 3), "{monitor:?}");
    for i in 0..2 {
        let value = pmu.rdpmc(i).unwrap();
        assert!(is_near(value, 200 * MS, 5), "{value}");
    }
    pmu.attach(id(1), ATTR, Policy::Flexible).unwrap();
    let before = [0, 1].map(|i| pmu.counters().nth(i).unwrap().times.running);
    run_for(&mut pmu, 100 * MS);
    let after = [0, 1].map(|i| pmu.counters().nth(i).unwrap().times.running);
    assert_eq!(before, after, "two monitors leave nothing of two");
    assert_eq!(
        [0, 1].map(|i| state_of(&pmu, i)),
        [CounterState::Waiting; 2]
    );
}

/// three monitors on two counters have two thirds each, with the
/// guest's PMU enabled or not.
#[test]
fn monitors_take_turns_among_themselves() {
    let mut pmu = Any::new(fresh("intel-v2"), sim(2), Policy::Flexible);
    for i in 0..3 {
        pmu.attach(id(i), ATTR, Policy::Flexible).unwrap();
    }
    run_for(&mut pmu, 600 * MS);
    for i in 0..3 {
        let monitor = view(&mut pmu, i);
        assert!(is_near(monitor.count, 400 * MS, 5), "{monitor:?}");
        assert!(is_near(monitor.scaled(), 600 * MS, 1), "{monitor:?}");
    }
}

/// R-018 for a monitor: visibly in error until it is attached anew, and no
/// trouble of the guest's.
#[test]
fn a_pinned_monitor_that_the_host_takes_is_in_error() {
    let mut pmu = guest(1, 2, Policy::Flexible);
    pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
    run_for(&mut pmu, 10 * MS);
    assert_eq!(view(&mut pmu, 0).count, 10 * MS);
    pmu.host_mut().leave(0);
    run_for(&mut pmu, 200 * MS);
    let monitor = view(&mut pmu, 0);
    assert_eq!(
        (monitor.state, monitor.count),
        (CounterState::Error, 10 * MS)
    );
    assert_eq!(
        (pmu.totals().pinned_errors, pmu.totals().not_counted),
        (0, 0)
    );
    pmu.host_mut().leave(2);
    assert!(pmu.detach(id(0)).is_some());
    run_for(&mut pmu, 600 * MS);
    pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
    run_for(&mut pmu, 10 * MS);
    assert_eq!(view(&mut pmu, 0).count, 10 * MS);
}

/// The host took all and gave it back while nothing flexible was there to find
/// it out: what is believed of the host is not believed for ever.
#[test]
fn a_pinned_guest_gets_counters_that_came_back_under_a_monitor() {
    let mut pmu = guest(2, 2, Policy::Pinned);
    pmu.attach(id(0), ATTR, Policy::Flexible).unwrap();
    run_for(&mut pmu, 10 * MS);
    pmu.host_mut().leave(1);
    run_for(&mut pmu, 200 * MS);
    assert_eq!(pmu.totals().pinned_errors, 1);
    pmu.detach(id(0)).unwrap();
    pmu.host_mut().leave(2);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    run_for(&mut pmu, MS);
    assert_eq!(
        [0, 1].map(|i| state_of(&pmu, i)),
        [CounterState::Counting; 2]
    );
    assert_eq!(pmu.totals().pinned_errors, 1);
}

#[test]
fn a_monitor_gives_the_guest_no_interrupt_and_no_status() {
    let mut pmu = guest(1, 2, Policy::Flexible);
    pmu.attach(id(0), ATTR, Policy::Flexible).unwrap();
    pmu.host_mut().occur(ArchEvent::Cycles, 1 << 47);
    for span in [1, 1 << 47] {
        pmu.host_mut().occur(ArchEvent::Cycles, span);
        pmu.guest_ran(Nanos(MS));
        pmu.poll();
    }
    assert!(pmu.take_pmi(), "the guest's own");
    pmu.wrmsr(GLOBAL_OVF_CTRL, 1).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.host_mut().occur(ArchEvent::Cycles, (1 << 62) + 5);
    pmu.guest_ran(Nanos(MS));
    pmu.poll();
    assert!(!pmu.take_pmi());
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(0));
    assert_eq!(pmu.totals().overflows, 1);
    assert!(
        view(&mut pmu, 0).count > 1 << 62,
        "beyond a counter's width"
    );
}

/// A monitor is the host's: the state is that of the guest's counters alone.
#[test]
fn a_saved_state_has_the_guests_counters_and_no_monitor() {
    for policy in [Policy::Flexible, Policy::Pinned] {
        for paused in [false, true] {
            let mut pmu = guest(2, 4, policy);
            let mut plain = guest(2, 4, policy);
            pmu.attach(id(0), ATTR, Policy::Pinned).unwrap();
            for pmu in [&mut pmu, &mut plain] {
                run_for(pmu, 7 * MS);
                pmu.wrmsr(GLOBAL_CTRL, if paused { 0 } else { 0xf })
                    .unwrap();
            }
            let bytes = pmu.save();
            assert_eq!(bytes, plain.save(), "the guest's alone");
            let mut again = Any::restore(fresh("intel-v2"), sim(4), policy, &bytes).unwrap();
            assert_eq!(again.save(), bytes);
            assert!(!again.has_monitors());
            assert_eq!(again.host_mut().open_events(), 2);
            again.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
            run_for(&mut again, MS);
            assert_eq!(
                (again.rdpmc(0), again.rdpmc(1)),
                (Some(8 * MS), Some(8 * MS))
            );
            assert_eq!(view(&mut pmu, 0).count, 7 * MS, "it goes on here");
        }
    }
}

#[test]
fn what_the_host_does_not_count_is_refused_and_leaves_nothing() {
    let host = SimPmu::quiet(4, ArchEventSet::EMPTY);
    let mut pmu = Any::new(fresh("intel-v2"), host, Policy::Flexible);
    let refused = AttachError::Refused(HostOpenError::Unsupported);
    assert_eq!(pmu.attach(id(0), ATTR, Policy::Flexible), Err(refused));
    assert!(!pmu.has_monitors() && !pmu.wants_guest_time());
    let raw = HostEvent {
        code: EventCode::Raw(RawEvent::of_event_sel(0x1d1)),
        ..ATTR
    };
    assert_eq!(pmu.attach(id(7), raw, Policy::Flexible), Ok(()));
    let taken = AttachError::Taken(id(7));
    assert_eq!(pmu.attach(id(7), raw, Policy::Flexible), Err(taken));
    assert_eq!(MonitorId::new(MonitorId::MAX), None);
}

/// On a clock, with the guest's counter and without: the same time.
#[test]
fn a_clock_derived_monitor_is_the_guests_time() {
    let mut pmu: VcpuPmu<Model, SoftwarePmu> = VcpuPmu::new(
        fresh("intel-v2"),
        SoftwarePmu::new(Khz(1_000_000)),
        Policy::Flexible,
    );
    for i in 0..MonitorId::MAX {
        pmu.attach(id(i), ATTR, Policy::Flexible).unwrap();
    }
    pmu.guest_ran(Nanos(1_000));
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(SEL0, CYCLES).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 1).unwrap();
    pmu.guest_ran(Nanos(500));
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.guest_ran(Nanos(300));
    pmu.poll();
    assert_eq!(pmu.rdpmc(0), Some(500));
    assert!(pmu.monitors().all(|monitor| monitor.count == 1_800));
    assert!(pmu.next_deadline().is_none_or(|d| d > Nanos(1 << 40)));
}
