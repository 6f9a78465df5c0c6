//! Register rules of guest-contract §1.4 and §8: the profile `intel-generic`,
//! then what the other versions add and take away.

use super::*;
use crate::guest::{Arming, ModelConfig, ModelKind, Shape, all_registers};
use crate::x86::event::ArchEventSet;

const GP: u32 = 4;
const FIXED: u32 = 3;
const MASK48: u64 = (1 << 48) - 1;

fn pmu() -> ArchPerfmon {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL);
    ArchPerfmon::new(config.unwrap())
}

const FAULT: Result<u64, MsrError> = Err(MsrError::InvalidAccess);

/// Writes, then reads back; a fault of either is the result.
fn store(pmu: &mut ArchPerfmon, index: u32, value: u64) -> Result<u64, MsrError> {
    pmu.wrmsr(MsrIndex(index), value)?;
    pmu.rdmsr(MsrIndex(index))
}

#[test]
fn reset_values() {
    let pmu = pmu();
    for i in 0..GP {
        for base in [0xc1, 0x186, 0x4c1] {
            assert_eq!(pmu.rdmsr(MsrIndex(base + i)), Ok(0), "G-001");
        }
    }
    for i in 0..FIXED {
        assert_eq!(pmu.rdmsr(MsrIndex(0x309 + i)), Ok(0));
    }
    for (index, value) in [
        (0x38d, 0),
        (0x38e, 0),
        (0x38f, 0xf),
        (0x390, 0),
        (0x345, 0x2000),
    ] {
        assert_eq!(pmu.rdmsr(MsrIndex(index)), Ok(value), "{index:#x}");
    }
}

#[test]
fn registers_that_are_absent_fault_both_ways() {
    let mut pmu = pmu();
    let absent = [
        0xc1 + GP,
        0x186 + GP,
        0x4c1 + GP,
        0x309 + FIXED,
        0x391,
        0x392,
        0x606,
        0x611,
    ];
    let amd = [
        0xc000_0300,
        0xc000_0303,
        0xc001_0000,
        0xc001_0007,
        0xc001_0200,
        0xc001_0201,
    ];
    for index in absent.into_iter().chain(amd) {
        assert_eq!(pmu.rdmsr(MsrIndex(index)), FAULT, "{index:#x}");
        assert_eq!(
            pmu.wrmsr(MsrIndex(index), 0),
            Err(MsrError::InvalidAccess),
            "{index:#x}"
        );
    }
    for index in [0x10, 0x1a0, 0x3f1, 0x600, 0xc000_0080] {
        assert_eq!(
            pmu.rdmsr(MsrIndex(index)),
            Err(MsrError::Unknown),
            "{index:#x}"
        );
        assert_eq!(
            pmu.wrmsr(MsrIndex(index), 0),
            Err(MsrError::Unknown),
            "{index:#x}"
        );
    }
}

#[test]
fn each_reserved_bit_faults_and_changes_nothing() {
    let writable = [
        (0x186, 0xffff_ffff & !(1 << 21)),
        (0x309, MASK48),
        (0x4c1, MASK48),
        (0x38d, 0xbbb),
        (0x38f, 0x7_0000_000f),
        (0x390, 0x7_0000_000f | 1 << 62 | 1 << 63),
        (0x38e, 0),
        (0x345, 0),
    ];
    for (index, mask) in writable {
        for bit in 0..64 {
            let mut pmu = pmu();
            let before = pmu.rdmsr(MsrIndex(index));
            let wrote = pmu.wrmsr(MsrIndex(index), 1 << bit);
            let read_only = matches!(index, 0x38e | 0x345);
            if mask & 1 << bit != 0 {
                assert_eq!(wrote, Ok(()), "{index:#x} bit {bit}");
                let stored = if index == 0x390 { 0 } else { 1 << bit };
                assert_eq!(
                    pmu.rdmsr(MsrIndex(index)),
                    Ok(stored),
                    "{index:#x} bit {bit}"
                );
            } else {
                assert_eq!(wrote, Err(MsrError::InvalidAccess), "{index:#x} bit {bit}");
                assert_eq!(pmu.rdmsr(MsrIndex(index)), before, "{index:#x} bit {bit}");
            }
            assert!(!read_only || wrote.is_err());
        }
    }
}

