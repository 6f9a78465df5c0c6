//! Order, classes, rotation, switches, inheritance (2.H–2.N).

use vpmu::ids::VcpuId;
use vpmu::sched::{
    AttrFlags, CgroupId, Errno, EventError, OpenFlags, ReadFormat, ReadOutcome, RegisterError,
    Target, TaskError,
};
use vpmu::units::Nanos;

use crate::world::{MS, Spec, World, cpu, task};

#[test]
fn r114_a_task_with_nothing_here_does_not_rotate() {
    let mut w = World::new(1);
    w.opens(2, &task(&w).bound(1));
    assert!(w.s.next_timer().is_none());
    let c = w.opens(2, &cpu(&w, 0));
    w.until(4);
    assert_eq!(w.states(&c), "IA");
}

#[test]
fn r120_r123_r129_r130_classes_from_above() {
    let mut w = World::new(4);
    let (tf, cf) = (w.open(task(&w)), w.open(cpu(&w, 0)));
    let (tp, cp) = (w.open(task(&w).pinned()), w.open(cpu(&w, 0).pinned()));
    assert_eq!(w.states(&[cp, tp, cf, tf]), "AAAA");
    let more = w.open(task(&w).pinned());
    assert_eq!(w.states(&[cp, tp, more, cf, tf]), "AAAAI");
    let more = w.open(cpu(&w, 0).pinned());
    assert_eq!(w.states(&[cp, more, tp, cf, tf]), "AAAII");
    let fifth = w.open(cpu(&w, 0).pinned());
    assert_eq!(w.states(&[cp, more, fifth, tp]), "AAAA");
}

#[test]
fn r122_r124_r126_the_first_refusal_ends_a_pass() {
    let mut w = World::new(4);
    let a = w.group(3, &task(&w))[0];
    let b = w.group(2, &task(&w))[0];
    let c = w.open(task(&w));
    assert_eq!(w.states(&[a, b, c]), "AII");
}

#[test]
fn r131_r132_first_events_and_idle_tasks() {
    let mut w = World::new(1);
    let c = w.opens(2, &cpu(&w, 0));
    w.close(c[0]);
    assert_eq!(w.states(&c[1..]), "I");
    // The first event of the task's context goes through the CPU though it is off.
    w.open(task(&w).pinned().disabled());
    assert_eq!(w.states(&c[1..]), "A");
    let idle = w.s.create_task();
    let e = w.open(task(&w).of(idle));
    assert_eq!(w.states(&[e]), "I");
    w.run(1, Some(idle));
    assert_eq!(w.states(&[e]), "A");
}

#[test]
fn r134_the_last_event_takes_the_needs_with_it() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    w.close(e[0]);
    w.close(e[1]);
    w.until(4);
    assert!(w.s.next_timer().is_none());
    let n = w.open(task(&w));
    assert_eq!(w.states(&[n]), "A");
}

#[test]
fn r136_a_driver_may_ask_for_a_reschedule() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    w.close(e[0]);
    assert_eq!(w.states(&e[1..]), "I");
    assert!(w.s.resched_pmu(w.now, VcpuId(0), w.pmus[0]));
    assert_eq!(w.states(&e[1..]), "A");
    assert!(!w.s.resched_pmu(w.now, VcpuId(99), w.pmus[0]));
}

