//! The constraint solver and the x86 PMU (2.P).

use vpmu::ids::VcpuId;
use vpmu::sched::constraints::{X86Model, X86Pmu};
use vpmu::sched::solver::{Constraint, assign, reuse};
use vpmu::sched::{Errno, EventAttr, EventId, PmuClass, PmuDesc, ScopePolicy, ScopeTopology};

use crate::world::{Spec, World, task};

fn bits(list: &[u32]) -> u64 {
    list.iter().fold(0, |m, b| m | 1 << b)
}

fn solve(gp_max: u32, sets: &[(&[u32], bool)]) -> Option<Vec<u32>> {
    let sets: Vec<_> = sets
        .iter()
        .map(|(s, overlap)| Constraint {
            permitted: bits(s),
            overlap: *overlap,
        })
        .collect();
    let mut out = vec![0; sets.len()];
    assign(&sets, gp_max, &mut out).then_some(out)
}

const ALL: (&[u32], bool) = (&[0, 1, 2, 3], false);

#[test]
fn r228_r218_r219_r220_r222_solver_vectors() {
    let plain = |s: &'static [u32]| (s, false);
    let over = |s: &'static [u32]| (s, true);
    let (p01, p32) = (plain(&[0, 1]), plain(&[32, 0, 1, 2, 3]));
    assert_eq!(
        solve(4, &[ALL, ALL, ALL, plain(&[0])]),
        Some(vec![1, 2, 3, 0])
    );
    assert_eq!(solve(4, &[p01, p01, ALL]), Some(vec![0, 1, 2]));
    assert_eq!(solve(4, &[p01, p01, p01]), None);
    assert_eq!(
        solve(4, &[p01, plain(&[1, 2]), plain(&[1, 2])]),
        Some(vec![0, 1, 2])
    );
    assert_eq!(solve(4, &[p01, plain(&[0, 2]), p01]), Some(vec![0, 2, 1]));
    let six = [
        plain(&[0, 3]),
        plain(&[0, 1, 2]),
        plain(&[3, 4, 5]),
        plain(&[0]),
    ];
    assert_eq!(solve(6, &six), Some(vec![3, 1, 4, 0]));
    assert_eq!(
        solve(6, &[over(&[0, 3]), plain(&[0, 1, 2]), p01]),
        Some(vec![0, 2, 1])
    );
    assert_eq!(solve(3, &[plain(&[0, 2]), p01, p01]), None);
    assert_eq!(solve(3, &[over(&[0, 2]), p01, p01]), None);
    assert_eq!(solve(4, &[over(&[0, 2]), p01, p01]), Some(vec![2, 0, 1]));
    assert_eq!(solve(2, &[over(&[0, 1]), plain(&[0])]), Some(vec![1, 0]));
    assert_eq!(
        solve(4, &[p32, p32, ALL, ALL, ALL]),
        Some(vec![32, 3, 0, 1, 2])
    );
    assert_eq!(solve(4, &[p32, p32, ALL, ALL, ALL, ALL]), None);
    assert_eq!(solve(2, &[ALL, ALL, ALL, plain(&[33])]), None);
}

#[test]
fn r217_one_miss_ends_the_fast_path() {
    let any = Constraint::of(15);
    let mut out = [0; 2];
    assert!(reuse(&[any, any], &[Some(3), Some(1)], &mut out));
    assert_eq!(out, [3, 1]);
    assert!(!reuse(&[any, any], &[Some(3), None], &mut out));
    assert!(!reuse(&[any, any], &[Some(3), Some(3)], &mut out));
    assert!(!reuse(
        &[Constraint::of(1), any],
        &[Some(3), Some(1)],
        &mut out
    ));
    assert!(!reuse(&[any, any], &[Some(3)], &mut out));
    assert!(!assign(&[any, any], 4, &mut [0]));
}

/// Permitted set in `config`, overlap in bit 63, rate 1; 0 is no event.
fn decode(attr: &EventAttr) -> Option<(Constraint, u64)> {
    let permitted = attr.config & !(1 << 63);
    (attr.config1 != 1).then_some((
        Constraint {
            permitted,
            overlap: attr.config >> 63 != 0,
        },
        1,
    ))
}

fn world(gp: u32, fixed: u32) -> World<X86Pmu> {
    let mut w = World::empty(ScopeTopology::flat(2), ScopePolicy::Linux612);
    w.add(
        PmuDesc::new("cpu", PmuClass::Hardware),
        X86Pmu::new(X86Model { gp, fixed, decode }),
    );
    w
}

fn on(w: &World<X86Pmu>, list: &[u32]) -> Spec {
    task(w).config(bits(list))
}

fn any(w: &World<X86Pmu>) -> Spec {
    on(w, &[0, 1, 2, 3])
}

fn counters(w: &World<X86Pmu>, events: &[EventId]) -> Vec<Option<u32>> {
    let driver = w.s.driver(w.pmus[0]).unwrap();
    let active = |e: &EventId| w.states(&[*e]) == "A";
    events
        .iter()
        .map(|e| driver.counter(*e).filter(|_| active(e)))
        .collect()
}