#[test]
fn legacy_writes_extend_the_sign_and_full_width_ones_do_not() {
    let mut pmu = pmu();
    assert_eq!(store(&mut pmu, 0xc1, 0x7fff_ffff), Ok(0x7fff_ffff));
    assert_eq!(store(&mut pmu, 0xc1, 0x8000_0000), Ok(0xffff_8000_0000));
    assert_eq!(
        store(&mut pmu, 0xc1, 0xdead_beef_0000_0001),
        Ok(1),
        "upper half is dropped"
    );
    assert_eq!(store(&mut pmu, 0x4c1, 0x8000_0000), Ok(0x8000_0000));
    assert_eq!(
        pmu.rdmsr(MsrIndex(0xc1)),
        Ok(0x8000_0000),
        "one counter, two addresses"
    );
    assert_eq!(store(&mut pmu, 0x4c1, 1 << 48), FAULT);
    assert_eq!(
        store(&mut pmu, 0x309, 0xffff_8000_0000),
        Ok(0xffff_8000_0000)
    );
}

/// Guest-contract §1.2: what Linux's counter test writes must come back.
#[test]
fn the_counter_test_of_the_driver_passes() {
    let mut pmu = pmu();
    let old = pmu.rdmsr(MsrIndex(0x4c4)).unwrap();
    assert_eq!(store(&mut pmu, 0x4c4, old ^ 0xffff), Ok(old ^ 0xffff));
}

#[test]
fn rdpmc_indices() {
    let pmu = pmu();
    for i in 0..GP {
        assert_eq!(pmu.rdpmc_counter(i), u8::try_from(i).ok().and_then(Pmc::gp));
    }
    for i in 0..FIXED {
        let fixed = u8::try_from(i).ok().and_then(Pmc::fixed);
        assert_eq!(pmu.rdpmc_counter(0x4000_0000 | i), fixed);
    }
    for bad in [
        GP,
        255,
        256,
        0x2000_0000,
        0x4000_0003,
        0x4000_0100,
        0x8000_0000,
        u32::MAX,
    ] {
        assert_eq!(pmu.rdpmc_counter(bad), None, "{bad:#x}");
    }
}

/// SDM: the wrap at 2^48 sets the status whether or not INT is set.
#[test]
fn a_wrap_sets_the_status_and_int_decides_the_interrupt() {
    for (sel, wrap) in [(0x43_003c, Wrap::Silent), (0x53_003c, Wrap::Interrupt)] {
        let mut pmu = pmu();
        let pmc = Pmc::gp(1).unwrap();
        pmu.wrmsr(MsrIndex(0x187), sel).unwrap();
        pmu.wrmsr(MsrIndex(0x4c2), MASK48 - 4).unwrap();
        assert_eq!(pmu.distance(pmc), Count(5));
        assert_eq!(pmu.advance(pmc, Count(4)), Wrap::No);
        assert_eq!(pmu.advance(pmc, Count(3)), wrap);
        assert_eq!(pmu.value(pmc), 2, "wrapped, with what came after");
        assert_eq!(pmu.rdmsr(MsrIndex(0x38e)), Ok(2));
        assert_eq!(pmu.interrupt_due(), wrap == Wrap::Interrupt);
        pmu.wrmsr(MsrIndex(0x390), 2).unwrap();
        assert_eq!(pmu.rdmsr(MsrIndex(0x38e)), Ok(0), "G-104");
        assert!(!pmu.interrupt_due());
    }
}

