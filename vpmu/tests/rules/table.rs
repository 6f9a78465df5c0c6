//! The worked examples of perf-core.md §3, by row.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{EventState, PmuClass, PmuDesc, Scope, ScopePolicy, ScopeTopology};

use crate::world::{World, cpu, task};

#[test]
fn row_01_r170_six_on_four() {
    let mut w = World::new(4);
    let e = w.opens(6, &task(&w));
    let seen = w.windows(6, &e);
    assert_eq!(
        seen,
        ["AAAAII", "IAAAAI", "IIAAAA", "AIIAAA", "AAIIAA", "AAAIIA"]
    );
    w.until(24);
    assert_eq!(w.states(&e), "AAAAII");
    assert!(e.iter().all(|e| w.times(*e) == (24, 16)));
}

#[test]
fn row_02_and_03_a_cpu_pinned_event() {
    let mut w = World::new(4);
    let p = w.open(cpu(&w, 0).pinned());
    let e = w.opens(4, &task(&w));
    assert_eq!(w.windows(5, &e), ["AAAI", "IAAA", "AIAA", "AAIA", "AAAI"]);
    assert!(e.iter().all(|e| w.times(*e) == (16, 12)));
    assert_eq!(w.times(p), (16, 16));

    let mut w = World::new(4);
    let e = w.opens(4, &cpu(&w, 0));
    let p = w.open(cpu(&w, 0).pinned());
    assert_eq!(w.states(&[p]), "A");
    assert_eq!(w.windows(4, &e), ["AAAI", "IAAA", "AIAA", "AAIA"]);
}

#[test]
fn row_04_pinned_ones_that_do_not_fit() {
    let mut w = World::new(4);
    let e = w.opens(6, &task(&w).pinned());
    w.until(10);
    assert_eq!(w.states(&e), "AAAAEE");
    assert_eq!(w.times(e[4]), (0, 0));
    assert!(w.is_eof(e[5]));
}

#[test]
fn row_05_06_r017_r024_a_pinned_event_of_the_cpu_wins() {
    let mut w = World::new(4);
    let e = w.opens(4, &task(&w).pinned());
    let p = w.open(cpu(&w, 0).pinned());
    assert_eq!((w.states(&[p]), w.states(&e)), ("A".into(), "AAAE".into()));
    w.close(p);
    assert_eq!(w.states(&e), "AAAE");
    w.enable(e[3]);
    assert_eq!(w.states(&e), "AAAA");

    let mut w = World::new(4);
    let e = w.opens(4, &task(&w).pinned());
    let p = w.open(cpu(&w, 0).pinned());
    w.disable(p);
    w.enable(e[3]);
    assert_eq!(w.states(&e), "AAAA");
    w.enable(p);
    assert_eq!((w.states(&[p]), w.states(&e)), ("A".into(), "AAAE".into()));
}

#[test]
fn row_07_08_r127_pinned_groups_poison_the_pass() {
    let mut w = World::new(4);
    w.run(0, None);
    let g: Vec<_> = [3, 2, 1]
        .iter()
        .map(|n| w.group(*n, &task(&w).pinned())[0])
        .collect();
    w.run(0, Some(w.t));
    assert_eq!(w.states(&g), "AEE");

    let mut w = World::new(4);
    let a = w.group(3, &task(&w).pinned())[0];
    let b = w.group(2, &task(&w).pinned())[0];
    let c = w.open(task(&w).pinned());
    assert_eq!(w.states(&[a, b, c]), "AEA");
}

#[test]
fn row_09_10_flexible_groups() {
    let mut w = World::new(4);
    let g: Vec<_> = [3, 2, 1]
        .iter()
        .map(|n| w.group(*n, &task(&w))[0])
        .collect();
    assert_eq!(w.windows(4, &g), ["AII", "IAA", "AIA", "AII"]);
    assert_eq!(
        g.iter().map(|e| w.times(*e)).collect::<Vec<_>>(),
        [(12, 8), (12, 4), (12, 8)]
    );

    let mut w = World::new(4);
    let g: Vec<_> = (0..5).map(|_| w.group(2, &task(&w))[0]).collect();
    w.until(20);
    assert!(g.iter().all(|e| w.times(*e) == (20, 8)));
}

