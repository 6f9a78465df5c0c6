//! Groups (2.E, 2.J).

use vpmu::sched::{AttrFlags, Errno, GroupSet};

use crate::world::{World, cpu, task};

#[test]
fn r070_r073_software_joins_any_group() {
    let mut w = World::new(2);
    let other = w.core("other", 2);
    let h = w.open(task(&w));
    let s = w.open(task(&w).pmu(1).group(h));
    assert_eq!(w.s.view(s).unwrap().slice, w.pmus[0]);
    assert_eq!(w.s.view(s).unwrap().pmu, w.pmus[1]);
    assert_eq!(w.errno(task(&w).pmu(other).group(h)), Errno::EINVAL);
    let l = w.open(task(&w).pmu(1));
    let t = w.open(task(&w).pmu(1).group(l));
    assert_eq!(w.s.view(t).unwrap().slice, w.pmus[1]);
    let m = w.open(task(&w).pmu(other).group(l));
    assert_eq!(w.s.view(l).unwrap().slice, w.pmus[other]);
    assert_eq!(w.states(&[h, s, l, t, m]), "AAAAA");
    assert_eq!(w.errno(task(&w).group(l)), Errno::EINVAL);
}

#[test]
fn r074_r075_siblings_are_of_their_leaders_class() {
    let mut w = World::new(2);
    let l = w.open(task(&w).pinned());
    assert_eq!(w.errno(task(&w).group(l).pinned()), Errno::EINVAL);
    assert_eq!(w.errno(task(&w).group(l).exclusive()), Errno::EINVAL);
    let f = w.open(task(&w));
    let s = w.open(task(&w).group(l));
    assert_eq!(w.states(&[l, s, f]), "AAI");
    // Into a group that is off a sibling is only linked.
    w.disable(l);
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    let x = w.open(task(&w).pmu(1).group(l));
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats(), before);
    assert_eq!(w.states(&[l, s, x, f]), "OIII");
    assert_eq!(GroupSet::Pinned.index(), 0);
}

#[test]
fn r070_r075_a_sibling_of_another_slice_waits_for_its_leaders() {
    let mut w = World::new(2);
    let other = w.soft("soft2");
    let l = w.open(task(&w).pmu(1));
    let s = w.open(task(&w).pmu(other).group(l));
    assert_eq!(w.states(&[l, s]), "AI");
    w.run(0, None);
    w.run(0, Some(w.t));
    assert_eq!(w.states(&[l, s]), "AA");
}

#[test]
fn r077_closing_a_sibling_leaves_the_others() {
    let mut w = World::new(4);
    let g = w.group(3, &task(&w));
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    w.close(g[1]);
    let after = w.s.driver(w.pmus[0]).unwrap().stats();
    assert_eq!(
        (after.stops - before.stops, after.starts - before.starts),
        (1, 0)
    );
    assert_eq!(w.states(&[g[0], g[2]]), "AA");
}

#[test]
fn r076_siblings_of_a_pinned_leader_become_flexible() {
    let mut w = World::new(2);
    let g = w.group(2, &task(&w).pinned());
    w.close(g[0]);
    assert_eq!(w.states(&g[1..]), "A");
    w.opens(2, &cpu(&w, 0).pinned());
    assert_eq!(w.states(&g[1..]), "I");
}

#[test]
fn r079_r193_exit_keeps_the_groups_of_opened_events() {
    let mut w = World::new(4);
    let g = w.group(2, &task(&w));
    w.s.exit_task(w.now, w.t).unwrap();
    assert_eq!(w.states(&g), "XX");
    assert_eq!(w.s.view(g[1]).unwrap().leader, g[0]);
    assert_eq!(w.errno(cpu(&w, 0).group(g[0])), Errno::ENODEV);
    w.close(g[0]);
    assert_eq!(w.s.view(g[1]).unwrap().leader, g[1]);
}

#[test]
fn r140_r141_r142_r143_r144_r146_all_or_nothing() {
    let mut w = World::new(3);
    w.open(cpu(&w, 0).pinned());
    let g = w.group(3, &task(&w));
    assert_eq!(w.states(&g), "III");
    w.until(3);
    assert_eq!((w.times(g[0]), w.times(g[2])), ((3, 0), (3, 0)));
    // A member that is off does not need a counter.
    w.disable(g[1]);
    w.until(4);
    assert_eq!(w.states(&g), "AOA");
    // Without transactions the group is undone event by event.
    let mut config = vpmu::sched::mock::MockConfig::core(3);
    config.txn = false;
    let desc = vpmu::sched::PmuDesc::new("plain", vpmu::sched::PmuClass::Hardware);
    let p = w.add(desc, vpmu::sched::mock::MockPmu::new(config));
    w.open(cpu(&w, 0).pmu(p).pinned());
    let g = w.group(3, &task(&w).pmu(p));
    assert_eq!(w.states(&g), "III");
    let one = w.open(task(&w).pmu(p).pinned());
    assert_eq!(w.states(&[one]), "A");
}

#[test]
fn r145_an_undone_add_leaves_no_trace() {
    let mut w = World::new(2);
    w.open(cpu(&w, 0).pinned());
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    let g = w.group(2, &task(&w));
    let after = w.s.driver(w.pmus[0]).unwrap().stats();
    // The first event was on before its sibling came.
    assert_eq!(
        (after.starts - before.starts, after.stops - before.stops),
        (1, 1)
    );
    assert_eq!(w.states(&g), "II");
    assert!(w.s.view(g[0]).unwrap().attr.flags == AttrFlags::empty());
}