#[test]
fn a_counter_is_in_demand_when_both_enables_and_a_level_are_set() {
    let mut pmu = pmu();
    let gp0 = Pmc::gp(0).unwrap();
    let fixed1 = Pmc::fixed(1).unwrap();
    let both = Privilege {
        user: true,
        kernel: true,
    };
    let cycles = |privilege| {
        Some(Demand::Event(HostEvent {
            code: ArchEvent::Cycles.into(),
            privilege,
        }))
    };
    for (sel, demand) in [
        (0x13_003c, None),
        (0x53_003c, cycles(both)),
        (
            0x51_003c,
            cycles(Privilege {
                user: true,
                kernel: false,
            }),
        ),
        (
            0x52_003c,
            cycles(Privilege {
                user: false,
                kernel: true,
            }),
        ),
        (0x50_003c, None),
        (
            0x53_01d1,
            Some(Demand::NotBacked(Encoding::Raw(EventSel::from_bits(
                0x53_01d1,
            )))),
        ),
    ] {
        pmu.wrmsr(MsrIndex(0x186), sel).unwrap();
        pmu.wrmsr(MsrIndex(0x38f), 1).unwrap();
        assert_eq!(pmu.demand(gp0), demand, "{sel:#x}");
        pmu.wrmsr(MsrIndex(0x38f), 0).unwrap();
        assert_eq!(pmu.demand(gp0), None, "{sel:#x}");
    }
    pmu.wrmsr(MsrIndex(0x38f), 1 << 33).unwrap();
    assert_eq!(pmu.demand(fixed1), None, "mode 0");
    pmu.wrmsr(MsrIndex(0x38d), 0xb0).unwrap();
    assert_eq!(pmu.demand(fixed1), cycles(both));
}

