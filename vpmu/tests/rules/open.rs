//! Open checks, registry and lookup (2.F, 2.G).

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{
    AttrFlags, CgroupId, ClockId, Errno, EventAttr, EventId, GroupKey, OpenError, OpenFlags,
    PmuCaps, PmuClass, PmuDesc, PmuId, PmuType, ReadFormat, RegisterError, RunKey, Scope,
    ScopePolicy, ScopeTopology, Target,
};
use vpmu::units::Nanos;

use crate::world::{Spec, World, cpu, task};

fn flags(mut spec: Spec, bits: u64) -> Spec {
    spec.request.flags = OpenFlags::from_bits_retain(bits);
    spec
}

#[test]
fn r080_checks_1_to_4_in_order() {
    let mut w = World::new(2);
    // Each spec has a later fault too: the first one decides.
    let late = task(&w).bound(99);
    assert_eq!(w.refused(flags(late.clone(), 256)), OpenError::UnknownFlag);
    assert_eq!(
        w.refused(late.clone().attr(|a| a.size = 10)),
        OpenError::AttrSize(10)
    );
    assert_eq!(
        w.refused(late.clone().attr(|a| a.size = 5000)),
        OpenError::AttrSize(5000)
    );
    for bits in [1 << 25, 1 << 11, 1 << 12, 1 << 18, 1 << 14 | 1 << 24] {
        assert!(
            matches!(
                w.refused(late.clone().attr(|a| a.sample_type = bits)),
                OpenError::Attr(_)
            ),
            "{bits:#x}"
        );
    }
    let attrs = [
        AttrFlags::INHERIT_THREAD,
        AttrFlags::REMOVE_ON_EXEC | AttrFlags::ENABLE_ON_EXEC,
        AttrFlags::SIGTRAP,
    ];
    for f in attrs {
        assert!(
            matches!(w.refused(late.clone().flags(f)), OpenError::Attr(_)),
            "{f:?}"
        );
    }
    assert!(matches!(
        w.refused(late.clone().format(ReadFormat::from_bits_retain(128))),
        OpenError::Attr(_)
    ));
    assert_eq!(
        w.refused(late.clone().period(1 << 63)),
        OpenError::SampleRange
    );
    assert_eq!(
        w.refused(late.clone().period(100_001).flags(AttrFlags::FREQ)),
        OpenError::SampleRange
    );
}

#[test]
fn r080_checks_5_to_10_in_order() {
    let mut w = World::new(2);
    let late = task(&w).bound(99);
    let mut group = task(&w);
    group.request.target = Target::Cgroup(CgroupId(1));
    assert_eq!(w.refused(flags(group, 4)), OpenError::CgroupNeedsCpu);
    assert_eq!(
        w.refused(late.clone().group(EventId::NONE)),
        OpenError::NoLeader
    );
    let ghost = w.s.create_task();
    w.s.exit_task(w.now, ghost).unwrap();
    assert_eq!(w.refused(late.clone().of(ghost)), OpenError::NoTask);
    let l = w.open(task(&w).inherit());
    assert_eq!(w.refused(late.clone().group(l)), OpenError::InheritMismatch);
    assert_eq!(w.refused(late), OpenError::NoCpu);
    let mut nobody = task(&w);
    nobody.request.target = Target::Cpu;
    assert_eq!(w.refused(nobody), OpenError::NoCpu);
    let trap = cpu(&w, 1).flags(AttrFlags::SIGTRAP | AttrFlags::REMOVE_ON_EXEC);
    assert!(matches!(w.refused(trap), OpenError::Attr(_)));
    assert_eq!(
        w.refused(task(&w).inherit().attr(|a| a.sample_type = 1 << 4)),
        OpenError::InheritSampleRead
    );
    assert!(
        w.try_open(
            task(&w)
                .inherit()
                .attr(|a| (a.sample_type, a.size) = (1 << 4 | 1 << 1, 0))
        )
        .is_ok()
    );
    w.s.exit_task(w.now, w.t).unwrap();
    assert_eq!(w.refused(cpu(&w, 0).group(l)), OpenError::LeaderGone);
}