#[test]
fn row_11_12_r172_a_group_that_never_fits() {
    let mut w = World::new(4);
    let g = w.group(4, &task(&w));
    assert_eq!(w.errno(task(&w).group(g[0])), vpmu::sched::Errno::EINVAL);

    // A PMU whose open test sees only five counters, of which a pinned event takes one.
    let mut w = World::new(5);
    let p = w.open(cpu(&w, 0).pinned());
    let l = w.group(5, &task(&w).disabled());
    let f = w.open(task(&w));
    for e in &l {
        w.enable(*e);
    }
    w.until(4);
    w.until(44);
    assert_eq!(w.times(l[0]).1, 0);
    assert_eq!(w.times(f).1, 20);
    assert_eq!(w.state(p), EventState::Active);
}

#[test]
fn row_13_to_15_r171_task_events_get_what_is_left() {
    let mut w = World::new(4);
    let c = w.opens(4, &cpu(&w, 0));
    let t = w.opens(2, &task(&w));
    w.until(40);
    assert!(c.iter().all(|e| w.times(*e) == (40, 40)));
    assert!(t.iter().all(|e| w.times(*e) == (40, 0)));
    assert!(w.s.next_timer().is_some());

    let mut w = World::new(4);
    w.opens(3, &cpu(&w, 0));
    let t = w.opens(2, &task(&w));
    assert_eq!(w.windows(3, &t), ["AI", "IA", "AI"]);

    let mut w = World::new(4);
    let c = w.opens(6, &cpu(&w, 0));
    let t = w.opens(2, &task(&w));
    w.until(24);
    assert!(c.iter().all(|e| w.times(*e) == (24, 16)));
    assert!(t.iter().all(|e| w.times(*e) == (24, 0)));
}

#[test]
fn row_16_17_r128_each_pass_starts_fresh() {
    let mut w = World::new(4);
    let a = w.group(3, &cpu(&w, 0))[0];
    let b = w.group(2, &cpu(&w, 0))[0];
    let s = w.open(task(&w));
    assert_eq!(w.windows(3, &[a, b, s]), ["AIA", "IAA", "AIA"]);

    let mut w = World::new(4);
    let a = w.group(3, &cpu(&w, 0))[0];
    let b = w.group(3, &cpu(&w, 0))[0];
    let t = w.opens(3, &task(&w));
    w.until(24);
    assert_eq!((w.times(a), w.times(b)), ((24, 12), (24, 12)));
    assert!(t.iter().all(|e| w.times(*e) == (24, 8)));
}

#[test]
fn row_18_to_20_arrivals() {
    let mut w = World::new(4);
    let t = w.opens(4, &task(&w));
    let x = w.open(cpu(&w, 0));
    assert_eq!((w.states(&[x]), w.states(&t)), ("A".into(), "AAAI".into()));
    w.until(16);
    assert!(t.iter().all(|e| w.times(*e) == (16, 12)));

    let mut w = World::new(4);
    let c = w.opens(4, &cpu(&w, 0));
    let p = w.open(task(&w).pinned());
    assert_eq!((w.states(&[p]), w.states(&c)), ("A".into(), "AAAI".into()));

    let mut w = World::new(4);
    let c = w.opens(4, &cpu(&w, 0));
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    let x = w.open(task(&w));
    let after = w.s.driver(w.pmus[0]).unwrap().stats();
    assert_eq!((before.starts, before.stops), (after.starts, after.stops));
    w.until(20);
    assert_eq!((w.states(&c), w.times(x)), ("AAAA".into(), (20, 0)));
}

