//! Register rules of guest-contract §3 and §8, AMD models.

use super::*;
use crate::guest::{Effect, ModelKind, Shape, all_registers};
use crate::x86::cpuid::{AmdLeaves, Leaf22Ebx};
use crate::x86::event::ArchEventSet;

const SEL: u32 = 0xc001_0200;
const CTR: u32 = 0xc001_0201;
const STATUS: u32 = 0xc000_0300;
const CTL: u32 = 0xc000_0301;
const CLR: u32 = 0xc000_0302;
const SET: u32 = 0xc000_0303;
/// Cycles, user and kernel, INT, EN.
const CYCLES: u64 = 0x53_0076;
const FAULT: Result<u64, MsrError> = Err(MsrError::InvalidAccess);

fn pmu(version: AmdVersion) -> AmdPmu {
    AmdPmu::new(AmdConfig::new(version, ArchEventSet::ALL))
}

const ALL: [AmdVersion; 3] = [AmdVersion::K7, AmdVersion::Core, AmdVersion::V2];

fn store(pmu: &mut AmdPmu, index: u32, value: u64) -> Result<u64, MsrError> {
    pmu.wrmsr(MsrIndex(index), value)?;
    pmu.rdmsr(MsrIndex(index))
}

#[test]
fn each_generation_has_its_registers_and_no_other() {
    for version in ALL {
        let pmu = pmu(version);
        let present: alloc::vec::Vec<u32> = all_registers()
            .filter(|index| pmu.decode(*index).is_ok())
            .map(|index| index.0)
            .collect();
        let mut expected: alloc::vec::Vec<u32> = (0xc001_0000..0xc001_0008).collect();
        if version != AmdVersion::K7 {
            expected.extend(SEL..SEL + 12);
        }
        if version == AmdVersion::V2 {
            expected.extend(STATUS..=SET);
        }
        let sorted = |mut list: alloc::vec::Vec<u32>| {
            list.sort_unstable();
            list
        };
        assert_eq!(sorted(present), sorted(expected), "{version:?}");
        for index in [0xc1, 0x186, 0x309, 0x345, 0x38f, 0xc001_020c, 0xc001_0299] {
            assert_eq!(pmu.rdmsr(MsrIndex(index)), FAULT, "G-007 {index:#x}");
        }
        for index in [0x1d9, 0x10, 0xc001_0015, 0xc001_1030] {
            let unknown = Err(MsrError::Unknown);
            assert_eq!(pmu.rdmsr(MsrIndex(index)), unknown, "KVM's {index:#x}");
        }
    }
}

#[test]
fn reset_values() {
    for version in ALL {
        let mut pmu = pmu(version);
        let fresh = pmu.clone();
        for index in all_registers().filter(|index| fresh.decode(*index).is_ok()) {
            let value = if index.0 == CTL { 0x3f } else { 0 };
            assert_eq!(fresh.rdmsr(index), Ok(value), "G-001 {index}");
            pmu.wrmsr(index, !0).unwrap();
        }
        pmu.reset();
        for index in all_registers().filter(|index| fresh.decode(*index).is_ok()) {
            assert_eq!(pmu.rdmsr(index), fresh.rdmsr(index), "{index}");
        }
    }
}

/// G-301: reserved bits are dropped, never #GP.
#[test]
fn reserved_bits_are_dropped() {
    for version in ALL {
        for bit in 0..64 {
            let value = 1 << bit;
            let mut pmu = pmu(version);
            let reserved = matches!(bit, 19 | 21 | 36..=39 | 42..);
            let kept = if reserved { 0 } else { value };
            assert_eq!(store(&mut pmu, 0xc001_0000, value), Ok(kept), "bit {bit}");
            let kept = if bit >= 48 { 0 } else { value };
            assert_eq!(store(&mut pmu, 0xc001_0004, value), Ok(kept), "bit {bit}");
            if version == AmdVersion::V2 {
                let kept = if bit >= 6 { 0 } else { value };
                assert_eq!(store(&mut pmu, CTL, value), Ok(kept), "bit {bit}");
            }
        }
    }
}