#[test]
fn r082_checks_11_to_20() {
    let mut w = World::new(2);
    let caps = |w: &mut World<MockPmu>, name: &str, caps| {
        let mut desc = PmuDesc::new(name, PmuClass::Hardware);
        desc.caps = caps;
        w.add(desc, MockPmu::new(MockConfig::core(2)))
    };
    let quiet = caps(&mut w, "quiet", PmuCaps::NO_INTERRUPT);
    let open = caps(&mut w, "open", PmuCaps::NO_EXCLUDE);
    let no_nmi = caps(&mut w, "no_nmi", PmuCaps::NO_NMI);
    let alone = caps(&mut w, "alone", PmuCaps::EXCLUSIVE);
    assert_eq!(
        w.refused(task(&w).attr(|a| a.pmu_type = PmuType(55)))
            .errno(),
        Errno::ENOENT
    );
    assert_eq!(w.refused(task(&w).config(1 << 40)).errno(), Errno::EINVAL);
    assert_eq!(
        w.refused(task(&w).pmu(open).flags(AttrFlags::EXCLUDE_GUEST)),
        OpenError::NoExclude
    );
    assert_eq!(
        w.refused(task(&w).pmu(quiet).period(9)).errno(),
        Errno::EOPNOTSUPP
    );
    // an in-kernel counter skips that check, and the attribute checks.
    let mut inside = task(&w).pmu(quiet).period(9).attr(|a| a.size = 1);
    inside.request.in_kernel = true;
    assert!(w.try_open(inside).is_ok());
    for (clock, usable, usable_without_nmi) in [
        (1, true, true),
        (4, true, true),
        (0, false, true),
        (9, false, false),
    ] {
        let spec = cpu(&w, 2).attr(|a| a.clock = Some(ClockId(clock)));
        assert_eq!(w.try_open(spec.clone()).is_ok(), usable);
        assert_eq!(w.try_open(spec.pmu(no_nmi)).is_ok(), usable_without_nmi);
    }
    // of tasks or of CPUs, and once a CPU.
    let x = w.open(task(&w).pmu(alone).bound(1));
    assert_eq!(w.refused(cpu(&w, 1).pmu(alone)), OpenError::ExclusiveInUse);
    assert_eq!(w.refused(task(&w).pmu(alone)), OpenError::ExclusiveTaken);
    assert!(w.try_open(task(&w).pmu(alone).bound(2)).is_ok());
    assert_eq!(w.states(&[x]), "I");
}

#[test]
fn r082_checks_23_to_27() {
    let mut w = World::new(2);
    w.s.offline(w.now, VcpuId(3)).unwrap();
    assert_eq!(w.refused(cpu(&w, 3)), OpenError::CpuOffline);
    let l = w.open(task(&w));
    let s = w.open(task(&w).group(l));
    let other = w.s.create_task();
    let wrong = [
        task(&w).group(s),
        task(&w).group(l).attr(|a| a.clock = Some(ClockId(1))),
        task(&w).group(l).bound(1),
        task(&w).group(l).of(other),
        flags(task(&w).pmu(1).group(l), 2),
    ];
    for spec in wrong {
        assert_eq!(w.refused(spec.clone()).errno(), Errno::EINVAL, "{spec:?}");
    }
    // Nothing of all that is left.
    assert_eq!(w.s.view(l).unwrap().siblings, 1);
    assert!(w.try_open(flags(cpu(&w, 0).group(l), 1)).is_ok());
    let mut group = cpu(&w, 0);
    group.request.target = Target::Cgroup(CgroupId(1));
    assert_eq!(w.refused(flags(group.clone(), 4)).errno(), Errno::EBADF);
    assert!(w.s.create_cgroup(CgroupId(1), CgroupId::ROOT));
    assert!(w.try_open(flags(group.clone(), 4)).is_ok());
    let lone = w.open(cpu(&w, 0));
    assert_eq!(
        w.refused(flags(group.group(lone), 4)),
        OpenError::CgroupMismatch
    );
}

#[test]
fn every_error_has_a_text_and_an_errno() {
    let all = [
        OpenError::UnknownFlag,
        OpenError::AttrSize(1),
        OpenError::NoLeader,
        OpenError::Pmu(Errno::EBUSY),
        OpenError::Output,
        OpenError::TooLarge,
        OpenError::NoCgroup,
    ];
    for e in all {
        assert!(
            !e.to_string().is_empty() && e.errno().number() > 0 && !e.errno().name().is_empty()
        );
    }
    for e in [
        RegisterError::NoName,
        RegisterError::TooMany,
        RegisterError::NoPmu,
        RegisterError::Busy,
        RegisterError::MuxInterval,
    ] {
        assert!(!e.to_string().is_empty() && e.errno().number() > 0);
    }
}

