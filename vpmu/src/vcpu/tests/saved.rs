//! Saving and restoring: counters that take turns or are in error, other hosts,
//! models and rules.

use super::*;
use crate::guest::{CoreType, Model, ModelConfig, ModelKind};
use crate::host::EventCode;
use crate::ids::MonitorId;
use crate::rules::{CodesId, EventFilter, FilterLists};
use crate::state::{self, RestoreError};
use crate::x86::cpuid::Vendor;
use crate::x86::event::RawEvent;

const MS: u64 = 1_000_000;
const ICE_LAKE: CodesId = CodesId::new(Vendor::Intel, 0x606a6, None);

pub(super) type Any = VcpuPmu<Model, SimPmu>;

pub(super) fn fresh(name: &str) -> Model {
    let kind = ModelKind::from_name(name).unwrap();
    Model::new(ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap())
}

pub(super) fn sim(counters: usize) -> SimPmu {
    SimPmu::quiet(counters, ArchEventSet::ALL)
}

const PERIOD: u64 = 250_000;

fn four_counters(host_counters: usize, policy: Policy, start: u64) -> Any {
    let mut pmu = Any::new(fresh("intel-v2"), sim(host_counters), policy);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    for i in 0..4 {
        pmu.wrmsr(MsrIndex(SEL0.0 + i), CYCLES).unwrap();
        pmu.wrmsr(MsrIndex(PMC0.0 + i), start).unwrap();
    }
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    pmu
}

fn restored(pmu: &mut Any, host_counters: usize, policy: Policy) -> Result<Any, RestoreError> {
    Any::restore(fresh("intel-v2"), sim(host_counters), policy, &pmu.save())
}

/// One cycle a nanosecond; PMIs are handled at once.
fn run_for(pmu: &mut Any, span: u64, reload: Option<u64>) {
    run_with(pmu, span, |pmu| {
        if pmu.take_pmi() {
            handle(pmu, reload);
        }
    });
}

/// One cycle a nanosecond; `each` does what the guest does now and then.
pub(super) fn run_with(pmu: &mut Any, span: u64, mut each: impl FnMut(&mut Any)) {
    let mut left = span;
    while left > 0 {
        let deadline = pmu.next_deadline().map_or(10_000, |d| d.0.max(1));
        let step = left.min(10_000).min(deadline);
        pmu.host_mut().occur(ArchEvent::Cycles, step);
        pmu.guest_ran(Nanos(step));
        if pmu.host_mut().take_interrupt() || step == deadline {
            pmu.poll();
        }
        each(pmu);
        left -= step;
    }
}

fn handle(pmu: &mut Any, reload: Option<u64>) {
    pmu.pmi_was_delivered();
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    let status = pmu.rdmsr(GLOBAL_STATUS).unwrap();
    for i in (0..4).filter(|i| status >> i & 1 == 1) {
        if let Some(value) = reload {
            pmu.wrmsr(MsrIndex(PMC0.0 + i), value).unwrap();
        }
    }
    pmu.wrmsr(GLOBAL_OVF_CTRL, status).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
}

fn values(pmu: &mut Any) -> [u64; 4] {
    [0, 1, 2, 3].map(|i| pmu.rdpmc(i).unwrap())
}

/// Restored four times as often as counters change: turns, times and estimates
/// go on where they were.
#[test]
fn turns_go_on_where_they_were() {
    let mut pmu = four_counters(2, Policy::Flexible, 0);
    let mut before = [0; 4];
    for round in 1..=1_000 {
        run_for(&mut pmu, MS, None);
        pmu = restored(&mut pmu, 2, Policy::Flexible).unwrap();
        let now = values(&mut pmu);
        let grew = now.iter().zip(before).all(|(now, before)| *now >= before);
        assert!(grew, "round {round}: {before:?} to {now:?}");
        before = now;
    }
    for (value, view) in before.into_iter().zip(pmu.counters().collect::<Vec<_>>()) {
        assert_eq!(value, 1_000 * MS, "to the event");
        assert_eq!(view.times.enabled, Nanos(1_000 * MS));
        let running = view.times.running.0;
        assert!(running.abs_diff(500 * MS) <= 4 * MS, "a turn: {running}");
    }
    assert_eq!(pmu.totals().rotations, 250, "one each 4 ms");
}