#[test]
fn row_21_r181_r182_the_switch_is_not_symmetric() {
    let mut w = World::new(4);
    w.run(0, None);
    let p = w.opens(4, &task(&w).pinned());
    let c = w.opens(2, &cpu(&w, 0));
    w.until(1);
    w.run(0, Some(w.t));
    assert_eq!((w.states(&p), w.states(&c)), ("AAAA".into(), "II".into()));
    w.until(11);
    w.run(0, None);
    assert_eq!((w.states(&p), w.states(&c)), ("IIII".into(), "II".into()));
    w.until(12);
    assert_eq!(w.states(&c), "AA");
    w.until(20);
    assert_eq!(
        (w.times(c[0]), w.times(c[1]), w.times(p[0])),
        ((20, 9), (20, 9), (10, 10))
    );
    assert!(w.s.next_timer().is_none());
}

#[test]
fn row_22_to_24_r163_nothing_is_filled_at_once() {
    let mut w = World::new(4);
    let e = w.opens(6, &task(&w));
    w.until(1);
    w.disable(e[0]);
    assert_eq!(w.states(&e), "OAAAII");
    w.until(4);
    assert_eq!(w.states(&e), "OIAAAA");

    let mut w = World::new(4);
    let e = w.opens(6, &task(&w));
    w.until(1);
    w.close(e[0]);
    w.close(e[1]);
    assert_eq!(w.states(&e[2..]), "AAII");
    w.until(4);
    assert_eq!(w.states(&e[2..]), "AAAA");
    assert!(w.s.next_timer().is_some());
    w.until(8);
    assert!(w.s.next_timer().is_none());

    let mut w = World::new(4);
    let e = w.opens(5, &task(&w));
    w.until(1);
    w.disable(e[4]);
    w.until(4);
    assert_eq!(w.states(&e), "AAAAO");
    w.until(8);
    assert!(w.s.next_timer().is_none());
}

#[test]
fn row_25_to_27_r150_r151_r153_exclusive_groups() {
    let mut w = World::new(4);
    let a = w.open(task(&w));
    let x = w.open(task(&w).exclusive());
    let b = w.open(task(&w));
    assert_eq!(w.windows(4, &[a, x, b]), ["AII", "IAI", "AIA", "AII"]);
    assert_eq!((w.times(a).1, w.times(x).1, w.times(b).1), (8, 4, 4));

    let mut w = World::new(4);
    let p = w.open(cpu(&w, 0).pinned());
    let x = w.open(task(&w).exclusive());
    let b = w.open(task(&w));
    assert_eq!(w.windows(3, &[p, x, b]), ["AAI", "AIA", "AAI"]);

    let mut w = World::new(4);
    let a = w.open(task(&w).pinned());
    let b = w.open(task(&w));
    let x = w.open(cpu(&w, 0).pinned().exclusive());
    assert_eq!(w.states(&[x, a, b]), "AEI");
}

#[test]
fn row_28_r043_times_of_siblings_follow_the_leader() {
    let mut w = World::new(4);
    let l = w.open(task(&w).disabled());
    let s = w.open(task(&w).group(l));
    let d = w.open(task(&w).group(l).disabled());
    w.until(10);
    w.enable(l);
    w.until(20);
    w.enable(d);
    w.until(30);
    w.disable(l);
    w.until(40);
    w.enable(l);
    w.until(50);
    assert_eq!(
        (w.times(l), w.times(s), w.times(d)),
        ((30, 30), (30, 30), (20, 20))
    );
}

#[test]
fn row_29_r046_enabled_time_runs_on_any_cpu() {
    let mut w = World::new(4);
    let e = w.open(task(&w).bound(1));
    w.until(10);
    w.run(0, None);
    w.until(20);
    w.run(1, Some(w.t));
    w.until(30);
    assert_eq!(w.times(e), (20, 10));
}

