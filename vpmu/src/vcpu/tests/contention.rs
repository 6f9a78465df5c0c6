//! Fewer host counters than the guest wants: turns, scaling, errors, recovery.

use super::*;
use crate::sched::EventState;

const MS: u64 = 1_000_000;
const SELS: [MsrIndex; 4] = [
    MsrIndex(0x186),
    MsrIndex(0x187),
    MsrIndex(0x188),
    MsrIndex(0x189),
];
const COUNTERS: [MsrIndex; 4] = [
    MsrIndex(0x4c1),
    MsrIndex(0x4c2),
    MsrIndex(0x4c3),
    MsrIndex(0x4c4),
];

fn pmu(policy: Policy, host_counters: usize) -> Pmu {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    let host = SimPmu::new(host_counters, ArchEventSet::ALL);
    let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, policy);
    for sel in SELS {
        write(&mut pmu, &[(GLOBAL_CTRL, 0), (sel, CYCLES)]);
    }
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    pmu
}

/// The guest runs for `span`, one cycle a nanosecond; PMIs are taken at once and
/// handled by rewriting the counters that have overflowed with `reload`. Returns
/// how many came.
fn run_for(pmu: &mut Pmu, span: u64, reload: Option<u64>) -> u64 {
    const STEP: u64 = 10_000;
    let (mut left, mut pmis) = (span, 0);
    while left > 0 {
        let deadline = pmu.next_deadline().map_or(STEP, |d| d.0.max(1));
        let step = left.min(STEP).min(deadline);
        pmu.host_mut().occur(ArchEvent::Cycles, step);
        pmu.guest_ran(Nanos(step));
        if pmu.host_mut().take_interrupt() || step == deadline {
            pmu.poll();
        }
        if pmu.take_pmi() {
            pmis += 1;
            pmu.pmi_was_delivered();
            write(pmu, &[(GLOBAL_CTRL, 0)]);
            let status = pmu.rdmsr(GLOBAL_STATUS).unwrap();
            for (i, counter) in COUNTERS.into_iter().enumerate() {
                if let Some(value) = reload.filter(|_| status >> i & 1 == 1) {
                    write(pmu, &[(counter, value)]);
                }
            }
            write(pmu, &[(GLOBAL_OVF_CTRL, status), (GLOBAL_CTRL, 0xf)]);
        }
        left -= step;
    }
    pmis
}

fn values(pmu: &mut Pmu) -> [u64; 4] {
    [0, 1, 2, 3].map(|i| pmu.rdpmc(i).unwrap())
}

fn all_states(pmu: &Pmu) -> [CounterState; 4] {
    let mut states = pmu.counters().map(|c| c.state);
    [(); 4].map(|()| states.next().unwrap())
}

fn is_near(value: u64, expected: u64, percent: u64) -> bool {
    value.abs_diff(expected) * 100 <= expected * percent
}

/// with two counters for four events, each has half the time, and reads
/// as if it had all.
#[test]
fn flexible_counters_take_turns_and_are_scaled() {
    let mut pmu = pmu(Policy::Flexible, 2);
    run_for(&mut pmu, 400 * MS, None);
    for (value, view) in values(&mut pmu)
        .into_iter()
        .zip(pmu.counters().collect::<Vec<_>>())
    {
        assert!(is_near(value, 400 * MS, 2), "{value}");
        assert!(view.times.is_scaled());
        assert!(
            is_near(view.times.enabled.0, 400 * MS, 1),
            "{:?}",
            view.times
        );
        assert!(
            is_near(view.times.running.0, 200 * MS, 5),
            "{:?}",
            view.times
        );
    }
    let totals = pmu.totals();
    assert!(
        is_near(totals.rotations, 100, 5),
        "{totals:?}: one each 4 ms"
    );
    assert_eq!(totals.scaled_reads, 4);
    assert_eq!(totals.not_counted, 0, "taking turns is no trouble");
    assert_eq!(pmu.host_mut().in_use(), 2);
}

#[test]
fn what_the_guest_reads_never_runs_backwards() {
    let mut pmu = pmu(Policy::Flexible, 1);
    let mut before = [0; 4];
    for step in 0..2_000 {
        // Now busy, now idle: the estimate is wrong all the time.
        if step % 7 < 3 {
            pmu.guest_ran(Nanos(700_000));
            pmu.poll();
        } else {
            run_for(&mut pmu, 90_000, None);
        }
        let now = values(&mut pmu);
        for (now, before) in now.into_iter().zip(before) {
            assert!(now >= before, "step {step}");
        }
        before = now;
    }
}

#[test]
fn a_stopped_counter_stands_still_although_its_turn_had_not_come() {
    let mut pmu = pmu(Policy::Flexible, 1);
    run_for(&mut pmu, 30 * MS, None);
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    let stopped = values(&mut pmu);
    run_for(&mut pmu, 30 * MS, None);
    assert_eq!(values(&mut pmu), stopped, "G-103");
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    assert_eq!(values(&mut pmu), stopped, "times stood still as well");
    let before = pmu.totals().scaled_reads;
    write(&mut pmu, &[(SELS[3], CYCLES & !(1 << 22))]);
    let last = values(&mut pmu)[3];
    assert_eq!(pmu.totals().scaled_reads, before + 4, "stopped or not");
    run_for(&mut pmu, 30 * MS, None);
    assert_eq!(values(&mut pmu)[3], last);
}