#[test]
fn sampling_under_multiplexing_loses_no_overflow_by_restores() {
    let start = MASK + 1 - PERIOD;
    let mut pmu = four_counters(2, Policy::Flexible, start);
    for _ in 0..1_000 {
        run_for(&mut pmu, MS - 7, Some(start));
        pmu = restored(&mut pmu, 2, Policy::Flexible).unwrap();
        if pmu.take_pmi() {
            handle(&mut pmu, Some(start));
        }
    }
    let totals = pmu.totals();
    // What was counted past an overflow before it was seen, the handler drops.
    let under_way: u64 = values(&mut pmu).iter().map(|value| value - start).sum();
    let counted = totals.overflows * PERIOD + totals.skid + under_way;
    assert_eq!(counted, 4 * 1_000 * (MS - 7), "{totals:?}");
    assert!(totals.pmis_injected <= totals.overflows && totals.pmis_suppressed == 0);
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(0), "none waits untold");
}

#[test]
fn fewer_host_counters_are_shared_by_flexible_ones_and_refused_to_pinned_ones() {
    let mut flexible = four_counters(4, Policy::Flexible, 0);
    run_for(&mut flexible, 100 * MS, None);
    let mut flexible = restored(&mut flexible, 2, Policy::Flexible).unwrap();
    assert_eq!(
        values(&mut flexible),
        [100 * MS; 4],
        "so far all is counted"
    );
    run_for(&mut flexible, 300 * MS, None);
    assert_eq!(flexible.host_mut().in_use(), 2);
    assert_eq!(values(&mut flexible), [400 * MS; 4]);
    let mut pinned = four_counters(4, Policy::Pinned, 0);
    run_for(&mut pinned, MS, None);
    let refused = restored(&mut pinned, 3, Policy::Pinned).unwrap_err();
    let pmc = Pmc::gp(3).unwrap();
    assert_eq!(refused, RestoreError::TooFewCounters { pmc });
    pinned.wrmsr(GLOBAL_CTRL, 0).unwrap();
    let refused = restored(&mut pinned, 3, Policy::Pinned).unwrap_err();
    assert_eq!(
        refused,
        RestoreError::TooFewCounters { pmc },
        "off for a moment"
    );
    assert!(restored(&mut pinned, 4, Policy::Pinned).is_ok());
}

#[test]
fn a_counter_in_error_stays_so_until_the_guest_enables_it() {
    let mut pmu = four_counters(3, Policy::Pinned, 0);
    run_for(&mut pmu, MS, None);
    let mut pmu = restored(&mut pmu, 4, Policy::Pinned).unwrap();
    run_for(&mut pmu, MS, None);
    let states: Vec<_> = pmu.counters().map(|c| c.state).take(4).collect();
    assert_eq!(states[3], CounterState::Error);
    assert_eq!(values(&mut pmu), [2 * MS, 2 * MS, 2 * MS, 0]);
    assert_eq!(
        (pmu.totals().pinned_errors, pmu.totals().not_counted),
        (1, 1)
    );
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    run_for(&mut pmu, MS, None);
    assert_eq!(values(&mut pmu), [3 * MS, 3 * MS, 3 * MS, MS]);
}

#[test]
fn another_model_other_rules_and_a_host_that_cannot_count_it_are_refused() {
    let mut pmu = four_counters(4, Policy::Flexible, 0);
    let bytes = pmu.save();
    assert_eq!(state::identity(&bytes), Ok(fresh("intel-v2").identity()));
    assert_eq!(state::identity(&bytes[1..]), Err(RestoreError::Foreign));
    let error = Any::restore(fresh("intel-v3"), sim(4), Policy::Flexible, &bytes).unwrap_err();
    let text = alloc::string::ToString::to_string(&error);
    assert!(
        text.contains("is intel-v2") && text.contains("this PMU is intel-v3"),
        "{text}"
    );
    assert_eq!(
        restored(&mut pmu, 4, Policy::Pinned).unwrap_err(),
        RestoreError::OtherRules("policy")
    );
    let rules = Rules {
        filter: EventFilter::All,
        ..Rules::default()
    };
    let error = Any::restore(fresh("intel-v2"), sim(4), rules, &bytes).unwrap_err();
    assert_eq!(error, RestoreError::OtherRules("event filter"));
    let instructions = ArchEventSet::EMPTY.with(ArchEvent::Instructions);
    let host = SimPmu::new(4, instructions);
    let error = Any::restore(fresh("intel-v2"), host, Policy::Flexible, &bytes).unwrap_err();
    assert!(matches!(error, RestoreError::Refused { .. }), "{error}");
}