#[test]
fn r090_r091_r092_types_are_handed_out_from_the_lowest() {
    let mut w = World::new(2);
    let fixed = |t| PmuDesc {
        pmu_type: Some(PmuType(t)),
        ..PmuDesc::new("fixed", PmuClass::Hardware)
    };
    let mock = || MockPmu::new(MockConfig::core(1));
    let raw = w.add(fixed(4), mock());
    let again = w.add(fixed(4), mock());
    let seven = w.add(fixed(7), mock());
    let types: Vec<u32> = w.pmus.iter().map(|p| w.s.pmu(*p).unwrap().1.0).collect();
    assert_eq!(types, [6, 7, 4, 5, 8]);
    assert_eq!(w.s.pmu_of_type(PmuType(4)), Some(w.pmus[raw]));
    w.s.unregister_pmu(w.pmus[again]).unwrap();
    assert_eq!(w.s.unregister_pmu(w.pmus[again]), Err(RegisterError::NoPmu));
    let reused = w.add(fixed(4), mock());
    assert_eq!(w.s.pmu(w.pmus[reused]).unwrap().1, PmuType(5));
    assert_eq!(
        w.s.register_pmu(PmuDesc::new("", PmuClass::Hardware), mock()),
        Err(RegisterError::NoName)
    );
    w.open(task(&w));
    assert_eq!(w.s.unregister_pmu(w.pmus[0]), Err(RegisterError::Busy));
    assert_eq!(w.s.pmu_name(w.pmus[seven]).unwrap(), "fixed");
    assert!(w.s.driver_mut(PmuId(99)).is_none());
}

/// P cores are CPUs 0 and 1 and own RAW, E cores are 2 and 3.
fn hybrid(extended: bool) -> World<MockPmu> {
    let mut w = World::empty(ScopeTopology::flat(4), ScopePolicy::Linux612);
    for (name, pmu_type, cpus) in [
        ("cpu_core", Some(PmuType::RAW), [0, 1]),
        ("cpu_atom", None, [2, 3]),
    ] {
        let mut desc = PmuDesc {
            pmu_type,
            ..PmuDesc::new(name, PmuClass::Hardware)
        };
        desc.caps.set(PmuCaps::EXTENDED_HW_TYPE, extended);
        let config = MockConfig {
            kind: MockKind::Counters {
                uncore: false,
                generic: true,
            },
            vcpus: Some(cpus.into_iter().map(VcpuId).collect()),
            ..MockConfig::core(2)
        };
        w.add(desc, MockPmu::new(config));
    }
    w
}

fn hardware(w: &World<MockPmu>, ext: u64) -> Spec {
    task(w).attr(|a| *a = EventAttr::new(PmuType::HARDWARE, ext << 32))
}

#[test]
fn r094_r095_r097_r098_r099_generic_events_on_a_hybrid_machine() {
    let mut w = hybrid(true);
    let (core, atom) = (w.pmus[0], w.pmus[1]);
    let atom_type = u64::from(w.s.pmu(atom).unwrap().1.0);
    assert_eq!(w.taken_by(hardware(&w, 0)), core);
    assert_eq!(w.taken_by(hardware(&w, atom_type)), atom);
    assert_eq!(w.taken_by(hardware(&w, 4)), core);
    // Bound to an E core the list walk finds the other PMU.
    let mut bound = hardware(&w, 0).bound(2);
    bound.request.target = Target::Cpu;
    assert_eq!(w.taken_by(bound), atom);
    assert_eq!(w.errno(task(&w).bound(2)), Errno::ENOENT);
    // An extended type that nobody owns also takes the walk: newest first.
    assert_eq!(w.taken_by(hardware(&w, 77)), atom);
    let mut w = hybrid(false);
    assert_eq!(w.errno(hardware(&w, atom_type)), Errno::ENOENT);
}