///
#[test]
fn a_pinned_counter_without_room_is_in_error_until_it_is_enabled_again() {
    let mut pmu = pmu(Policy::Pinned, 3);
    run_for(&mut pmu, 10 * MS, None);
    let [a, b, c, d] = all_states(&pmu);
    assert_eq!([a, b, c], [CounterState::Counting; 3]);
    assert_eq!(d, CounterState::Error);
    assert_eq!(
        values(&mut pmu),
        [10 * MS, 10 * MS, 10 * MS, 0],
        "nothing is scaled"
    );
    assert_eq!(
        (pmu.totals().pinned_errors, pmu.totals().not_counted),
        (1, 1)
    );
    pmu.host_mut().leave(4);
    run_for(&mut pmu, 10 * MS, None);
    assert_eq!(all_states(&pmu)[3], CounterState::Error, "not by itself");
    write(
        &mut pmu,
        &[(SELS[3], CYCLES & !(1 << 22)), (SELS[3], CYCLES)],
    );
    run_for(&mut pmu, 10 * MS, None);
    assert_eq!(all_states(&pmu), [CounterState::Counting; 4]);
    assert_eq!(values(&mut pmu)[3], 10 * MS);
}

#[test]
fn a_pinned_counter_that_the_host_takes_is_seen_without_a_read() {
    let mut pmu = pmu(Policy::Pinned, 4);
    run_for(&mut pmu, 10 * MS, None);
    pmu.host_mut().leave(0);
    run_for(&mut pmu, 100 * MS, None);
    assert_eq!(all_states(&pmu), [CounterState::Error; 4]);
    assert_eq!(pmu.totals().host_revocations, 4);
    pmu.host_mut().leave(4);
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (GLOBAL_CTRL, 0xf)]);
    assert_eq!(
        all_states(&pmu),
        [CounterState::Counting; 4],
        "enabled again"
    );
    assert_eq!(
        values(&mut pmu),
        [10 * MS; 4],
        "and nothing counted is lost"
    );
}

#[test]
fn flexible_counters_get_over_a_host_that_takes_all() {
    let mut pmu = pmu(Policy::Flexible, 4);
    run_for(&mut pmu, 50 * MS, None);
    assert_eq!(values(&mut pmu), [50 * MS; 4]);
    pmu.host_mut().leave(0);
    run_for(&mut pmu, 200 * MS, None);
    assert_eq!(all_states(&pmu), [CounterState::Waiting; 4]);
    assert_eq!(pmu.totals().host_revocations, 4);
    assert!(pmu.next_deadline().is_some(), "it is tried again");
    pmu.host_mut().leave(4);
    run_for(&mut pmu, 600 * MS, None);
    assert_eq!(all_states(&pmu), [CounterState::Counting; 4]);
    for view in pmu.counters().take(4) {
        assert!(view.times.is_scaled());
    }
    for value in values(&mut pmu) {
        assert!(
            is_near(value, 850 * MS, 20),
            "{value}: estimated, not silently low"
        );
    }
}

/// A PMI for each overflow of what the guest sees, also of a counter that was
/// off its PMU in between: with the sum of all periods and the rest, nothing is
/// lost and nothing doubled.
#[test]
fn sampling_under_multiplexing_loses_no_overflow() {
    const PERIOD: u64 = 250_000;
    let mut pmu = pmu(Policy::Flexible, 2);
    let start = MASK + 1 - PERIOD;
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    for counter in COUNTERS {
        write(&mut pmu, &[(counter, start)]);
    }
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    run_for(&mut pmu, 1_000 * MS, Some(start));
    let totals = pmu.totals();
    let expected = 4 * 1_000 * MS / PERIOD;
    // What runs on between an overflow and its handling is not in a period.
    assert!(is_near(totals.overflows, expected, 8), "{totals:?}");
    assert_eq!(totals.pmis_suppressed, 0);
    assert!(
        totals.pmis_injected <= totals.overflows,
        "one PMI may tell of several"
    );
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(0), "none waits untold");
}

#[test]
fn a_counter_that_never_had_its_turn_is_told_of() {
    let mut pmu = pmu(Policy::Flexible, 2);
    run_for(&mut pmu, MS, None);
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    assert_eq!(values(&mut pmu), [MS, MS, 0, 0], "no turn, no estimate");
    assert_eq!(pmu.totals().starved, 2);
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf), (GLOBAL_CTRL, 0)]);
    assert_eq!(pmu.totals().starved, 2, "once");
}

/// The limit is found anew when the host gives more.
#[test]
fn more_host_counters_are_found_within_a_few_rotations() {
    let mut pmu = pmu(Policy::Flexible, 1);
    run_for(&mut pmu, 400 * MS, None);
    assert_eq!(pmu.host_mut().in_use(), 1);
    pmu.host_mut().leave(3);
    run_for(&mut pmu, 300 * MS, None);
    assert_eq!(pmu.host_mut().in_use(), 3);
    assert_eq!(
        pmu.schedule
            .event_state(Pmc::gp(0).unwrap())
            .map(EventState::is_enabled),
        Some(true)
    );
}

#[test]
fn an_idle_guest_holds_no_host_event_after_release() {
    let mut pmu = pmu(Policy::Flexible, 4);
    run_for(&mut pmu, MS, None);
    assert!(!pmu.is_idle());
    pmu.release();
    assert_eq!(pmu.host_mut().open_events(), 4, "not while it counts");
    write(&mut pmu, &[(GLOBAL_CTRL, 0)]);
    assert!(pmu.is_idle());
    assert_eq!(pmu.next_deadline(), None);
    assert!(!pmu.wants_guest_time());
    pmu.release();
    assert_eq!(pmu.host_mut().open_events(), 0);
    assert!(!pmu.is_idle());
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    run_for(&mut pmu, MS, None);
    assert_eq!(values(&mut pmu), [2 * MS; 4]);
}
