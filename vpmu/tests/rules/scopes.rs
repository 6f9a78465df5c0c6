//! Scopes, migration and hotplug (2.Q), under both policies.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{PmuClass, PmuDesc, Scope, ScopePolicy, ScopeTopology};

use crate::world::{World, cpu, task};

const TWO: ScopeTopology = ScopeTopology {
    packages: 2,
    dies: 2,
    cores: 2,
    threads: 2,
    cluster: 2,
};

fn world(
    policy: ScopePolicy,
    topology: ScopeTopology,
    scope: Scope,
    counters: u32,
) -> World<MockPmu> {
    let mut w = World::empty(topology, policy);
    w.run(0, None);
    let mut config = MockConfig::core(counters);
    config.kind = MockKind::Counters {
        uncore: true,
        generic: false,
    };
    w.add(
        PmuDesc {
            scope,
            ..PmuDesc::new("uncore", PmuClass::Uncore)
        },
        MockPmu::new(config),
    );
    let soft = MockConfig::unlimited(MockKind::Counters {
        uncore: false,
        generic: false,
    });
    w.add(PmuDesc::new("soft", PmuClass::Software), MockPmu::new(soft));
    w
}

fn mask(w: &World<MockPmu>) -> Vec<u16> {
    w.s.cpumask(w.pmus[0]).unwrap().map(|c| c.0).collect()
}

#[test]
fn r240_r241_r242_masks_at_boot() {
    let scopes = [
        (Scope::Core, vec![0, 2, 4, 6, 8, 10, 12, 14]),
        (Scope::Cluster, vec![0, 4, 8, 12]),
        (Scope::Die, vec![0, 4, 8, 12]),
        (Scope::Package, vec![0, 8]),
        (Scope::System, vec![0]),
    ];
    for (scope, expected) in scopes {
        assert_eq!(
            mask(&world(ScopePolicy::Linux612, TWO, scope, 1)),
            expected,
            "{scope:?}"
        );
    }
    let w = World::new(1);
    assert!(w.s.cpumask(w.pmus[0]).is_none());
    assert_eq!(w.s.designated(Scope::None, VcpuId(0)), None);
}

#[test]
fn r242_r243_a_replacement_stays() {
    let mut w = world(ScopePolicy::Linux612, TWO, Scope::Package, 1);
    w.s.offline(w.now, VcpuId(8)).unwrap();
    assert_eq!(mask(&w), [0, 9]);
    w.s.online(w.now, VcpuId(8)).unwrap();
    assert_eq!(mask(&w), [0, 9]);
    w.s.offline(w.now, VcpuId(10)).unwrap();
    assert_eq!(mask(&w), [0, 9]);
}

#[test]
fn r244_r249_r252_r253_r254_r255_r256_released_linux_moves_the_designated_cpus_events() {
    let mut w = world(
        ScopePolicy::Linux612,
        ScopeTopology::flat(4),
        Scope::Package,
        2,
    );
    let own = w.open(cpu(&w, 1).pinned());
    let g = w.group(2, &cpu(&w, 0));
    let s = w.open(cpu(&w, 0).pmu(1).group(g[0]));
    let lost = w.open(cpu(&w, 2));
    let other = w.open(cpu(&w, 0).pmu(1));
    w.until(3);
    w.s.offline(w.now, VcpuId(2)).unwrap();
    assert_eq!(w.states(&[lost]), "O");
    w.s.offline(w.now, VcpuId(0)).unwrap();
    // A group of two meets a pinned event there; its software member comes along.
    assert_eq!(w.states(&[own, g[0], g[1], s, other]), "AIIIO");
    assert_eq!(w.s.view(s).unwrap().vcpu, Some(VcpuId(1)));
    w.disable(own);
    w.until(7);
    w.until(12);
    assert_eq!(w.states(&g), "AA");
    assert_eq!(w.read(g[0]).values[0].count.0, (3 + 8) * 1_000_000);
}

#[test]
fn r257_disabled_events_come_back_enabled_in_linux_only() {
    for (policy, state) in [
        (ScopePolicy::Linux612, "AA"),
        (ScopePolicy::Designated, "AO"),
    ] {
        let mut w = world(policy, ScopeTopology::flat(4), Scope::Package, 4);
        let e = w.opens(2, &cpu(&w, 0));
        w.disable(e[1]);
        w.s.offline(w.now, VcpuId(0)).unwrap();
        assert_eq!(w.states(&e), state, "{policy:?}");
    }
    // An error stays one, and a software-led group counts as software afterwards.
    let mut w = world(
        ScopePolicy::Linux612,
        ScopeTopology::flat(4),
        Scope::Package,
        1,
    );
    let p = w.opens(2, &cpu(&w, 0).pinned());
    w.s.offline(w.now, VcpuId(0)).unwrap();
    assert_eq!(w.states(&p), "AE");
}