#[test]
fn an_event_without_backing_is_never_in_demand_as_one() {
    let clock = [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect();
    let mut pmu = ArchPerfmon::new(ArchPerfmonConfig::new(4, 3, 48, clock).unwrap());
    pmu.wrmsr(MsrIndex(0x38d), 0xb).unwrap();
    pmu.wrmsr(MsrIndex(0x38f), 1 << 32).unwrap();
    let instructions = Encoding::Architectural(ArchEvent::Instructions);
    assert_eq!(
        pmu.demand(Pmc::fixed(0).unwrap()),
        Some(Demand::NotBacked(instructions))
    );
}

/// Guest-contract §1.1.
#[test]
fn leaf_0a() {
    let clock = [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect();
    let leaf = ArchPerfmonConfig::new(6, 3, 48, clock).unwrap().leaf_0a();
    assert_eq!(leaf.eax.into_bits(), 0x0730_0602);
    assert_eq!(leaf.ebx, 0x7e, "G-101");
    assert_eq!(leaf.ecx, 0);
    assert_eq!(leaf.edx.into_bits(), 0x603);
}

fn version(name: &str) -> ArchPerfmon {
    let kind = ModelKind::from_name(name).unwrap();
    let ModelConfig::Intel(config) =
        ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap()
    else {
        panic!("{name} is Intel's");
    };
    ArchPerfmon::new(config)
}

/// The bits of `index` that a write stores, on a PMU after RESET: all others
/// must fault.
fn stored_bits(pmu: &ArchPerfmon, index: u32) -> u64 {
    (0..64).fold(0, |bits, bit| {
        let mut pmu = pmu.clone();
        match pmu.wrmsr(MsrIndex(index), 1 << bit) {
            Ok(()) => bits | 1 << bit,
            Err(MsrError::InvalidAccess) => bits,
            Err(MsrError::Unknown) => panic!("{index:#x} is unknown"),
        }
    })
}

/// SDM vol. 3B, "Architectural Performance Monitoring Version 1" to "5":
/// what each version takes, bit for bit.
#[test]
fn what_each_version_stores() {
    const V4: u64 = 1 << 55 | 0b1111 << 58;
    const DS: u64 = 1 << 62;
    const DS_AND_CHANGED: u64 = 0b11 << 62;
    let no_any: u64 = 0xffdf_ffff;
    let all: u64 = 0x7_0000_000f;
    // EVTSEL, 0x38d, 0x38f, 0x390, 0x391, 0x1d9.
    for (name, expected) in [
        ("intel-v1", [no_any, 0, 0, 0, 0, 3]),
        (
            "intel-v2",
            [no_any, 0xbbb, all, all | DS_AND_CHANGED, 0, 0x1803],
        ),
        (
            "intel-v3",
            [0xffff_ffff, 0xfff, all, all | DS_AND_CHANGED, 0, 0x1803],
        ),
        (
            "intel-v4",
            [
                0xffff_ffff,
                0xfff,
                all,
                all | DS_AND_CHANGED | V4,
                all | V4 | DS,
                0x1803,
            ],
        ),
        (
            "intel-v5",
            [
                no_any,
                0xbbb,
                all | 0xf0,
                all | 0xf0 | DS_AND_CHANGED | V4,
                all | 0xf0 | V4 | DS,
                0x1803,
            ],
        ),
    ] {
        let pmu = version(name);
        let stored = [0x186, 0x38d, 0x38f, 0x390, 0x391, 0x1d9].map(|i| stored_bits(&pmu, i));
        assert_eq!(stored, expected, "{name}: {stored:x?}");
        for read_only in [0x38e, 0x345, 0x392] {
            assert_eq!(stored_bits(&pmu, read_only), 0, "{name}");
        }
    }
}

/// Version 1 has no fixed counter, no global register, no full-width write.
#[test]
fn version_1_has_event_selects_and_counters_alone() {
    let mut pmu = version("intel-v1");
    let present: alloc::vec::Vec<u32> = all_registers()
        .filter(|index| pmu.decode(*index).is_ok())
        .map(|index| index.0)
        .collect();
    assert_eq!(present, [0x186, 0x187, 0xc1, 0xc2, 0x1d9]);
    for index in [0x309, 0x38d, 0x38e, 0x38f, 0x390, 0x345, 0x4c1] {
        assert_eq!(pmu.rdmsr(MsrIndex(index)), FAULT, "{index:#x}");
    }
    assert_eq!(
        store(&mut pmu, 0xc1, 0x8000_0000),
        Ok(0xff_8000_0000),
        "40 bits"
    );
    assert_eq!(pmu.rdpmc_counter(0x4000_0000), None);
    pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap();
    assert!(pmu.demand(Pmc::gp(0).unwrap()).is_some(), "EN is enough");
}

/// G-401 for a PMU without global registers, and when its wraps end.
#[test]
fn version_1_tells_of_a_wrap_until_the_counter_is_written() {
    let gp0 = Pmc::gp(0).unwrap();
    let mut pmu = version("intel-v1");
    let wrap = |pmu: &mut ArchPerfmon| {
        pmu.wrmsr(MsrIndex(0x186), 0x53_003c).unwrap();
        pmu.wrmsr(MsrIndex(0xc1), 0xffff_ffff).unwrap();
        assert!(!pmu.interrupt_due());
        assert_eq!(pmu.advance(gp0, Count(1)), Wrap::Interrupt);
        assert!(pmu.interrupt_due());
    };
    wrap(&mut pmu);
    pmu.wrmsr(MsrIndex(0xc1), 5).unwrap();
    assert!(!pmu.interrupt_due(), "the handler has set a new period");
    wrap(&mut pmu);
    pmu.wrmsr(MsrIndex(0x186), 0x13_003c).unwrap();
    assert!(
        pmu.interrupt_due(),
        "G-404: the write that stops it raises it"
    );
    pmu.wrmsr(MsrIndex(0x187), 0).unwrap();
    assert!(!pmu.interrupt_due(), "nobody waits for it any more");
    wrap(&mut pmu);
    pmu.wrmsr(MsrIndex(0x187), 0).unwrap();
    pmu.interrupt_postponed();
    assert!(pmu.interrupt_due(), "it still runs");
    pmu.wrmsr(MsrIndex(0x186), 0x13_003c).unwrap();
    pmu.interrupt_postponed();
    assert!(!pmu.interrupt_due(), "the handler itself has stopped it");
    wrap(&mut pmu);
    pmu.interrupt_told();
    pmu.wrmsr(MsrIndex(0x186), 0x13_003c).unwrap();
    assert!(!pmu.interrupt_due(), "G-004: its PMI has come or is lost");
    for (index, arms) in [
        (0x186, Arming::AtOnce),
        (0xc1, Arming::AtOnce),
        (0x38f, Arming::No),
        (0x1d9, Arming::No),
    ] {
        let found = pmu.decode(MsrIndex(index));
        let arming = found.map_or(Arming::No, |access| access.arming(1));
        assert_eq!(arming, arms, "{index:#x}");
    }
    pmu.wrmsr(MsrIndex(0x186), 0x43_003c).unwrap();
    pmu.wrmsr(MsrIndex(0xc1), 0xffff_ffff).unwrap();
    assert_eq!(pmu.advance(gp0, Count(1)), Wrap::Silent);
    assert!(!pmu.interrupt_due());
}

/// AnyThread is stored where it exists, and never counted as something else.
#[test]
fn any_thread_has_no_backing() {
    let gp0 = Pmc::gp(0).unwrap();
    let fixed1 = Pmc::fixed(1).unwrap();
    for name in ["intel-v3", "intel-v4"] {
        let mut pmu = version(name);
        pmu.wrmsr(MsrIndex(0x186), 0x73_003c).unwrap();
        pmu.wrmsr(MsrIndex(0x38d), 0x70).unwrap();
        pmu.wrmsr(MsrIndex(0x38f), 1 | 1 << 33).unwrap();
        assert!(matches!(
            pmu.demand(gp0),
            Some(Demand::NotBacked(Encoding::Raw(sel))) if sel.any_thread()
        ));
        assert!(matches!(
            pmu.demand(fixed1),
            Some(Demand::NotBacked(Encoding::Fixed(1, ctrl))) if ctrl.any_thread()
        ));
    }
}

/// Edge, invert and counter mask change what is counted.
#[test]
fn modifiers_have_no_backing() {
    let gp0 = Pmc::gp(0).unwrap();
    for modifier in [1 << 18, 1 << 24, 1 << 23 | 1 << 24] {
        let mut pmu = pmu();
        pmu.wrmsr(MsrIndex(0x186), 0x53_003c | modifier).unwrap();
        assert!(
            matches!(pmu.demand(gp0), Some(Demand::NotBacked(Encoding::Raw(_)))),
            "{modifier:#x}"
        );
    }
    for (bit, why) in [(19, "pin control"), (23, "invert without a mask")] {
        let mut pmu = pmu();
        pmu.wrmsr(MsrIndex(0x186), 0x53_003c | 1 << bit).unwrap();
        assert!(
            matches!(pmu.demand(gp0), Some(Demand::Event(_))),
            "{why} changes nothing"
        );
    }
}

/// SDM vol. 3B, "Freezing LBR and Performance Counters on PMI".
#[test]
fn a_pmi_freezes_the_counters_if_asked_to() {
    let (gp0, fixed1) = (Pmc::gp(0).unwrap(), Pmc::fixed(1).unwrap());
    for name in ["intel-v2", "intel-v3", "intel-v4", "intel-v5"] {
        for (freeze, sel) in [(0x1000, 0x53_003c), (0, 0x53_003c), (0x1000, 0x43_003c)] {
            let mut pmu = version(name);
            let all = pmu.counters().0;
            pmu.wrmsr(MsrIndex(0x1d9), freeze).unwrap();
            pmu.wrmsr(MsrIndex(0x186), sel).unwrap();
            pmu.wrmsr(MsrIndex(0x38d), 0x30).unwrap();
            pmu.wrmsr(MsrIndex(0x38f), all).unwrap();
            pmu.wrmsr(MsrIndex(0x4c1), MASK48).unwrap();
            let interrupts = pmu.advance(gp0, Count(1)) == Wrap::Interrupt;
            let freezes = freeze != 0 && interrupts;
            assert_eq!(pmu.demand(fixed1).is_none(), freezes, "{name}");
            let (ctrl, status) = (pmu.rdmsr(MsrIndex(0x38f)), pmu.rdmsr(MsrIndex(0x38e)));
            if !freezes {
                assert_eq!((ctrl, status), (Ok(all), Ok(1)), "{name}");
                continue;
            }
            if matches!(name, "intel-v2" | "intel-v3") {
                assert_eq!((ctrl, status), (Ok(0), Ok(1)), "{name}: legacy");
                continue;
            }
            assert_eq!((ctrl, status), (Ok(all), Ok(1 | 1 << 59)), "{name}");
            pmu.wrmsr(MsrIndex(0x390), 1).unwrap();
            assert!(pmu.demand(fixed1).is_none(), "{name}: still frozen");
            pmu.wrmsr(MsrIndex(0x390), 1 << 59).unwrap();
            assert!(pmu.demand(fixed1).is_some(), "{name}");
        }
    }
}

/// Version 4: the status can be set by software, and the registers in use seen.
#[test]
fn status_set_and_in_use() {
    for name in ["intel-v4", "intel-v5"] {
        let mut pmu = version(name);
        pmu.wrmsr(MsrIndex(0x391), 1 << 32 | 2).unwrap();
        pmu.wrmsr(MsrIndex(0x391), 1).unwrap();
        for index in [0x38e, 0x391] {
            assert_eq!(
                pmu.rdmsr(MsrIndex(index)),
                Ok(1 << 32 | 3),
                "{name}: it adds"
            );
        }
        // What there is not cannot be reported (G-105).
        pmu.wrmsr(MsrIndex(0x391), 1 << 55 | 1 << 58 | 0b111 << 60)
            .unwrap();
        assert_eq!(pmu.rdmsr(MsrIndex(0x38e)), Ok(1 << 32 | 3), "{name}");
        pmu.wrmsr(MsrIndex(0x390), 0xb << 60 | 1).unwrap();
        assert_eq!(pmu.rdmsr(MsrIndex(0x38e)), Ok(1 << 32 | 2), "{name}");
        assert_eq!(pmu.rdmsr(MsrIndex(0x392)), Ok(0), "{name}");
        pmu.wrmsr(MsrIndex(0x187), 0x3c).unwrap();
        pmu.wrmsr(MsrIndex(0x38d), 0x10).unwrap();
        assert_eq!(pmu.rdmsr(MsrIndex(0x392)), Ok(1 << 33 | 2), "{name}");
        for (index, value) in [(0x186, 1 << 20), (0x38d, 0x80)] {
            let mut pmu = version(name);
            pmu.wrmsr(MsrIndex(index), value).unwrap();
            assert_eq!(pmu.rdmsr(MsrIndex(0x392)), Ok(1 << 63), "{name} {index:#x}");
        }
    }
}

/// G-201 to G-203: leaf 0AH is the same on both, and a core has more.
#[test]
fn the_hybrid_pair() {
    let core = ArchPerfmonConfig::hybrid(CoreType::Core, ArchEventSet::ALL);
    let atom = ArchPerfmonConfig::hybrid(CoreType::Atom, ArchEventSet::ALL);
    assert_eq!(core.leaf_0a(), atom.leaf_0a(), "G-201");
    assert_eq!(core.leaf_0a().words(), [0x0730_0605, 0, 7, 0x8603]);
    let (mut core, mut atom) = (ArchPerfmon::new(core), ArchPerfmon::new(atom));
    assert_eq!(stored_bits(&core, 0x38f), 0x1_000f_0000_00ff, "G-202");
    assert_eq!(stored_bits(&atom, 0x38f), 0x7_0000_003f, "G-202");
    assert_eq!(stored_bits(&core, 0x38d), 0xbbbb);
    for index in [0x18d, 0xc8, 0x4c8, 0x30c, 0x329] {
        assert_eq!(store(&mut core, index, 9), Ok(9), "G-202 {index:#x}");
        assert_eq!(store(&mut atom, index, 9), FAULT, "{index:#x}");
    }
    assert_eq!(core.rdpmc_other(0x2000_0000), Some(9), "G-203");
    assert_eq!(core.rdpmc_counter(0x4000_0003), Pmc::fixed(3), "G-203");
    assert_eq!(atom.rdpmc_other(0x2000_0000), None);
    assert_eq!(atom.rdpmc_counter(0x4000_0003), None);
    core.wrmsr(MsrIndex(0x38d), 0xb000).unwrap();
    core.wrmsr(MsrIndex(0x38f), 1 << 35 | 1 << 48).unwrap();
    assert!(matches!(
        core.demand(Pmc::fixed(3).unwrap()),
        Some(Demand::NotBacked(Encoding::Fixed(3, _)))
    ));
}

/// SDM vol. 4: bit 48 of the status and of what sets and clears it, where there
/// is PERF_METRICS. No counter asks for an interrupt by it.
#[test]
fn the_status_of_the_metrics_is_set_and_cleared_by_software() {
    const METRICS: u64 = 1 << 48;
    let config = ArchPerfmonConfig::hybrid(CoreType::Core, ArchEventSet::ALL);
    let mut core = ArchPerfmon::new(config);
    core.wrmsr(MsrIndex(0x38d), 0xbbbb).unwrap();
    core.wrmsr(MsrIndex(0x391), METRICS | 1).unwrap();
    assert_eq!(core.rdmsr(MsrIndex(0x38e)), Ok(METRICS | 1));
    core.wrmsr(MsrIndex(0x390), 1).unwrap();
    assert_eq!(core.rdmsr(MsrIndex(0x38e)), Ok(METRICS));
    assert!(!core.interrupt_due());
    let mut restored = ArchPerfmon::new(config);
    restored.load(MsrIndex(0x38e), METRICS).unwrap();
    assert_eq!(restored.rdmsr(MsrIndex(0x38e)), Ok(METRICS));
    core.wrmsr(MsrIndex(0x390), METRICS).unwrap();
    assert_eq!(core.rdmsr(MsrIndex(0x38e)), Ok(0));
    let atom = ArchPerfmonConfig::hybrid(CoreType::Atom, ArchEventSet::ALL);
    let mut atom = ArchPerfmon::new(atom);
    for index in [0x390, 0x391] {
        assert_eq!(stored_bits(&atom, index) & METRICS, 0, "{index:#x}");
    }
    assert!(atom.load(MsrIndex(0x38e), METRICS).is_err());
}

/// Leaf 0AH of each version (G-002), and the bitmap of version 5.
#[test]
fn leaf_0a_of_each_version() {
    for (name, words) in [
        ("intel-v1", [0x0728_0201, 0, 0, 0]),
        ("intel-v2", [0x0730_0402, 0, 0, 0x603]),
        ("intel-v3", [0x0730_0403, 0, 0, 0x603]),
        ("intel-v4", [0x0730_0404, 0, 0, 0x603]),
        ("intel-v5", [0x0730_0805, 0, 7, 0x8603]),
    ] {
        let config = *version(name).config();
        assert_eq!(config.leaf_0a().words(), words, "{name}");
        let PmuCpuid::Intel(leaves) = config.cpuid() else {
            panic!("{name} is Intel's");
        };
        assert_eq!(leaves.pdcm, name != "intel-v1");
    }
    let holes = version("intel-v5").config().with_fixed_bitmap(0b1010);
    assert_eq!(holes.leaf_0a().ecx, 0b1010);
    assert_eq!(
        holes.leaf_0a().edx.fixed_counters(),
        0,
        "none is contiguous"
    );
    let mut pmu = ArchPerfmon::new(holes);
    assert_eq!(store(&mut pmu, 0x30a, 1), Ok(1));
    assert_eq!(store(&mut pmu, 0x309, 1), FAULT);
    assert_eq!(stored_bits(&pmu, 0x38d), 0xb0b0);
    let v2 = *version("intel-v2").config();
    assert_eq!(v2.with_fixed_bitmap(0b1), v2, "it could not say so");
    let numbers = Shape::new(6, 4, 40);
    let wide = ModelConfig::new(
        ModelKind::Intel(ArchVersion::V5),
        numbers,
        ArchEventSet::ALL,
    );
    assert!(matches!(wide, Ok(ModelConfig::Intel(c)) if c.leaf_0a().ecx == 0xf));
}