/// What the host counted and did not give before it took the counter away is
/// estimated from the rest, and says so; it is not a low count that says nothing.
#[test]
fn a_count_that_the_host_kept_is_made_up_for_by_scaling() {
    let mut pmu = Any::new(fresh("intel-v2"), sim(1), Policy::Flexible);
    pmu.wrmsr(SEL0, CYCLES).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 1).unwrap();
    run_for(&mut pmu, 60 * MS, None);
    pmu.host_mut().lose(HostEventId(0));
    let mut pmu = restored(&mut pmu, 1, Policy::Flexible).unwrap();
    run_for(&mut pmu, 60 * MS, None);
    assert_eq!(pmu.rdpmc(0), Some(120 * MS));
    assert_eq!(pmu.totals().scaled_reads, 1, "and is marked");
    let times = pmu.counters().next().unwrap().times;
    assert_eq!(
        (times.enabled, times.running),
        (Nanos(120 * MS), Nanos(60 * MS))
    );
}

/// The same where a part had been read, and the event had had its turns.
#[test]
fn only_what_was_not_read_is_estimated() {
    let mut pmu = four_counters(2, Policy::Flexible, 0);
    run_for(&mut pmu, 50 * MS, None);
    let before = values(&mut pmu);
    run_for(&mut pmu, MS, None);
    let counts = |c: &CounterView| c.state == CounterState::Counting;
    let lost = pmu.counters().position(|c| counts(&c)).unwrap();
    pmu.host_mut().lose(HostEventId(lost));
    let mut pmu = restored(&mut pmu, 2, Policy::Flexible).unwrap();
    run_for(&mut pmu, MS, None);
    let now = values(&mut pmu);
    for (i, (now, before)) in now.into_iter().zip(before).enumerate() {
        assert!(now >= before, "{i}");
        assert_eq!(now, 52 * MS, "{i}");
    }
}

/// Nothing is scaled of a pinned counter: what could not be read belongs to the
/// time in error.
#[test]
fn a_pinned_counter_in_error_ends_at_its_last_read() {
    let mut pmu = Any::new(fresh("intel-v2"), sim(1), Policy::Pinned);
    pmu.wrmsr(SEL0, CYCLES).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 1).unwrap();
    run_for(&mut pmu, 20 * MS, None);
    assert_eq!(pmu.rdpmc(0), Some(20 * MS));
    run_for(&mut pmu, 40 * MS, None);
    pmu.host_mut().lose(HostEventId(0));
    let mut pmu = restored(&mut pmu, 1, Policy::Pinned).unwrap();
    let view = pmu.counters().next().unwrap();
    assert_eq!(view.state, CounterState::Error);
    assert_eq!(
        (view.times.enabled, view.times.running),
        (Nanos(20 * MS), Nanos(20 * MS))
    );
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 1).unwrap();
    run_for(&mut pmu, 10 * MS, None);
    assert_eq!(pmu.rdpmc(0), Some(30 * MS));
    assert_eq!(pmu.totals().scaled_reads, 0);
}

/// The guest had chosen a raw event, and one that no host event stands for.
#[test]
fn what_is_not_counted_is_so_afterwards_and_noted_once() {
    let rules = || Rules {
        filter: EventFilter::All,
        codes: Some(ICE_LAKE),
        ..Rules::default()
    };
    let mut pmu = Any::new(fresh("intel-v4"), sim(4), rules());
    pmu.wrmsr(SEL0, 0x53_01d1).unwrap();
    pmu.wrmsr(SEL1, 0x73_003c).unwrap(); // AnyThread
    let bytes = pmu.save();
    let mut again = Any::restore(fresh("intel-v4"), sim(4), rules(), &bytes).unwrap();
    assert_eq!(again.save(), bytes);
    assert_eq!(again.totals(), pmu.totals());
    assert_eq!(states(&again, 2), states(&pmu, 2));
    assert!(matches!(states(&again, 2)[1], CounterState::NotBacked(_)));
}

