//! Objects, states, enable and disable (1.2, 2.A, 2.B).

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{AttrFlags, Errno, EventError, EventState, Extent, Overflow, PmuClass, PmuDesc};
use vpmu::units::{Count, Nanos};

use crate::world::{World, cpu, task};

#[test]
fn r001_r002_r003_r004_one_context_holds_events_of_all_pmus() {
    let mut w = World::new(2);
    let other = w.core("other", 1);
    let a = w.open(task(&w));
    let b = w.open(task(&w).pmu(other));
    let c = w.open(cpu(&w, 0).pmu(other));
    // the task's and the CPU's contexts compete, but are two.
    assert_eq!(w.states(&[a, b, c]), "AIA");
    let s = w.open(task(&w).group(a));
    let view = w.s.view(s).unwrap();
    assert_eq!((view.leader, w.s.view(a).unwrap().siblings), (a, 1));
    assert_eq!(w.s.view(b).unwrap().task, Some(w.t));
    assert_eq!(w.s.view(c).unwrap().task, None);
}

#[test]
fn r005_uncore_pmus_count_cpus_only() {
    let mut w = World::new(2);
    let config = MockConfig {
        kind: MockKind::Counters {
            uncore: false,
            generic: false,
        },
        ..MockConfig::core(2)
    };
    let u = w.add(
        PmuDesc::new("uncore", PmuClass::Uncore),
        MockPmu::new(config),
    );
    assert_eq!(w.errno(task(&w).pmu(u)), Errno::EINVAL);
    let e = w.open(cpu(&w, 1).pmu(u));
    assert_eq!(w.states(&[e]), "A");
}

#[test]
fn r006_r078_group_capabilities_are_narrowed_and_inherited() {
    let mut w = World::new(1);
    w.open(cpu(&w, 0).pinned());
    let h = w.open(task(&w));
    let s = w.open(task(&w).pmu(1).group(h));
    w.close(h);
    // The software event left a hardware group: it can be refused now.
    w.until(4);
    assert_eq!(
        (w.states(&[s]), w.s.view(s).unwrap().slice),
        ("A".into(), w.pmus[0])
    );
    let x = w.open(task(&w));
    w.until(8);
    assert_eq!(w.states(&[s, x]), "II");
    w.until(12);
    assert_eq!(w.states(&[s, x]), "AI");
    // Narrowing stays when the sibling that caused it leaves.
    let mut w = World::new(1);
    w.open(cpu(&w, 0).pinned());
    let s = w.open(task(&w).pmu(1));
    let h = w.open(task(&w).group(s));
    assert_eq!(w.states(&[s, h]), "II");
    w.close(h);
    let first = w.open(task(&w));
    w.until(8);
    assert!(w.states(&[s, first]).contains('I'));
}

#[test]
fn r010_r011_r012_r016_initial_state_and_transitions() {
    let mut w = World::new(1);
    let off = w.open(task(&w).disabled());
    assert_eq!(w.states(&[off]), "O");
    w.enable(off);
    assert_eq!(w.states(&[off]), "A");
    assert_eq!(w.s.view(off).unwrap().oncpu, Some(VcpuId(0)));
    w.run(0, None);
    assert_eq!(w.states(&[off]), "I");
    assert_eq!(w.s.view(off).unwrap().oncpu, None);
    w.disable(off);
    assert_eq!(w.states(&[off]), "O");
    w.s.exit_task(w.now, w.t).unwrap();
    assert_eq!(w.states(&[off]), "X");
    w.close(off);
    assert_eq!(w.s.view(off), Err(EventError::NoEvent));
}

#[test]
fn r013_r017_removal_and_disable_leave_an_error_alone() {
    let mut w = World::new(1);
    let p = w.opens(2, &cpu(&w, 3).pinned());
    w.disable(p[1]);
    assert_eq!(w.states(&p), "AE");
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert_eq!(w.states(&p), "OE");
}