#[test]
fn r247_designated_events_are_bound_together_and_none_is_lost() {
    let mut w = world(ScopePolicy::Designated, TWO, Scope::Package, 4);
    let e: Vec<_> = [1, 5, 9].into_iter().map(|c| w.open(cpu(&w, c))).collect();
    let at = |w: &World<MockPmu>| {
        e.iter()
            .map(|e| w.s.view(*e).unwrap().vcpu.unwrap().0)
            .collect::<Vec<_>>()
    };
    assert_eq!(at(&w), [0, 0, 8]);
    w.until(4);
    w.s.offline(w.now, VcpuId(5)).unwrap();
    w.s.offline(w.now, VcpuId(0)).unwrap();
    assert_eq!((at(&w), w.states(&e)), (vec![1, 1, 8], "AAA".into()));
    w.until(9);
    assert_eq!(w.read(e[0]).values[0].count.0, 9_000_000);
    // Siblings stay with their leader.
    let s = w.open(cpu(&w, 3).group(e[1]));
    assert_eq!(w.s.view(s).unwrap().vcpu, Some(VcpuId(1)));
}

#[test]
fn r246_r248_reads_and_moves_by_hand() {
    let mut w = world(ScopePolicy::Linux612, TWO, Scope::Package, 2);
    let e = w.open(cpu(&w, 3));
    w.until(2);
    assert_eq!(w.read(e).values[0].count.0, 2_000_000);
    assert!(w.s.migrate_pmu(w.now, w.pmus[0], VcpuId(3), VcpuId(4)));
    assert_eq!(w.s.view(e).unwrap().vcpu, Some(VcpuId(4)));
    assert!(!w.s.migrate_pmu(w.now, w.pmus[0], VcpuId(4), VcpuId(99)));
    w.until(5);
    assert_eq!(w.read(e).values[0].count.0, 5_000_000);
}

#[test]
fn r258_r259_what_was_lost_stays_lost() {
    let mut w = World::new(1);
    let e = w.opens(2, &cpu(&w, 3));
    let g = w.group(1, &cpu(&w, 3).pinned());
    w.s.offline(w.now, VcpuId(3)).unwrap();
    w.s.online(w.now, VcpuId(3)).unwrap();
    w.until(2);
    w.enable(e[0]);
    w.until(5);
    assert_eq!(
        (w.states(&[e[0], e[1], g[0]]), w.times(e[0])),
        ("IOO".into(), (0, 0))
    );
    // Its clock runs on with the CPU's.
    let n = w.open(cpu(&w, 3));
    w.until(9);
    assert_eq!((w.states(&[n]), w.times(e[0]).1), ("A".into(), 0));
    w.disable(e[0]);
    w.close(e[0]);
    w.close(n);
}

#[test]
fn r260_task_events_do_not_mind() {
    let mut w = World::new(1);
    let e = w.open(task(&w).bound(3));
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert_eq!(w.states(&[e]), "I");
    w.disable(e);
    w.enable(e);
    assert_eq!(w.states(&[e]), "I");
}

#[test]
fn r261_perf_may_leave_a_cpu_that_stays() {
    let mut w = world(
        ScopePolicy::Linux612,
        ScopeTopology::flat(2),
        Scope::System,
        2,
    );
    let e = w.open(cpu(&w, 0));
    w.s.exit_cpu(w.now, VcpuId(0)).unwrap();
    assert_eq!((mask(&w), w.s.is_online(VcpuId(0))), (vec![1], false));
    assert_eq!(
        (w.states(&[e]), w.s.view(e).unwrap().vcpu),
        ("A".into(), Some(VcpuId(1)))
    );
    w.s.init_cpu(w.now, VcpuId(0)).unwrap();
    assert_eq!(mask(&w), [1]);
}

#[test]
fn r258_a_lost_leader_that_is_closed_keeps_its_new_siblings() {
    let mut w = World::new(1);
    let l = w.open(cpu(&w, 3).pmu(1));
    w.s.offline(w.now, VcpuId(3)).unwrap();
    w.s.online(w.now, VcpuId(3)).unwrap();
    let s = w.open(cpu(&w, 3).pmu(1).group(l));
    w.close(l);
    w.until(3);
    assert_eq!((w.states(&[s]), w.times(s)), ("I".into(), (0, 0)));
    assert_eq!(w.s.view(s).unwrap().leader, l);
    assert!(w.s.close(w.now, l).is_err());
    w.enable(s);
    w.close(s);
    assert_eq!(w.s.event_ids().count(), 0);
}
