//! Freeze on PMI: a wrap of one counter stops all of them.

use super::*;
use crate::guest::{ArchVersion, Model, ModelConfig, ModelKind};
use crate::x86::msr::{DEBUGCTL, FIXED_CTR_CTRL};

/// A PMI that freezes takes in what the other counters have counted, and stops
/// their host events; an unfreeze starts them again.
#[test]
fn a_freeze_stops_every_counter_at_the_pmi() {
    const FIXED1: MsrIndex = MsrIndex(0x30a);
    for (version, unfreeze) in [
        (ArchVersion::V2, (GLOBAL_CTRL, 1 | 1 << 33)),
        (ArchVersion::V4, (GLOBAL_OVF_CTRL, 1 << 59)),
    ] {
        let kind = ModelKind::Intel(version);
        let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
        let host = SimPmu::new(4, ArchEventSet::ALL);
        let mut pmu = VcpuPmu::new(Model::new(config), host, Policy::Flexible);
        for (msr, value) in [
            (DEBUGCTL, 1 << 12),
            (PMC0, MASK - 9),
            (SEL0, CYCLES),
            (FIXED_CTR_CTRL, 0x30),
            (GLOBAL_CTRL, 1 | 1 << 33),
        ] {
            pmu.wrmsr(msr, value).unwrap();
        }
        let run = |pmu: &mut VcpuPmu<Model, SimPmu>, n| {
            pmu.host_mut().occur(ArchEvent::Cycles, n);
            pmu.guest_ran(Nanos(n));
            if pmu.host_mut().take_interrupt() {
                pmu.poll();
            }
        };
        run(&mut pmu, 12);
        assert!(pmu.take_pmi(), "{version:?}");
        run(&mut pmu, 1_000);
        assert_eq!(pmu.rdmsr(PMC0), Ok(2), "{version:?}");
        assert_eq!(pmu.rdmsr(FIXED1), Ok(12), "{version:?}");
        pmu.wrmsr(GLOBAL_OVF_CTRL, 1).unwrap();
        run(&mut pmu, 1_000);
        assert_eq!(pmu.rdmsr(FIXED1), Ok(12), "{version:?}: still frozen");
        pmu.wrmsr(unfreeze.0, unfreeze.1).unwrap();
        run(&mut pmu, 7);
        assert_eq!(pmu.rdmsr(FIXED1), Ok(19), "{version:?}");
        assert_eq!(pmu.rdmsr(PMC0), Ok(9), "{version:?}");
    }
}