/// Guest-contract §3.1: the old addresses are the first four counters.
#[test]
fn legacy_addresses_alias_the_first_four() {
    for version in [AmdVersion::Core, AmdVersion::V2] {
        for i in 0..4 {
            let mut pmu = pmu(version);
            pmu.wrmsr(MsrIndex(0xc001_0000 + i), 0x76).unwrap();
            pmu.wrmsr(MsrIndex(0xc001_0004 + i), 77).unwrap();
            assert_eq!(pmu.rdmsr(MsrIndex(SEL + 2 * i)), Ok(0x76));
            assert_eq!(pmu.rdmsr(MsrIndex(CTR + 2 * i)), Ok(77));
            pmu.wrmsr(MsrIndex(CTR + 2 * i), 78).unwrap();
            assert_eq!(pmu.rdmsr(MsrIndex(0xc001_0004 + i)), Ok(78));
        }
    }
}

/// G-302: the handler writes ones to every bit of the clear register.
#[test]
fn global_registers() {
    let mut pmu = pmu(AmdVersion::V2);
    assert_eq!(store(&mut pmu, SET, !0), Ok(0));
    assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(0x3f), "G-105");
    pmu.wrmsr(MsrIndex(SET), 0).unwrap();
    pmu.wrmsr(MsrIndex(STATUS), 0).unwrap();
    assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(0x3f), "writes are ignored");
    assert_eq!(store(&mut pmu, CLR, !0b101), Ok(0));
    assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(0b101));
    pmu.wrmsr(MsrIndex(CLR), !0).unwrap();
    assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(0), "G-302");
}

#[test]
fn a_counter_runs_by_its_own_enable_and_the_global_one_if_there_is_one() {
    let gp5 = Pmc::gp(5).unwrap();
    for version in [AmdVersion::Core, AmdVersion::V2] {
        let mut pmu = pmu(version);
        pmu.wrmsr(MsrIndex(SEL + 10), CYCLES).unwrap();
        assert!(matches!(pmu.demand(gp5), Some(Demand::Event(_))));
        pmu.wrmsr(MsrIndex(SEL + 10), CYCLES & !(1 << 22)).unwrap();
        assert_eq!(pmu.demand(gp5), None);
    }
    let mut pmu = pmu(AmdVersion::V2);
    pmu.wrmsr(MsrIndex(SEL + 10), CYCLES).unwrap();
    pmu.wrmsr(MsrIndex(CTL), 0x1f).unwrap();
    assert_eq!(pmu.demand(gp5), None);
}

#[test]
fn demands() {
    let event = |event: ArchEvent, user, kernel| {
        let privilege = Privilege { user, kernel };
        let event = event.into();
        Some(Demand::Event(HostEvent {
            code: event,
            privilege,
        }))
    };
    let raw = |sel| {
        let sel = AmdEventSel::from_bits(sel);
        Some(Demand::NotBacked(Encoding::AmdRaw(sel)))
    };
    for (sel, demand) in [
        (CYCLES, event(ArchEvent::Cycles, true, true)),
        (0x51_00c0, event(ArchEvent::Instructions, true, false)),
        (0x52_00c2, event(ArchEvent::Branches, false, true)),
        (0x50_00c2, None),
        // Edge, invert, counter mask.
        (CYCLES | 1 << 18, raw(CYCLES | 1 << 18)),
        (CYCLES | 1 << 23, raw(CYCLES | 1 << 23)),
        (CYCLES | 1 << 24, raw(CYCLES | 1 << 24)),
        (0x53_0287, raw(0x53_0287)),
        // exclude_host: there is no guest; exclude_guest without SVME.
        (CYCLES | 1 << 40, None),
        (CYCLES | 1 << 41, None),
        // The odd half of a merged pair.
        (0xf_0040_00ff, None),
        (0xf_0053_00ff, None),
    ] {
        let mut pmu = pmu(AmdVersion::V2);
        pmu.wrmsr(MsrIndex(SEL), sel).unwrap();
        assert_eq!(pmu.demand(Pmc::gp(0).unwrap()), demand, "{sel:#x}");
    }
    let clock = [ArchEvent::Cycles].into_iter().collect();
    let mut pmu = AmdPmu::new(AmdConfig::new(AmdVersion::K7, clock));
    pmu.wrmsr(MsrIndex(0xc001_0001), 0x53_00c0).unwrap();
    let instructions = Encoding::Architectural(ArchEvent::Instructions);
    assert_eq!(
        pmu.demand(Pmc::gp(1).unwrap()),
        Some(Demand::NotBacked(instructions))
    );
}

