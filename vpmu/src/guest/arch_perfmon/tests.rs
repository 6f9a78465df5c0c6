//! Register rules of guest-contract §1.4 and §8, profile `intel-generic`.

use super::*;
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
    pmu.write(MsrIndex(index), value)?;
    pmu.read(MsrIndex(index))
}

#[test]
fn reset_values() {
    let pmu = pmu();
    for i in 0..GP {
        for base in [0xc1, 0x186, 0x4c1] {
            assert_eq!(pmu.read(MsrIndex(base + i)), Ok(0), "G-001");
        }
    }
    for i in 0..FIXED {
        assert_eq!(pmu.read(MsrIndex(0x309 + i)), Ok(0));
    }
    for (index, value) in [
        (0x38d, 0),
        (0x38e, 0),
        (0x38f, 0xf),
        (0x390, 0),
        (0x345, 0x2000),
    ] {
        assert_eq!(pmu.read(MsrIndex(index)), Ok(value), "{index:#x}");
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
        assert_eq!(pmu.read(MsrIndex(index)), FAULT, "{index:#x}");
        assert_eq!(
            pmu.write(MsrIndex(index), 0),
            Err(MsrError::InvalidAccess),
            "{index:#x}"
        );
    }
    for index in [0x10, 0x1a0, 0x1d9, 0x3f1, 0x600, 0xc000_0080] {
        assert_eq!(
            pmu.read(MsrIndex(index)),
            Err(MsrError::Unknown),
            "{index:#x}"
        );
        assert_eq!(
            pmu.write(MsrIndex(index), 0),
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
            let before = pmu.read(MsrIndex(index));
            let wrote = pmu.write(MsrIndex(index), 1 << bit);
            let read_only = matches!(index, 0x38e | 0x345);
            if mask & 1 << bit != 0 {
                assert_eq!(wrote, Ok(()), "{index:#x} bit {bit}");
                let stored = if index == 0x390 { 0 } else { 1 << bit };
                assert_eq!(
                    pmu.read(MsrIndex(index)),
                    Ok(stored),
                    "{index:#x} bit {bit}"
                );
            } else {
                assert_eq!(wrote, Err(MsrError::InvalidAccess), "{index:#x} bit {bit}");
                assert_eq!(pmu.read(MsrIndex(index)), before, "{index:#x} bit {bit}");
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
        pmu.read(MsrIndex(0xc1)),
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
    let old = pmu.read(MsrIndex(0x4c4)).unwrap();
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
        pmu.write(MsrIndex(0x187), sel).unwrap();
        pmu.write(MsrIndex(0x4c2), MASK48 - 4).unwrap();
        assert_eq!(pmu.distance(pmc), Count(5));
        assert_eq!(pmu.advance(pmc, Count(4)), Wrap::No);
        assert_eq!(pmu.advance(pmc, Count(3)), wrap);
        assert_eq!(pmu.value(pmc), 2, "wrapped, with what came after");
        assert_eq!(pmu.read(MsrIndex(0x38e)), Ok(2));
        assert_eq!(pmu.interrupt_due(), wrap == Wrap::Interrupt);
        pmu.write(MsrIndex(0x390), 2).unwrap();
        assert_eq!(pmu.read(MsrIndex(0x38e)), Ok(0), "G-104");
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
        Some(Demand::Event(EventAttr {
            event: ArchEvent::Cycles,
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
        pmu.write(MsrIndex(0x186), sel).unwrap();
        pmu.write(MsrIndex(0x38f), 1).unwrap();
        assert_eq!(pmu.demand(gp0), demand, "{sel:#x}");
        pmu.write(MsrIndex(0x38f), 0).unwrap();
        assert_eq!(pmu.demand(gp0), None, "{sel:#x}");
    }
    pmu.write(MsrIndex(0x38f), 1 << 33).unwrap();
    assert_eq!(pmu.demand(fixed1), None, "mode 0");
    pmu.write(MsrIndex(0x38d), 0xb0).unwrap();
    assert_eq!(pmu.demand(fixed1), cycles(both));
}

#[test]
fn an_event_without_backing_is_never_in_demand_as_one() {
    let clock = [ArchEvent::Cycles, ArchEvent::RefTsc].into_iter().collect();
    let mut pmu = ArchPerfmon::new(ArchPerfmonConfig::new(4, 3, 48, clock).unwrap());
    pmu.write(MsrIndex(0x38d), 0xb).unwrap();
    pmu.write(MsrIndex(0x38f), 1 << 32).unwrap();
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

/// G-002 and the limits of the register table.
#[test]
fn impossible_shapes_are_refused_by_name() {
    let new = |gp, fixed, width| ArchPerfmonConfig::new(gp, fixed, width, ArchEventSet::ALL);
    assert_eq!(new(1, 3, 48), Err(ConfigError::GeneralPurpose(1)));
    assert_eq!(new(9, 3, 48), Err(ConfigError::GeneralPurpose(9)));
    assert_eq!(new(4, 0, 48), Err(ConfigError::Fixed(0)));
    assert_eq!(new(4, 4, 48), Err(ConfigError::Fixed(4)));
    assert_eq!(new(4, 3, 31), Err(ConfigError::Width(31)));
    assert_eq!(new(4, 3, 49), Err(ConfigError::Width(49)));
    assert_eq!(
        alloc::format!("{}", ConfigError::GeneralPurpose(9)),
        "9 general-purpose counters; 2 to 8 can be had"
    );
}