#[test]
fn r014_r015_a_leader_that_is_off_hides_its_siblings() {
    let mut w = World::new(4);
    let g = w.group(3, &task(&w));
    w.until(5);
    w.disable(g[0]);
    assert_eq!(w.states(&g), "OII");
    assert_eq!(w.s.view(g[1]).unwrap().effective, EventState::Off);
    w.until(10);
    assert_eq!(w.times(g[1]), (5, 5));
    w.enable(g[0]);
    assert_eq!(w.states(&g), "AAA");
}

#[test]
fn r020_enable_does_nothing_where_it_cannot() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    w.enable(e[0]);
    w.enable(e[1]);
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats(), before);
    w.s.exit_task(w.now, w.t).unwrap();
    w.enable(e[0]);
    assert_eq!(w.states(&e), "XX");
}

#[test]
fn r021_r022_r026_enabling_redoes_the_class_in_the_old_order() {
    let mut w = World::new(2);
    let a = w.open(task(&w).disabled());
    let b = w.opens(2, &task(&w));
    w.enable(a);
    assert_eq!(w.states(&[a, b[0], b[1]]), "AAI");
    // A sibling whose leader is not on only changes its state.
    let s = w.open(task(&w).group(b[1]).disabled());
    w.enable(s);
    assert_eq!(w.states(&[a, b[0], b[1], s]), "AAII");
    // An enlarged group that does not fit goes off as a whole.
    let s = w.open(task(&w).group(a).disabled());
    let p = w.open(task(&w).pinned());
    assert_eq!(w.states(&[p, a, s, b[0]]), "AAOI");
    w.enable(s);
    assert_eq!(w.states(&[p, a, s, b[0]]), "AIII");
}

#[test]
fn r023_disable_of_a_sibling_takes_only_that_one() {
    let mut w = World::new(4);
    let g = w.group(3, &task(&w));
    w.disable(g[1]);
    assert_eq!(w.states(&g), "AOA");
    w.disable(g[1]);
    assert_eq!(w.states(&g), "AOA");
}

#[test]
fn r025_the_group_flag_reaches_each_member() {
    let mut w = World::new(4);
    let g = w.group(3, &task(&w));
    w.s.disable(w.now, g[1], Extent::Group).unwrap();
    assert_eq!(w.states(&g), "OOO");
    w.s.enable(w.now, g[2], Extent::Group).unwrap();
    assert_eq!(w.states(&g), "AAA");
    w.until(3);
    w.s.reset(w.now, g[1], Extent::Group).unwrap();
    assert_eq!(w.read(g[0]).values[0].count, Count(0));
}

#[test]
fn r027_reset_keeps_the_times() {
    let mut w = World::new(1);
    let e = w.open(task(&w));
    w.until(2);
    w.s.reset(w.now, e, Extent::Event).unwrap();
    w.until(5);
    assert_eq!(w.times(e), (5, 5));
    assert_eq!(w.read(e).values[0].count.0, 3_000_000);
}

#[test]
fn r028_a_budget_of_overflows() {
    let mut w = World::new(1);
    let counting = w.open(cpu(&w, 1));
    let inherited = w.open(task(&w).inherit().period(100));
    assert_eq!(
        w.s.refresh_budget(w.now, counting, 1),
        Err(EventError::NotSampling)
    );
    assert_eq!(
        w.s.refresh_budget(w.now, inherited, 1),
        Err(EventError::Inherited)
    );
    assert_eq!(w.s.overflow(w.now, counting), Ok(Overflow::Continue));
    w.close(counting);
    let e = w.open(cpu(&w, 1).period(100).disabled());
    w.s.refresh_budget(w.now, e, 2).unwrap();
    assert_eq!(w.s.overflow(w.now, e), Ok(Overflow::Continue));
    assert_eq!(w.s.overflow(w.now, e), Ok(Overflow::Disabled));
    assert_eq!(w.states(&[e]), "O");
    assert_eq!(w.s.overflow(w.now, e), Err(EventError::NotActive));
    assert_eq!(EventError::NotActive.errno(), Errno::EAGAIN);
}