#[test]
fn row_30_r071_r072_a_software_group_moves() {
    let mut w = World::new(4);
    let l = w.open(task(&w).pmu(1).disabled());
    let s = w.open(task(&w).pmu(1).group(l));
    w.enable(l);
    w.until(5);
    let h = w.open(task(&w).group(l));
    assert_eq!(w.states(&[l, s, h]), "OII");
    w.until(9);
    assert_eq!(
        (w.times(l), w.times(s), w.times(h)),
        ((5, 5), (5, 5), (0, 0))
    );
    w.enable(l);
    assert_eq!(w.states(&[l, s, h]), "AAA");
}

#[test]
fn row_31_r125_r135_software_groups_are_always_tried() {
    let mut w = World::new(4);
    w.opens(4, &task(&w).pinned());
    let s = w.open(task(&w).pmu(1));
    let h = w.open(task(&w));
    let t = w.open(task(&w).pmu(1).group(h));
    assert_eq!(w.states(&[s, h, t]), "AII");
}

#[test]
fn row_32_r121_other_pmus_are_not_touched() {
    let mut w = World::new(4);
    let q = w.core("other", 2);
    let a = w.opens(5, &task(&w));
    let b = w.opens(2, &task(&w).pmu(q));
    let before = w.s.driver(w.pmus[q]).unwrap().stats();
    let p = w.open(task(&w).pinned());
    assert_eq!(w.s.driver(w.pmus[q]).unwrap().stats(), before);
    assert_eq!(
        (w.states(&b), w.states(&[p]), w.states(&a)),
        ("AA".into(), "A".into(), "AAAII".into())
    );
    w.until(20);
    assert!(a.iter().all(|e| w.times(*e) == (20, 12)));
}

#[test]
fn row_33_r112_r113_bound_and_unbound_events_are_one_list() {
    let mut w = World::new(4);
    let bound = [None, Some(0), None, Some(0), None, Some(1)];
    let specs = bound
        .iter()
        .map(|b| b.map_or_else(|| task(&w), |c| task(&w).bound(c)));
    let specs: Vec<_> = specs.collect();
    let e: Vec<_> = specs.into_iter().map(|s| w.open(s)).collect();
    assert_eq!(w.windows(3, &e), ["AAAAII", "IAAAAI", "AIAAAI"]);
    w.until(20);
    assert!(e[..5].iter().all(|e| w.times(*e) == (20, 16)));
    assert_eq!(w.times(e[5]), (20, 0));
}

#[test]
fn row_34_r018_r022_a_pinned_group_grows_too_large() {
    let mut w = World::new(4);
    w.opens(2, &cpu(&w, 0).pinned());
    let g = w.group(2, &task(&w).pinned());
    w.until(1);
    let s = w.open(task(&w).group(g[0]));
    w.until(9);
    assert_eq!(w.states(&[g[0], g[1], s]), "EII");
    assert_eq!(w.times(g[1]), (1, 1));
}

#[test]
fn row_35_r076_a_leader_is_closed() {
    let mut w = World::new(4);
    let a = w.group(3, &task(&w));
    let d = w.open(task(&w));
    let e = w.open(task(&w));
    w.until(1);
    let before = w.s.driver(w.pmus[0]).unwrap().stats().stops;
    w.close(a[0]);
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats().stops, before + 1);
    assert_eq!(w.states(&[a[1], a[2], d, e]), "AAAI");
    w.until(4);
    assert_eq!(w.states(&[a[1], a[2], d, e]), "AAAA");
}

#[test]
fn row_36_r017_errors_stay_with_the_task() {
    let mut w = World::new(4);
    let t = w.open(task(&w).pinned());
    w.opens(4, &cpu(&w, 1).pinned());
    w.run(0, None);
    w.run(1, Some(w.t));
    assert_eq!(w.states(&[t]), "E");
    w.run(1, None);
    w.run(0, Some(w.t));
    assert_eq!(w.states(&[t]), "E");
}