#[test]
fn a_wrap_sets_the_status_and_int_decides_the_interrupt() {
    let gp1 = Pmc::gp(1).unwrap();
    for (sel, wrap) in [
        (CYCLES & !(1 << 20), Wrap::Silent),
        (CYCLES, Wrap::Interrupt),
    ] {
        let mut pmu = pmu(AmdVersion::V2);
        pmu.wrmsr(MsrIndex(SEL + 2), sel).unwrap();
        pmu.wrmsr(MsrIndex(CTR + 2), 0x0000_ffff_ffff_fffb).unwrap();
        assert_eq!(pmu.distance(gp1), Count(5));
        assert_eq!(pmu.advance(gp1, Count(4)), Wrap::No);
        assert_eq!(pmu.advance(gp1, Count(3)), wrap);
        assert_eq!(pmu.value(gp1), 2);
        assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(2));
        assert_eq!(pmu.interrupt_due(), wrap == Wrap::Interrupt);
        pmu.wrmsr(MsrIndex(CTR + 2), 9).unwrap();
        assert_eq!(pmu.rdmsr(MsrIndex(STATUS)), Ok(2), "only Clr clears");
    }
}

/// G-303 and G-404 without a status register: the wrap is told of until the
/// counter is written, or until the first write after the one that stopped it.
#[test]
fn without_globals_a_wrap_ends_with_the_counters_write() {
    let gp0 = Pmc::gp(0).unwrap();
    for version in [AmdVersion::K7, AmdVersion::Core] {
        let mut pmu = pmu(version);
        let wrap = |pmu: &mut AmdPmu| {
            pmu.wrmsr(MsrIndex(0xc001_0000), CYCLES).unwrap();
            pmu.wrmsr(MsrIndex(0xc001_0004), COUNTER_MASK).unwrap();
            assert_eq!(pmu.advance(gp0, Count(1)), Wrap::Interrupt);
            assert!(pmu.interrupt_due());
        };
        wrap(&mut pmu);
        pmu.wrmsr(MsrIndex(0xc001_0004), 1).unwrap();
        assert!(!pmu.interrupt_due());
        wrap(&mut pmu);
        pmu.wrmsr(MsrIndex(0xc001_0000), CYCLES & !(1 << 22))
            .unwrap();
        assert!(pmu.interrupt_due(), "G-404");
        pmu.wrmsr(MsrIndex(0xc001_0001), 0).unwrap();
        assert!(!pmu.interrupt_due());
        wrap(&mut pmu);
        pmu.interrupt_postponed();
        assert!(pmu.interrupt_due(), "it still runs");
        pmu.wrmsr(MsrIndex(0xc001_0000), CYCLES & !(1 << 22))
            .unwrap();
        pmu.interrupt_postponed();
        assert!(!pmu.interrupt_due(), "the handler itself has stopped it");
        wrap(&mut pmu);
        pmu.interrupt_told();
        pmu.wrmsr(MsrIndex(0xc001_0000), CYCLES & !(1 << 22))
            .unwrap();
        assert!(!pmu.interrupt_due(), "G-004: its PMI has come or is lost");
    }
}

