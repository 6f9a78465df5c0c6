//! Freeze on PMI: a wrap of one counter stops all of them.

use super::*;
use crate::guest::{ArchVersion, Model, ModelConfig, ModelKind};
use crate::x86::msr::{DEBUGCTL, FIXED_CTR_CTRL};

type AnyPmu = VcpuPmu<Model, SimPmu>;

/// GP0 and fixed 1 count cycles; GP0 is ten from its wrap, and its PMI freezes.
fn about_to_freeze(version: ArchVersion) -> AnyPmu {
    let kind = ModelKind::Intel(version);
    let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
    let host = SimPmu::new(4, ArchEventSet::ALL);
    let mut pmu = VcpuPmu::new(Model::new(config), host, Policy::Flexible);
    for (msr, value) in [
        (DEBUGCTL, 1 << 12),
        (PMC0, MASK - 9),
        (SEL0, CYCLES),
        (FIXED_CTR_CTRL, 0x30),
        (GLOBAL_CTRL, ON),
    ] {
        pmu.wrmsr(msr, value).unwrap();
    }
    pmu
}

const FIXED1: MsrIndex = MsrIndex(0x30a);
const ON: u64 = 1 | 1 << 33;
/// Each way to freeze, and what ends it.
const WAYS: [(ArchVersion, (MsrIndex, u64)); 2] = [
    (ArchVersion::V2, (GLOBAL_CTRL, ON)),
    (ArchVersion::V4, (GLOBAL_OVF_CTRL, 1 << 59)),
];

fn cycles(pmu: &mut AnyPmu, n: u64) {
    pmu.host_mut().occur(ArchEvent::Cycles, n);
    pmu.guest_ran(Nanos(n));
}

/// A PMI that freezes takes in what the other counters have counted, and stops
/// their host events; an unfreeze starts them again.
#[test]
fn a_freeze_stops_every_counter_at_the_pmi() {
    for (version, unfreeze) in WAYS {
        let mut pmu = about_to_freeze(version);
        cycles(&mut pmu, 12);
        pmu.poll();
        assert!(pmu.take_pmi(), "{version:?}");
        cycles(&mut pmu, 1_000);
        assert_eq!(pmu.rdmsr(PMC0), Ok(2), "{version:?}");
        assert_eq!(pmu.rdmsr(FIXED1), Ok(12), "{version:?}");
        pmu.wrmsr(GLOBAL_OVF_CTRL, 1).unwrap();
        cycles(&mut pmu, 1_000);
        assert_eq!(pmu.rdmsr(FIXED1), Ok(12), "{version:?}: still frozen");
        pmu.wrmsr(unfreeze.0, unfreeze.1).unwrap();
        cycles(&mut pmu, 7);
        assert_eq!(pmu.rdmsr(FIXED1), Ok(19), "{version:?}");
        assert_eq!(pmu.rdmsr(PMC0), Ok(9), "{version:?}");
    }
}

/// A read of one counter finds its wrap: the others stop where they are then.
#[test]
fn a_freeze_that_a_read_finds_keeps_what_the_others_counted() {
    for (version, _) in WAYS {
        let mut pmu = about_to_freeze(version);
        cycles(&mut pmu, 12);
        assert_eq!(pmu.rdmsr(PMC0), Ok(2), "{version:?}");
        assert!(pmu.take_pmi(), "{version:?}");
        cycles(&mut pmu, 1_000);
        assert_eq!(pmu.rdmsr(FIXED1), Ok(12), "{version:?}");
    }
}