#[test]
fn r096_software_clocks_are_forwarded() {
    let mut w = World::empty(ScopeTopology::flat(2), ScopePolicy::Linux612);
    let (cpu_clock, task_clock) = (PmuType(6), PmuType(7));
    let kinds = [
        MockKind::Software {
            cpu_clock,
            task_clock,
        },
        MockKind::Clock { config: 0 },
        MockKind::Clock { config: 1 },
        MockKind::Refuse,
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let pmu_type = Some(
            [
                PmuType::SOFTWARE,
                cpu_clock,
                task_clock,
                PmuType::TRACEPOINT,
            ][i],
        );
        let desc = PmuDesc {
            pmu_type,
            ..PmuDesc::new("soft", PmuClass::Software)
        };
        w.add(desc, MockPmu::new(MockConfig::unlimited(kind)));
    }
    let e = w.open(task(&w).config(0));
    let f = w.open(task(&w).config(1));
    let dummy = w.open(task(&w).config(9));
    assert_eq!(
        [e, f, dummy].map(|e| w.s.view(e).unwrap().pmu),
        [w.pmus[1], w.pmus[2], w.pmus[0]]
    );
    w.until(3);
    assert_eq!(w.read(e).values[0].count.0, 3_000_000);
    assert_eq!(w.errno(task(&w).config(99)), Errno::ENOENT);
    assert_eq!(w.errno(task(&w).pmu(3)), Errno::EINVAL);
    assert_eq!(w.errno(task(&w).pmu(1).config(5)), Errno::ENOENT);
    // software is not an extended hardware type.
    assert_eq!(w.errno(hardware(&w, 1)), Errno::ENOENT);
}

#[test]
fn r100_r101_r102_r103_a_pmu_sees_the_group_and_may_lack_callbacks() {
    let mut w = World::new(2);
    let g = w.group(2, &task(&w));
    assert_eq!(w.errno(task(&w).group(g[0])), Errno::EINVAL);
    let mut config = MockConfig::core(1);
    config.txn = false;
    let plain = w.add(
        PmuDesc::new("plain", PmuClass::Hardware),
        MockPmu::new(config),
    );
    let e = w.opens(2, &task(&w).pmu(plain));
    assert_eq!(w.states(&e), "AI");
}

#[test]
fn r104_r229_a_filtered_pmu_is_not_visited() {
    let mut w = hybrid(true);
    let atom = w.opens(3, &task(&w).pmu(1));
    let pinned = w.open(task(&w).pmu(1).pinned());
    assert_eq!(
        (w.states(&atom), w.states(&[pinned])),
        ("III".into(), "I".into())
    );
    assert!(w.s.next_timer().is_none());
    w.run(0, None);
    w.run(2, Some(w.t));
    assert_eq!(
        (w.states(&atom), w.states(&[pinned])),
        ("AII".into(), "A".into())
    );
    let l = w.open(hardware(&w, 0));
    assert_eq!(w.errno(task(&w).pmu(1).group(l)), Errno::EINVAL);
}

#[test]
fn r110_r111_keys_are_ordered() {
    let key = |vcpu: Option<u16>, pmu, cgroup: Option<u32>, index| GroupKey {
        run: RunKey {
            vcpu: vcpu.map(VcpuId),
            pmu: PmuId(pmu),
            cgroup: cgroup.map(CgroupId),
        },
        index,
    };
    let sorted = [
        key(None, 0, None, 9),
        key(None, 1, None, 1),
        key(Some(0), 0, None, 2),
        key(Some(0), 0, None, 3),
        key(Some(0), 0, Some(1), 1),
        key(Some(0), 1, None, 0),
        key(Some(1), 0, None, 0),
    ];
    assert!(sorted.is_sorted());
}

#[test]
fn r245_r014_a_scope_without_a_designated_cpu() {
    let mut w = World::new(1);
    let desc = PmuDesc {
        scope: Scope::Core,
        ..PmuDesc::new("cstate", PmuClass::Uncore)
    };
    let u = w.add(desc, MockPmu::new(MockConfig::core(1)));
    w.s.offline(Nanos(0), VcpuId(2)).unwrap();
    assert_eq!(w.errno(cpu(&w, 2).pmu(u)), Errno::ENODEV);
    assert_eq!(
        w.try_open(cpu(&w, 2).pmu(u)),
        Err(OpenError::NoDesignatedCpu)
    );
}

#[test]
fn r080_fields_behind_a_short_structure_are_zero() {
    let mut w = World::new(2);
    let clock = |size| move |a: &mut EventAttr| (a.size, a.clock) = (size, Some(ClockId(1)));
    assert_eq!(w.refused(task(&w).attr(clock(64))), OpenError::Clock);
    assert_eq!(w.refused(task(&w).attr(clock(0))), OpenError::Clock);
    assert!(w.try_open(task(&w).attr(clock(96))).is_ok());
    let branch = |size| {
        move |a: &mut EventAttr| (a.size, a.sample_type, a.branch_sample_type) = (size, 1 << 11, 8)
    };
    assert!(matches!(
        w.refused(task(&w).attr(branch(72))),
        OpenError::Attr(_)
    ));
    assert!(w.try_open(task(&w).attr(branch(80))).is_ok());
}