#[test]
fn r160_r161_the_interval() {
    let mut w = World::new(1);
    let pmu = w.pmus[0];
    let mut set = |ms: u64| w.s.set_mux_interval(Nanos(0), pmu, Nanos(ms * MS));
    assert_eq!(set(0), Err(RegisterError::MuxInterval));
    assert_eq!(set(4), Ok(()));
    assert_eq!(set(10), Ok(()));
    assert_eq!(w.s.armed_timers().count(), 4);
    w.until(10);
    assert_eq!(w.s.armed_timers().count(), 0);
    let e = w.opens(2, &task(&w));
    w.until(20);
    assert_eq!(w.states(&e), "IA");
    assert_eq!(w.s.mux_interval(VcpuId(0), pmu), Some(Nanos(10 * MS)));
    w.s.set_mux_interval_of(VcpuId(0), pmu, Nanos(5 * MS));
    assert_eq!(w.s.mux_interval(VcpuId(0), pmu), Some(Nanos(5 * MS)));
    assert_eq!(
        w.s.set_mux_interval(Nanos(0), vpmu::sched::PmuId(99), Nanos(MS)),
        Err(RegisterError::NoPmu)
    );
    w.s.fire_timer(w.now, VcpuId(0), vpmu::sched::PmuId(99));
    w.s.fire_timer(w.now, VcpuId(1), pmu);
}

#[test]
fn r164_r165_cpu_and_task_rotate_by_themselves() {
    let mut w = World::new(2);
    let c = w.opens(3, &cpu(&w, 0));
    let t = w.opens(2, &task(&w));
    assert_eq!(w.windows(4, &c), ["AAI", "IAA", "AIA", "AAI"]);
    assert_eq!(w.states(&t), "II");
}

#[test]
fn r166_the_fallback_pick_looks_at_no_state() {
    let mut w = World::new(1);
    w.open(cpu(&w, 0).pinned());
    let off = w.open(task(&w).disabled());
    let e = w.opens(2, &task(&w));
    // Nobody is on: the first of the set moves, even one that is off.
    w.until(4);
    let p = w.open(task(&w));
    assert_eq!(w.states(&[off, e[0], e[1], p]), "OIII");
}

#[test]
fn r167_r168_rotation_leaves_pinned_groups() {
    let mut w = World::new(2);
    let p = w.opens(3, &task(&w).pinned());
    let f = w.opens(2, &task(&w));
    w.until(40);
    assert_eq!((w.states(&p), w.states(&f)), ("AAE".into(), "II".into()));
    assert_eq!(w.times(p[0]), (40, 40));
}

#[test]
fn r169_rotation_goes_with_the_task() {
    let mut w = World::new(1);
    let e = w.opens(3, &task(&w));
    w.until(4);
    assert_eq!(w.states(&e), "IAI");
    w.run(0, None);
    w.run(2, Some(w.t));
    assert_eq!(w.states(&e), "IAI");
    w.until(8);
    assert_eq!(w.states(&e), "IIA");
    assert_eq!(w.s.armed_timers().count(), 1);
}

#[test]
fn r180_r183_r184_clones_exchange_their_contexts() {
    let mut w = World::new(4);
    let a = w.open(task(&w).inherit());
    let child = w.s.fork(w.now, w.t).unwrap();
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    w.until(2);
    w.run(0, Some(child));
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats(), before);
    assert_eq!(
        (w.states(&[a]), w.s.view(a).unwrap().task),
        ("A".into(), Some(child))
    );
    w.until(5);
    w.run(0, Some(w.t));
    assert_eq!(w.read(a).values[0].count.0, 5_000_000);
    // A failed open is enough to end it.
    assert_eq!(w.errno(task(&w).inherit().group(a).pinned()), Errno::EINVAL);
    w.run(0, Some(child));
    assert_eq!(w.states(&[a]), "I");
    assert_ne!(w.s.driver(w.pmus[0]).unwrap().stats(), before);
}

#[test]
fn r183_two_children_of_one_parent_are_clones() {
    let mut w = World::new(1);
    w.open(task(&w).inherit());
    let (a, b) = (w.s.fork(w.now, w.t).unwrap(), w.s.fork(w.now, w.t).unwrap());
    w.run(0, Some(a));
    let before = w.s.driver(w.pmus[0]).unwrap().stats();
    w.run(0, Some(b));
    assert_eq!(w.s.driver(w.pmus[0]).unwrap().stats(), before);
    // An event that samples its group is scheduled with its own task.
    let mut w = World::new(1);
    let sampled = task(&w).inherit().attr(|a| a.sample_type = 1 << 4 | 1 << 1);
    let e = w.open(sampled);
    let child = w.s.fork(w.now, w.t).unwrap();
    w.run(0, Some(child));
    assert_eq!(w.states(&[e]), "I");
}