#[test]
fn r029_period_changes_restart_in_place() {
    let mut w = World::new(1);
    let counting = w.open(cpu(&w, 1));
    let e = w.open(task(&w).period(100));
    let set = |w: &mut World<MockPmu>, e, v| w.s.set_period(w.now, e, v);
    assert_eq!(set(&mut w, counting, 5), Err(EventError::NotSampling));
    assert_eq!(set(&mut w, e, 0), Err(EventError::Period));
    assert_eq!(set(&mut w, e, 1 << 63), Err(EventError::Period));
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    w.until(1);
    set(&mut w, e, 500).unwrap();
    let after = w.s.driver(w.pmus[0]).unwrap().stats();
    assert_eq!(
        (after.starts - before.starts, after.stops - before.stops),
        (1, 1)
    );
    assert_eq!((w.s.sample_period(e), after.adds), (Some(500), before.adds));
    assert_eq!(w.read(e).values[0].count.0, 1_000_000);
    let f = w.open(task(&w).period(1000).flags(AttrFlags::FREQ));
    assert_eq!(set(&mut w, f, 100_001), Err(EventError::Period));
    set(&mut w, f, 2000).unwrap();
    assert_eq!(w.s.sample_period(f), Some(1));
}

#[test]
fn r030_r031_changes_that_cannot_reach_their_cpu_do_nothing() {
    let mut w = World::new(1);
    let p = w.opens(2, &cpu(&w, 3).pinned());
    assert_eq!(w.states(&p), "AE");
    w.s.offline(w.now, VcpuId(3)).unwrap();
    w.enable(p[0]);
    w.disable(p[0]);
    w.enable(p[1]);
    // The plain store of the first half has happened all the same.
    assert_eq!(w.states(&p), "OO");
    // A task that does not run is changed in place.
    w.run(0, None);
    let e = w.open(task(&w));
    w.disable(e);
    assert_eq!(w.states(&[e]), "O");
}

#[test]
fn r032_pause_returns_the_count() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    w.until(3);
    assert_eq!(w.s.pause(w.now, e[0], true), Ok(Count(3_000_000)));
    assert_eq!(w.states(&e), "OI");
    assert_eq!(w.s.stored_count(e[0]), Some(Count(0)));
    assert_eq!(w.s.pause(Nanos(0), e[1], false), Ok(Count(0)));
}

#[test]
fn r019_an_event_that_needs_a_group_ends_with_it() {
    let mut w = World::new(4);
    let config = MockConfig {
        needs_group: true,
        ..MockConfig::core(4)
    };
    let p = w.add(
        PmuDesc::new("topdown", PmuClass::Hardware),
        MockPmu::new(config),
    );
    let l = w.open(task(&w).pmu(1));
    let s = w.open(task(&w).pmu(p).group(l));
    assert_eq!(w.states(&[l, s]), "AA");
    w.close(l);
    assert_eq!(w.states(&[s]), "E");
    w.enable(s);
    assert_eq!(w.states(&[s]), "E");
}

#[test]
fn a_counter_that_the_host_takes_away_is_an_error() {
    let mut w = World::new(2);
    let g = w.group(2, &task(&w).pinned());
    let f = w.open(task(&w));
    w.until(1);
    w.s.lose(w.now, g[1]).unwrap();
    assert_eq!(w.states(&[g[0], g[1], f]), "EII");
    w.s.lose(w.now, g[1]).unwrap();
    w.until(3);
    assert_eq!(w.times(g[1]), (1, 1));
    assert!(w.is_eof(g[0]));
    w.enable(g[0]);
    assert_eq!(w.states(&[g[0], g[1], f]), "AAI");
}

/// what cannot be placed now waits for its turn.
#[test]
fn a_flexible_group_that_loses_its_counter_waits_for_the_next_rotation() {
    let mut w = World::new(2);
    let g = w.group(2, &task(&w));
    w.until(1);
    w.s.lose(w.now, g[1]).unwrap();
    assert_eq!(w.states(&g), "II");
    let due = w.s.next_timer().expect("something stayed out");
    w.s.fire_timer(due.at, due.vcpu, due.pmu);
    assert_eq!(w.states(&g), "AA");
}