#[test]
fn row_37_to_40_r249_r257_r258_r259_a_package_loses_its_cpus() {
    let mut w = World::<MockPmu>::empty(
        ScopeTopology {
            packages: 1,
            dies: 1,
            cores: 4,
            threads: 1,
            cluster: 1,
        },
        ScopePolicy::Linux612,
    );
    w.run(0, None);
    let mut desc = PmuDesc::new("package", PmuClass::Uncore);
    desc.scope = Scope::Package;
    let mut config = MockConfig::core(8);
    config.kind = MockKind::Counters {
        uncore: true,
        generic: false,
    };
    w.add(desc, MockPmu::new(config));
    let mask = |w: &World<MockPmu>| {
        w.s.cpumask(w.pmus[0])
            .unwrap()
            .map(|c| c.0)
            .collect::<Vec<_>>()
    };
    let a = w.open(cpu(&w, 0));
    let b = w.open(cpu(&w, 0));
    w.disable(b);
    let c = w.open(cpu(&w, 0));
    let d = w.open(cpu(&w, 0).group(c));
    let e = w.open(cpu(&w, 0).group(c).disabled());
    let x = w.open(cpu(&w, 2));
    w.s.offline(w.now, VcpuId(2)).unwrap();
    assert_eq!(w.states(&[a, b, c, d, e, x]), "AOAAOO");
    w.until(12);
    w.s.offline(w.now, VcpuId(0)).unwrap();
    assert_eq!(mask(&w), [1]);
    assert_eq!(w.states(&[a, b, c, d, e]), "AAAAA");
    assert_eq!(w.s.view(a).unwrap().vcpu, Some(VcpuId(1)));
    w.until(20);
    assert_eq!((w.times(a), w.times(b)), ((20, 20), (8, 8)));
    w.s.offline(w.now, VcpuId(1)).unwrap();
    assert_eq!(
        (mask(&w), w.states(&[a, b, c, d, e])),
        (vec![3], "AAAAA".into())
    );
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert_eq!(
        (mask(&w), w.states(&[a, b, c, d, e])),
        (vec![], "OOOOO".into())
    );
    assert_eq!(w.s.view(d).unwrap().leader, d);
    assert_eq!(w.read(a).values[0].count.0, 20_000_000);
    w.s.online(w.now, VcpuId(3)).unwrap();
    let n = w.open(cpu(&w, 3));
    w.enable(a);
    w.until(25);
    assert_eq!((mask(&w), w.states(&[n, a])), (vec![3], "AI".into()));
    assert_eq!(w.times(a), (25, 20));
}

#[test]
fn row_41_r258_a_cpu_goes_away() {
    let mut w = World::new(4);
    let p = w.open(cpu(&w, 3).pinned());
    let g = w.group(2, &cpu(&w, 3));
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert_eq!(w.states(&[p, g[0], g[1]]), "OOO");
    assert_eq!(w.s.view(g[1]).unwrap().leader, g[1]);
    assert_eq!(w.errno(cpu(&w, 3)), vpmu::sched::Errno::ENODEV);
}

#[test]
fn row_47_r162_the_first_tick_is_on_the_grid() {
    let mut w = World::new(4);
    w.until(1);
    let e = w.opens(5, &task(&w));
    w.until(9);
    assert_eq!(
        e.iter().map(|e| w.times(*e)).collect::<Vec<_>>(),
        [(8, 4), (8, 7), (8, 8), (8, 8), (8, 5)]
    );
}

#[test]
fn row_48_r049_the_quirk_of_a_closed_leader() {
    let mut w = World::new(4);
    let l = w.open(task(&w).disabled());
    let s = w.open(task(&w).group(l));
    w.until(2);
    w.close(l);
    w.until(6);
    assert_eq!((w.states(&[s]), w.times(s)), ("I".into(), (6, 0)));
}