/// G-405: with a status register the status tells of it until it is cleared.
#[test]
fn with_a_status_a_wrap_stays() {
    let mut pmu = pmu(AmdVersion::V2);
    pmu.wrmsr(MsrIndex(0xc001_0000), CYCLES).unwrap();
    pmu.wrmsr(MsrIndex(0xc001_0004), COUNTER_MASK).unwrap();
    assert_eq!(pmu.advance(Pmc::gp(0).unwrap(), Count(1)), Wrap::Interrupt);
    pmu.interrupt_told();
    assert!(pmu.interrupt_due());
}

#[test]
fn effects_and_rdpmc() {
    for version in ALL {
        let pmu = pmu(version);
        let n = u32::from(version.counters());
        for ecx in 0..n {
            let pmc = u8::try_from(ecx).ok().and_then(Pmc::gp);
            assert_eq!(pmu.rdpmc_counter(ecx), pmc);
        }
        for ecx in [n, 6, 9, 10, 15, 16, 0x4000_0000, 0x2000_0000, u32::MAX] {
            assert_eq!(pmu.rdpmc_counter(ecx), None, "{ecx:#x}");
            assert_eq!(pmu.rdpmc_other(ecx), None, "{ecx:#x}");
        }
        let effect = |index, value| match pmu.decode(MsrIndex(index)) {
            Ok(access) => access.effect(value),
            Err(_) => Effect::Other,
        };
        let counter_at = |index| pmu.decode(MsrIndex(index)).ok()?.counter();
        assert_eq!(effect(0xc001_0004, 0), Effect::SetsCounter);
        assert_eq!(effect(0xc001_0000, 1 << 22), Effect::Enables);
        assert_eq!(effect(0xc001_0000, 0x76), Effect::Other);
        assert_eq!(effect(0x186, 1 << 22), Effect::Other, "not there");
        let globals = if version == AmdVersion::V2 {
            Effect::Enables
        } else {
            Effect::Other
        };
        assert_eq!(effect(CTL, 1), globals);
        assert_eq!(effect(CTL, 1 << 6), Effect::Other);
        assert!(counter_at(0xc001_0007).is_some() && counter_at(0xc001_0003).is_none());
        assert_eq!(counter_at(0xc001_020b).is_some(), version != AmdVersion::K7);
    }
}

/// Guest-contract §3.1.
#[test]
fn leaves() {
    let leaves = |version| pmu(version).cpuid();
    let expected = |perfctr_core, leaf_22| {
        PmuCpuid::Amd(AmdLeaves {
            perfctr_core,
            leaf_22,
        })
    };
    assert_eq!(leaves(AmdVersion::K7), expected(false, None));
    assert_eq!(leaves(AmdVersion::Core), expected(true, None));
    let ebx = Leaf22Ebx::from_bits(6);
    assert_eq!(leaves(AmdVersion::V2), expected(true, Some(ebx)));
    for version in ALL {
        let shape = Shape::new(version.counters(), 0, 48);
        assert_eq!(ModelKind::Amd(version).shape(), shape);
    }
}

/// A host with fewer counters can say so with PerfMonV2 alone: leaf 80000022H.
#[test]
fn perfmon_v2_may_have_fewer_counters() {
    let config = AmdConfig::new(AmdVersion::V2, ArchEventSet::ALL).with_counters(4);
    let mut pmu = AmdPmu::new(config);
    assert_eq!(pmu.counters(), PmcSet::first(4, 0));
    let PmuCpuid::Amd(leaves) = pmu.cpuid() else {
        panic!("an AMD PMU has AMD leaves");
    };
    assert_eq!(leaves.leaf_22.map(|l| l.core_counters()), Some(4));
    let fifth = MsrIndex(0xc001_0208);
    assert_eq!(pmu.wrmsr(fifth, 0), Err(MsrError::InvalidAccess));
    assert_eq!(pmu.rdpmc_counter(4), None);
    let core = AmdConfig::new(AmdVersion::Core, ArchEventSet::ALL).with_counters(4);
    assert_eq!(core.counters(), PmcSet::first(6, 0), "it could not tell");
}
