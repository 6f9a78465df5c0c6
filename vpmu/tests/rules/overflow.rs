//! Overflow, frequency mode and throttling (2.O).

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockPmu};
use vpmu::sched::{
    AttrFlags, EventError, EventId, Overflow, PmuCaps, PmuClass, PmuDesc, next_period,
};
use vpmu::units::Nanos;

use crate::world::{World, task};

fn overflows(w: &mut World<MockPmu>, e: EventId, n: usize) -> Overflow {
    let mut last = Overflow::Continue;
    for _ in 0..n {
        last = w.s.overflow(w.now, e).unwrap();
    }
    last
}

#[test]
fn r204_the_vector_of_periods() {
    let mut period = 1;
    let mut seen = vec![];
    for count in [4_000_000, 4_000_000, 4_000_000, 4_000_000, 100, 100, 100] {
        period = next_period(period, 1000, Nanos(4_000_000), count);
        seen.push(period);
    }
    assert_eq!(
        seen,
        [
            125_001, 234_376, 330_079, 413_820, 362_095, 316_836, 277_234
        ]
    );
    assert_eq!(next_period(1, 1000, Nanos(1_000_000_000), 0), 1);
    // Products that do not fit 64 bits are thinned out, not wrapped.
    let big = next_period(1, 100_000, Nanos(u64::MAX >> 2), u64::MAX >> 3);
    assert!(big > 1 && big < 1 << 20, "{big}");
    assert!(next_period(1, 1, Nanos(1), u64::MAX) > 1 << 60);
    assert!(next_period(1, u64::MAX, Nanos(u64::MAX), 5) <= 2);
}

#[test]
fn r200_r201_r205_frequency_mode_adjusts_at_overflow() {
    let mut w = World::new(1);
    let e = w.open(task(&w).period(1000).flags(AttrFlags::FREQ));
    assert_eq!((w.s.sample_period(e), w.s.is_freq(e)), (Some(1), true));
    w.until(1);
    let adds = w.s.driver(w.pmus[0]).unwrap().stats().adds;
    assert_eq!(overflows(&mut w, e, 1), Overflow::Continue);
    let first = w.s.sample_period(e);
    w.until(2);
    let _ = overflows(&mut w, e, 1);
    assert_eq!((first, w.s.sample_period(e)), (Some(1), Some(1)));
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats().adds, adds);
}

#[test]
fn r202_r203_the_tick_serves_leaders() {
    let mut w = World::new(4);
    let freq = task(&w).period(1000).flags(AttrFlags::FREQ);
    let l = w.open(freq.clone());
    let s = w.open(freq.group(l));
    w.until(4);
    w.s.tick(w.now, VcpuId(0));
    assert_eq!(w.s.sample_period(l), Some(125_001));
    assert_eq!(w.s.sample_period(s), Some(1));
    assert_eq!(w.read(l).values[0].count.0, 4_000_000);
    // A throttled sibling stays stopped until it is scheduled in again.
    let mut w = World::new(4);
    let l = w.open(task(&w).period(1));
    let s = w.open(task(&w).period(1).group(l));
    let others = w.opens(1, &task(&w));
    assert_eq!(overflows(&mut w, s, 400), Overflow::Throttled);
    assert_eq!(overflows(&mut w, l, 400), Overflow::Throttled);
    w.until(4);
    w.s.tick(w.now, VcpuId(0));
    w.until(6);
    assert_eq!(
        (w.read(l).values[0].count.0, w.read(s).values[0].count.0),
        (2_000_000, 0)
    );
    assert_eq!((w.states(&[s]), w.times(s)), ("A".into(), (6, 6)));
    w.disable(others[0]);
    w.enable(others[0]);
    w.until(8);
    assert_eq!(w.read(s).values[0].count.0, 2_000_000);
}

#[test]
fn r206_throttling_ends_with_a_period_change_or_the_next_tick() {
    let mut w = World::new(1);
    let e = w.open(task(&w).period(1));
    assert_eq!(overflows(&mut w, e, 399), Overflow::Continue);
    w.s.tick(w.now, VcpuId(0));
    assert_eq!(overflows(&mut w, e, 399), Overflow::Continue);
    assert_eq!(overflows(&mut w, e, 1), Overflow::Throttled);
    assert_eq!(overflows(&mut w, e, 1), Overflow::Continue);
    w.s.set_period(w.now, e, 7).unwrap();
    w.until(3);
    assert!(!w.s.is_throttled(e));
    assert_eq!(w.read(e).values[0].count.0, 3_000_000);
    w.s.tick(w.now, VcpuId(99));
}

#[test]
fn r202_silent_pmus_are_skipped() {
    let mut w = World::new(1);
    let mut desc = PmuDesc::new("silent", PmuClass::Hardware);
    desc.caps = PmuCaps::NO_INTERRUPT;
    let p = w.add(desc, MockPmu::new(MockConfig::core(1)));
    let mut spec = task(&w).pmu(p).period(1000).flags(AttrFlags::FREQ);
    spec.request.in_kernel = true;
    let e = w.open(spec);
    w.until(4);
    w.s.tick(w.now, VcpuId(0));
    assert_eq!(w.s.sample_period(e), Some(1));
}

#[test]
fn r207_r208_counting_events_ignore_overflows() {
    let mut w = World::new(1);
    let e = w.open(task(&w));
    assert_eq!(overflows(&mut w, e, 1000), Overflow::Continue);
    assert!(!w.s.is_throttled(e));
    w.close(e);
    assert_eq!(w.s.overflow(w.now, e), Err(EventError::NoEvent));
    assert_eq!(w.s.sample_period(e), None);
}