#[test]
fn r185_inherit_stat_keeps_counts_with_the_task() {
    let mut w = World::new(1);
    let e = w.open(task(&w).flags(AttrFlags::INHERIT | AttrFlags::INHERIT_STAT));
    let child = w.s.fork(w.now, w.t).unwrap();
    w.until(3);
    w.run(0, Some(child));
    w.until(8);
    assert_eq!(w.read(e).values[0].count.0, 8_000_000);
    w.run(0, Some(w.t));
    assert_eq!(w.s.stored_count(e).map(|c| c.0), Some(3_000_000));
}

fn cgroup(w: &World<vpmu::sched::mock::MockPmu>, g: u32) -> Spec {
    let mut spec = cpu(w, 0);
    spec.request.target = Target::Cgroup(CgroupId(g));
    spec.request.flags = OpenFlags::CGROUP;
    spec
}

#[test]
fn r047_r112_r133_r186_cgroups_take_turns() {
    let mut w = World::new(2);
    assert!(w.s.create_cgroup(CgroupId(1), CgroupId::ROOT));
    assert!(w.s.create_cgroup(CgroupId(2), CgroupId(1)));
    assert!(
        !w.s.create_cgroup(CgroupId(2), CgroupId::ROOT)
            && !w.s.create_cgroup(CgroupId(9), CgroupId(8))
    );
    let other = w.s.create_task();
    assert!(w.s.move_to_cgroup(w.now, other, CgroupId(2)));
    let always = w.open(cpu(&w, 0));
    let one = w.open(cgroup(&w, 1));
    let two = w.open(cgroup(&w, 2));
    assert_eq!(w.states(&[always, one, two]), "AII");
    w.until(2);
    w.run(0, Some(other));
    // The task is in the inner cgroup: both match, and the three compete.
    assert_eq!(w.states(&[always, one, two]), "AAI");
    w.until(8);
    assert_eq!((w.times(always).0, w.times(one).0), (8, 6));
    assert_eq!(w.times(one).1 + w.times(two).1 + w.times(always).1, 2 + 12);
    assert!(w.s.move_to_cgroup(w.now, other, CgroupId::ROOT));
    assert_eq!(w.states(&[one, two]), "II");
    w.until(12);
    assert_eq!(w.times(two).0, 6);
    assert!(!w.s.move_to_cgroup(w.now, other, CgroupId(77)));
    w.disable(one);
    w.close(two);
    w.enable(one);
    w.close(one);
    assert!(!w.s.move_to_cgroup(w.now, vpmu_task(), CgroupId(1)));
}

fn vpmu_task() -> vpmu::sched::TaskId {
    let mut w = World::new(1);
    let mut last = w.s.create_task();
    for _ in 0..99 {
        last = w.s.create_task();
    }
    last
}

#[test]
fn r190_r191_children_inherit_in_the_order_of_the_set() {
    let mut w = World::new(2);
    let g = w.group(2, &task(&w).inherit());
    w.disable(g[1]);
    let p = w.open(task(&w).inherit().pinned());
    let plain = w.open(task(&w));
    let child = w.s.fork(w.now, w.t).unwrap();
    let copies: Vec<_> =
        w.s.event_ids()
            .filter(|e| w.s.view(*e).unwrap().task == Some(child))
            .collect();
    assert_eq!(copies.len(), 3);
    assert_eq!(w.states(&copies).matches('O').count(), 1);
    // Not everything was inherited: no clone.
    w.run(0, Some(child));
    assert_eq!(w.states(&[p, g[0], plain]), "III");
    assert_eq!(
        w.s.enable(w.now, copies[0], vpmu::sched::Extent::Event),
        Err(EventError::NoEvent)
    );
    assert_eq!(w.s.fork(w.now, vpmu_task()), Err(TaskError::NoTask));
}

