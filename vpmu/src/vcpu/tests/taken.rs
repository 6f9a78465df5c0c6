//! A process of the host takes every counter for a while: what the guest reads meanwhile
//! goes on at the event's own rate, and afterwards nothing is counted twice.

use super::*;

const MS: u64 = 1_000_000;
const OFF: u64 = CYCLES & !(1 << 22);

/// The guest runs for `span` in steps of `step`, and cycles occur, one each nanosecond.
fn run_for(pmu: &mut Pmu, span: u64, step: u64) {
    let end = pmu.schedule.now.0 + span;
    while pmu.schedule.now.0 < end {
        let deadline = pmu.next_deadline().map_or(step, |d| d.0.max(1));
        let now = step.min(deadline).min(end - pmu.schedule.now.0);
        pmu.host_mut().occur(ArchEvent::Cycles, now);
        pmu.guest_ran(Nanos(now));
        if now == deadline {
            pmu.poll();
        }
    }
}

/// Runs for 20 ms, and looks at the counter each millisecond: it never stands still.
fn read_along(pmu: &mut Pmu, what: &str) {
    let mut before = pmu.rdpmc(0).unwrap();
    for ms in 1..=20 {
        run_for(pmu, MS, MS / 20);
        let now = pmu.rdpmc(0).unwrap();
        let progress = now.checked_sub(before).expect("it never runs backwards");
        let near = MS * 8 / 10..=MS * 12 / 10;
        assert!(
            near.contains(&progress),
            "{what}, ms {ms}: {progress} cycles"
        );
        before = now;
    }
}

fn counting() -> Pmu {
    let mut pmu = pmu_with(4);
    write(&mut pmu, &[(GLOBAL_CTRL, 0), (SEL0, CYCLES)]);
    write(&mut pmu, &[(GLOBAL_CTRL, 1)]);
    run_for(&mut pmu, 500 * MS, MS);
    assert_eq!(pmu.rdpmc(0), Some(500 * MS));
    pmu
}

/// The guest has counted `expected` cycles, more or less, and counts exactly from now on.
fn ends_with(pmu: &mut Pmu, expected: u64) {
    let count = pmu.rdpmc(0).unwrap();
    assert!(count.abs_diff(expected) * 100 < expected, "{count}");
    run_for(pmu, 100 * MS, MS);
    let progress = pmu.rdpmc(0).unwrap() - count;
    assert!(progress.abs_diff(100 * MS) < 2 * MS, "{progress}");
}

/// G-103: the guest stops and starts its counter as for a task that comes and goes.
#[test]
fn windows_without_a_counter_are_counted_at_the_rate_of_before() {
    let mut pmu = counting();
    pmu.host_mut().leave(0);
    for window in 0..10 {
        read_along(&mut pmu, &format!("window {window}"));
        write(&mut pmu, &[(GLOBAL_CTRL, 0), (SEL0, OFF)]);
        let stopped = pmu.rdpmc(0);
        pmu.guest_ran(Nanos(5 * MS));
        write(&mut pmu, &[(SEL0, CYCLES), (GLOBAL_CTRL, 1)]);
        assert_eq!(pmu.rdpmc(0), stopped);
    }
    pmu.host_mut().leave(4);
    run_for(&mut pmu, 300 * MS, MS);
    ends_with(&mut pmu, 1_000 * MS);
}

/// Of the time from the last look to the loss the host keeps the count: it is estimated
/// until it comes, and not twice there then.
#[test]
fn a_loss_that_is_found_late_does_not_stop_the_count() {
    let mut pmu = counting();
    pmu.host_mut().occur(ArchEvent::Cycles, 150 * MS);
    pmu.host_mut().leave(0);
    // The host was slow: a second went by without a look.
    pmu.guest_ran(Nanos(1_000 * MS));
    let late = pmu.rdpmc(0).unwrap();
    assert!(late.abs_diff(1_500 * MS) < 15 * MS, "{late}");
    assert!(pmu.counters().next().unwrap().times.is_scaled());
    read_along(&mut pmu, "after the loss was found");
    pmu.host_mut().leave(4);
    run_for(&mut pmu, 300 * MS, MS);
    assert_eq!(states(&pmu, 1), [CounterState::Counting]);
    ends_with(&mut pmu, 1_820 * MS);
}

/// Another event on the counter for a while: that of cycles is closed and opened anew, and
/// has no past of its own. Whether counters are short is known then or not.
#[test]
fn an_event_that_is_opened_while_all_is_taken_has_its_rate_of_before() {
    let instructions = |pmu: &mut Pmu| {
        write(pmu, &[(GLOBAL_CTRL, 0), (SEL0, INSTRUCTIONS)]);
        write(pmu, &[(GLOBAL_CTRL, 1)]);
        pmu.guest_ran(Nanos(5 * MS));
        write(pmu, &[(GLOBAL_CTRL, 0)]);
    };
    for noticed in [true, false] {
        let mut pmu = counting();
        pmu.host_mut().leave(if noticed { 0 } else { 4 });
        instructions(&mut pmu);
        pmu.host_mut().leave(0);
        let mut cycles = 0;
        for window in 0..10 {
            if window > 0 {
                instructions(&mut pmu);
            }
            write(&mut pmu, &[(SEL0, CYCLES), (PMC0, 0), (GLOBAL_CTRL, 1)]);
            read_along(&mut pmu, &format!("window {window}, {noticed}"));
            let view = pmu.counters().next().unwrap();
            assert!(view.estimated, "{view:?}");
            cycles += pmu.rdpmc(0).unwrap();
        }
        assert_eq!(cycles, 200 * MS);
        let totals = pmu.totals();
        assert!(totals.estimated >= 9, "{totals:?}");
        // Nothing is known of instructions that never had a counter.
        assert_eq!(totals.starved, if noticed { 10 } else { 0 }, "{totals:?}");
        pmu.host_mut().leave(4);
        run_for(&mut pmu, 300 * MS, MS);
        ends_with(&mut pmu, 320 * MS);
    }
}