#[test]
fn row_42_r215_r216_r221_indices_of_rotating_events() {
    let mut w = world(4, 0);
    let e = w.opens(6, &any(&w));
    let rows = [
        [Some(0), Some(1), Some(2), Some(3), None, None],
        [None, Some(0), Some(1), Some(2), Some(3), None],
        [None, None, Some(0), Some(1), Some(2), Some(3)],
        [Some(0), None, None, Some(1), Some(2), Some(3)],
        [Some(2), Some(3), None, None, Some(0), Some(1)],
        [Some(2), Some(3), Some(0), None, None, Some(1)],
    ];
    for (i, row) in (0_u64..).zip(rows) {
        w.until(4 * i);
        assert_eq!(counters(&w, &e), row, "window {i}");
    }
}

#[test]
fn row_43_r224_r225_r226_a_new_event_moves_others() {
    let mut w = world(4, 0);
    let e = w.opens(3, &any(&w));
    w.until(2);
    let n = w.open(on(&w, &[0]));
    assert_eq!(
        counters(&w, &[e[0], e[1], e[2], n]),
        [Some(1), Some(2), Some(3), Some(0)]
    );
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().moves(VcpuId(0)), 3);
    w.until(5);
    assert_eq!(w.read(e[0]).values[0].count.0, 5_000_000);
}

#[test]
fn row_44_the_first_failure_ends_the_pass() {
    let mut w = world(4, 0);
    let a = w.open(on(&w, &[0]));
    let b = w.open(on(&w, &[0]));
    let c = w.open(any(&w));
    let e = [a, b, c];
    assert_eq!(w.windows(4, &e), ["AII", "IAA", "AIA", "AII"]);
    assert_eq!((w.times(a).1, w.times(b).1, w.times(c).1), (8, 4, 8));
}

#[test]
fn row_45_r222_fixed_counters_first() {
    let mut w = world(4, 3);
    let fixed_or_gp = [32, 0, 1, 2, 3];
    let a = w.open(on(&w, &fixed_or_gp));
    let b = w.open(on(&w, &fixed_or_gp));
    let rest = w.opens(3, &any(&w));
    let f = w.open(on(&w, &[34]));
    let all = [a, rest[0], rest[1], rest[2], b, f];
    assert_eq!(
        counters(&w, &all),
        [Some(32), Some(0), Some(1), Some(2), Some(3), Some(34)]
    );
}

#[test]
fn row_46_r226_removal_moves_nothing() {
    let mut w = world(4, 0);
    let e = w.opens(4, &any(&w));
    w.close(e[1]);
    assert_eq!(
        counters(&w, &[e[0], e[2], e[3]]),
        [Some(0), Some(2), Some(3)]
    );
    let n = w.open(any(&w));
    assert_eq!(
        counters(&w, &[e[0], e[2], e[3], n]),
        [Some(0), Some(1), Some(2), Some(3)]
    );
}

#[test]
fn row_11_12_r211_r212_r213_the_group_test() {
    let mut w = world(4, 0);
    let g = w.group(4, &any(&w));
    assert_eq!(w.errno(any(&w).group(g[0])), Errno::EINVAL);
    assert_eq!(w.errno(task(&w).config(0)), Errno::EINVAL);
    assert_eq!(w.errno(any(&w).attr(|a| a.config1 = 1)), Errno::EINVAL);

    let mut w = world(4, 0);
    let l = w.open(any(&w).disabled());
    let s: Vec<_> = (0..4)
        .map(|_| w.open(any(&w).group(l).disabled()))
        .collect();
    let f = w.open(any(&w));
    for e in s.iter().chain([&l]) {
        w.enable(*e);
    }
    assert_eq!(w.windows(4, &[l, f]), ["II", "IA", "II", "IA"]);
}

#[test]
fn r214_an_add_outside_a_transaction_is_solved_at_once() {
    use vpmu::sched::PmuDriver;
    use vpmu::sched::driver::InitRequest;
    let mut w = world(1, 0);
    let e = w.open(on(&w, &[0]));
    let f = w.open(on(&w, &[0]));
    w.run(0, None);
    let driver = w.s.driver_mut(w.pmus[0]).unwrap();
    assert!(driver.add(VcpuId(1), e).is_ok());
    assert!(driver.add(VcpuId(1), f).is_err());
    driver.del(VcpuId(1), e);
    assert!(driver.add(VcpuId(1), f).is_ok());
    driver.del(VcpuId(1), f);
    let attr = EventAttr::new(vpmu::sched::PmuType(77), 1);
    let request = InitRequest {
        event: e,
        attr: &attr,
        own_type: vpmu::sched::PmuType(6),
        vcpu: None,
        of_task: true,
        group: &[],
    };
    assert!(driver.event_init(&request).is_err());
}