#[test]
fn r060_r192_totals_of_children_and_shapes() {
    let mut w = World::new(2);
    let group = ReadFormat::GROUP | ReadFormat::TOTAL_TIME_RUNNING | ReadFormat::ID;
    let g = w.group(2, &task(&w).inherit().format(group));
    w.until(2);
    let child = w.s.fork(w.now, w.t).unwrap();
    w.run(1, Some(child));
    w.until(5);
    let r = w.read(g[0]);
    assert_eq!((r.running.0, r.values[1].count.0), (8 * MS, 8 * MS));
    assert_eq!(r.values[1].id, w.s.view(g[1]).unwrap().id);
    let late = w.open(task(&w).pmu(1).inherit().group(g[0]));
    assert_eq!(w.s.read(w.now, g[0], 4096), Err(EventError::ChildShape));
    assert_eq!(EventError::ChildShape.errno(), Errno::ECHILD);
    w.s.exit_task(w.now, child).unwrap();
    w.until(6);
    assert_eq!(w.read(g[0]).values[0].count.0, 9 * MS);
    assert_eq!(w.states(&[late]), "A");
    w.s.reset(w.now, g[0], vpmu::sched::Extent::Event).unwrap();
    assert_eq!(w.read(g[0]).values[0].count.0, 3 * MS);
    let other = w.s.fork(w.now, w.t).unwrap();
    w.close(g[0]);
    assert!(w.s.event_ids().all(|e| e != g[0]));
    w.s.exit_task(w.now, other).unwrap();
}

#[test]
fn switches_and_hotplug_refuse_nonsense() {
    let mut w = World::new(1);
    let t = w.t;
    assert_eq!(
        w.s.switch_to(w.now, VcpuId(99), None),
        Err(TaskError::NoCpu)
    );
    assert_eq!(
        w.s.switch_to(w.now, VcpuId(1), Some(t)),
        Err(TaskError::RunsElsewhere)
    );
    assert_eq!(
        w.s.switch_to(w.now, VcpuId(1), Some(vpmu_task())),
        Err(TaskError::NoTask)
    );
    assert_eq!(w.s.offline(w.now, VcpuId(0)), Err(TaskError::CpuBusy));
    assert_eq!(w.s.online(w.now, VcpuId(0)), Err(TaskError::NoCpu));
    assert_eq!(w.s.exit_task(w.now, vpmu_task()), Err(TaskError::NoTask));
    w.s.offline(w.now, VcpuId(2)).unwrap();
    assert_eq!(w.s.offline(w.now, VcpuId(2)), Err(TaskError::NoCpu));
    assert_eq!(w.s.exit_cpu(w.now, VcpuId(2)), Err(TaskError::NoCpu));
    assert_eq!(w.s.init_cpu(w.now, VcpuId(2)), Err(TaskError::NoCpu));
    assert_eq!(w.s.current_task(VcpuId(0)), Some(t));
    assert_eq!(w.s.task_vcpu(t), Some(VcpuId(0)));
    assert!(!w.s.is_online(VcpuId(2)) && w.s.is_online(VcpuId(1)));
    for e in [
        TaskError::NoTask,
        TaskError::NoCpu,
        TaskError::CpuBusy,
        TaskError::Inherit,
    ] {
        assert!(!e.to_string().is_empty() && e.errno().number() > 0);
    }
    let e = w.open(task(&w));
    w.close(e);
    assert_eq!(w.s.read(w.now, e, 8), Err(EventError::NoEvent));
    assert_eq!(EventError::NoEvent.errno(), Errno::EBADF);
    assert!(!matches!(w.s.read(w.now, e, 8), Ok(ReadOutcome::EndOfFile)));
}
