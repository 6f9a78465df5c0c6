//! Time accounting and reading (2.C, 2.D).

use vpmu::ids::VcpuId;
use vpmu::sched::{Errno, EventError, ReadFormat, ReadOutcome};

use crate::world::{World, cpu, task};

#[test]
fn r040_r044_clocks_run_only_while_there_are_events() {
    let mut w = World::new(2);
    w.until(5);
    let a = w.open(task(&w).disabled());
    w.until(8);
    // A context with an event that is off has a running clock.
    let b = w.open(task(&w));
    w.until(10);
    assert_eq!((w.times(a), w.times(b)), ((0, 0), (2, 2)));
    w.run(0, None);
    w.until(20);
    assert_eq!(w.times(b), (2, 2));
    w.run(0, Some(w.t));
    w.until(23);
    assert_eq!(w.times(b), (5, 5));
}

#[test]
fn r041_r042_r050_times_are_added_when_states_change() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    w.until(10);
    let stored = w.s.view(e[1]).unwrap();
    // The rotations of the other event have not touched what is stored … but for its own switches.
    assert!(stored.running <= stored.enabled);
    assert_eq!(w.times(e[0]).0, 10);
    assert_eq!(w.times(e[0]).1 + w.times(e[1]).1, 10);
}

#[test]
fn r045_a_reschedule_costs_no_time() {
    let mut w = World::new(2);
    let a = w.opens(2, &task(&w));
    for i in 1..20 {
        w.until(i);
        let x = w.open(task(&w));
        w.close(x);
    }
    assert_eq!((w.times(a[0]), w.times(a[1])), ((19, 19), (19, 19)));
}

#[test]
fn r048_r206_a_throttled_event_goes_on_running() {
    let mut w = World::new(1);
    let e = w.open(task(&w).period(1));
    w.until(1);
    for _ in 0..400 {
        let _ = w.s.overflow(w.now, e).unwrap();
    }
    assert!(w.s.is_throttled(e));
    w.until(4);
    assert_eq!((w.states(&[e]), w.times(e)), ("A".into(), (4, 4)));
    assert_eq!(w.read(e).values[0].count.0, 1_000_000);
    w.s.tick(w.now, VcpuId(0));
    w.until(5);
    assert!(!w.s.is_throttled(e));
    assert_eq!(w.read(e).values[0].count.0, 2_000_000);
}

#[test]
fn r055_r056_what_a_read_brings_up_to_date() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w).format(ReadFormat::TOTAL_TIME_ENABLED));
    w.until(3);
    assert_eq!(w.read(e[1]).enabled.0, 3_000_000);
    w.disable(e[1]);
    w.until(6);
    assert_eq!(w.read(e[1]).enabled.0, 3_000_000);
    let p = w.opens(2, &cpu(&w, 1).pinned());
    assert!(w.is_eof(p[1]));
    let g = w.open(cpu(&w, 1).pmu(1).group(p[1]));
    assert_eq!(w.read(g).values[0].count.0, 0);
    w.s.exit_task(w.now, w.t).unwrap();
    assert_eq!(w.read(e[0]).values[0].count.0, 3_000_000 + 3_000_000);
}

#[test]
fn r057_r058_r059_r061_r081_shapes_and_sizes() {
    let mut w = World::new(4);
    let all = ReadFormat::all();
    let g = w.group(3, &task(&w).format(all));
    let lone = w.open(task(&w).format(ReadFormat::ID));
    let need = |w: &mut World<_>, e| match w.s.read(w.now, e, 0) {
        Err(EventError::NoSpace { need, have: 0 }) => need,
        other => panic!("{other:?}"),
    };
    assert_eq!(need(&mut w, g[1]), 3 * 8 + 3 * 24);
    assert_eq!(need(&mut w, lone), 16);
    w.until(2);
    w.disable(g[2]);
    w.until(5);
    // The shape is the reader's, the times are the leader's.
    let r = w.read(g[2]);
    assert_eq!(
        r.values.iter().map(|v| v.count.0).collect::<Vec<_>>(),
        [5_000_000, 5_000_000, 2_000_000]
    );
    assert_eq!(r.running.0, 5_000_000);
    assert_eq!(r.values[1].id, w.s.view(g[1]).unwrap().id);
    // A promoted sibling is sized as a group of its own.
    w.close(g[0]);
    assert_eq!(need(&mut w, g[1]), 3 * 8 + 24);
    assert_eq!(
        EventError::NoSpace { need: 1, have: 0 }.errno(),
        Errno::ENOSPC
    );

    let mut w = World::new(4);
    let soft = task(&w)
        .pmu(1)
        .format(ReadFormat::GROUP | ReadFormat::ID | ReadFormat::LOST);
    let l = w.open(soft.clone().disabled());
    for _ in 1..682 {
        w.open(soft.clone().group(l).disabled());
    }
    assert_eq!(w.errno(soft.group(l).disabled()), Errno::E2BIG);
}

#[test]
fn r062_r064_reads_inside_the_kernel() {
    let mut w = World::new(1);
    let e = w.opens(2, &task(&w));
    let (here, elsewhere, t) = (VcpuId(0), VcpuId(1), w.t);
    w.until(3);
    let (count, enabled, running) = w.s.read_local(w.now, e[0], here, Some(t)).unwrap();
    assert_eq!(
        (count.0, enabled.0, running.0),
        (3_000_000, 3_000_000, 3_000_000)
    );
    assert!(w.s.has_user_index(e[0]) && !w.s.has_user_index(e[1]));
    assert_eq!(
        w.s.read_local(w.now, e[0], here, None),
        Err(EventError::Foreign)
    );
    let c = w.open(cpu(&w, 1));
    assert_eq!(
        w.s.read_local(w.now, c, here, None),
        Err(EventError::Foreign)
    );
    assert!(w.s.read_local(w.now, c, elsewhere, None).is_ok());
    let i = w.open(task(&w).inherit());
    assert_eq!(
        w.s.read_local(w.now, i, here, Some(t)),
        Err(EventError::InheritedRead)
    );
    let p = w.opens(2, &cpu(&w, 2).pinned());
    assert_eq!(
        w.s.read_local(w.now, p[1], VcpuId(2), None),
        Err(EventError::PinnedElsewhere)
    );
    assert_eq!(w.s.read(w.now, p[1], 8), Ok(ReadOutcome::EndOfFile));
    assert_eq!(w.s.read_value(w.now, p[1]).unwrap().values[0].count.0, 0);
    w.s.exit_task(w.now, t).unwrap();
    assert_eq!(
        w.s.read_local(w.now, e[0], here, Some(t)),
        Err(EventError::Foreign)
    );
    for e in [
        EventError::Foreign,
        EventError::PinnedElsewhere,
        EventError::InheritedRead,
    ] {
        assert!([Errno::EINVAL, Errno::EBUSY, Errno::EOPNOTSUPP].contains(&e.errno()));
    }
}

#[test]
fn r063_hang_up_is_for_tasks_that_ended() {
    let mut w = World::new(1);
    let (e, c) = (w.open(task(&w)), w.open(cpu(&w, 3)));
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert!(!w.s.is_hung_up(e) && !w.s.is_hung_up(c));
    w.s.exit_task(w.now, w.t).unwrap();
    assert!(w.s.is_hung_up(e) && !w.s.is_hung_up(c));
}