/// A code that means another event would be counts that are silently wrong; also
/// of a guest that has none now and will choose one by the CPU that it was told of.
#[test]
fn event_codes_do_not_go_on_where_they_may_mean_other_events() {
    let rules = |filter: &EventFilter, codes| Rules {
        filter: filter.clone(),
        codes,
        ..Rules::default()
    };
    let code = EventCode::Raw(RawEvent::of_event_sel(0x1d1));
    let cycles = EventCode::Architectural(ArchEvent::Cycles);
    let lists = |allow: &[_], deny: &[_]| {
        let lists = FilterLists::new(allow.iter().copied(), deny.iter().copied());
        EventFilter::Lists(lists)
    };
    let others = [
        CodesId::new(Vendor::Intel, 0x806f8, None), // Sapphire Rapids
        CodesId::new(Vendor::Intel, 0x606a6, Some(CoreType::Atom)),
        CodesId::new(Vendor::Amd, 0x606a6, None),
    ];
    for (filter, matters) in [
        (EventFilter::All, true),
        (lists(&[code, cycles], &[]), true),
        (lists(&[], &[cycles]), true),
        // The name stands for a code, which may have modifiers.
        (lists(&[cycles], &[code]), true),
        (EventFilter::Architectural, false),
    ] {
        for select in [0x53_01d1, CYCLES] {
            let host = rules(&filter, Some(ICE_LAKE));
            let mut pmu = Any::new(fresh("intel-v2"), sim(4), host);
            pmu.wrmsr(SEL0, select).unwrap();
            pmu.wrmsr(GLOBAL_CTRL, 1).unwrap();
            let bytes = pmu.save();
            let on = |codes| {
                let rules = rules(&filter, codes);
                Any::restore(fresh("intel-v2"), sim(4), rules, &bytes).err()
            };
            assert_eq!(on(Some(ICE_LAKE)), None, "{filter:?}");
            let refused = RestoreError::OtherRules("meaning of raw events");
            let expected = matters.then_some(refused);
            assert_eq!(on(None), expected, "{filter:?}");
            for other in others {
                assert_eq!(on(Some(other)), expected, "{filter:?}, {other:?}");
            }
        }
    }
}

/// While the guest's PMU is disabled beside monitors, its counters are off the CPU
/// and none waits: the timer that runs is the monitors'.
#[test]
fn the_turn_of_monitors_is_not_the_guests() {
    let mut pmu = four_counters(2, Policy::Flexible, 0);
    run_for(&mut pmu, MS, None);
    assert_eq!(pmu.schedule.rest_of_turn(), Some(Nanos(3 * MS)));
    for i in 0..3 {
        let id = MonitorId::new(i).unwrap();
        pmu.attach(id, monitors::ATTR, Policy::Flexible).unwrap();
    }
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    run_for(&mut pmu, 2 * MS, None);
    assert!(pmu.next_deadline().is_some(), "theirs");
    assert_eq!(pmu.schedule.rest_of_turn(), None);
}

/// What the old host refused and this one would count, but for a counter.
#[test]
fn trouble_of_a_restore_is_counted() {
    let old = SimPmu::quiet(2, ArchEventSet::EMPTY.with(ArchEvent::Cycles));
    let mut pmu = Any::new(fresh("intel-v2"), old, Policy::Pinned);
    pmu.wrmsr(SEL0, CYCLES).unwrap();
    pmu.wrmsr(SEL1, INSTRUCTIONS).unwrap();
    pmu.wrmsr(GLOBAL_CTRL, 3).unwrap();
    run_for(&mut pmu, MS, None);
    assert_eq!(
        (pmu.totals().pinned_errors, pmu.totals().not_counted),
        (0, 1)
    );
    let pmu = restored(&mut pmu, 1, Policy::Pinned).unwrap();
    assert_eq!(
        states(&pmu, 2),
        [CounterState::Counting, CounterState::Error]
    );
    assert_eq!(
        (pmu.totals().pinned_errors, pmu.totals().not_counted),
        (1, 2)
    );
}

/// Found by fuzzing: as on Linux, a counter that waits does so to the next
/// rotation also when another one has become free.
#[test]
fn a_restore_ends_a_turn_that_nobody_needs() {
    let mut pmu = four_counters(2, Policy::Flexible, 0);
    run_for(&mut pmu, 5 * MS, None);
    let running = |pmu: &Any| {
        let views = pmu.counters().filter(|c| c.state == CounterState::Counting);
        views.map(|c| c.pmc).collect::<Vec<_>>()
    };
    for pmc in running(&pmu) {
        let index = u32::try_from(pmc.slot()).unwrap();
        pmu.wrmsr(MsrIndex(SEL0.0 + index), 0).unwrap();
    }
    assert_eq!(running(&pmu), []);
    let mut second = restored(&mut pmu, 2, Policy::Flexible).unwrap();
    assert_eq!(running(&second).len(), 2);
    let mut third = restored(&mut second, 2, Policy::Flexible).unwrap();
    assert_eq!(third.save(), second.save());
    run_for(&mut third, 10 * MS, None);
    assert_eq!(third.schedule.rest_of_turn(), None);
}
