//! An access looks its MSR index up once, whatever the register is.

use super::*;
use crate::guest::{Model, ModelConfig, ModelKind, all_registers};
use crate::x86::msr::window::tests::decodes;

fn pmu(kind: ModelKind) -> VcpuPmu<Model, SimPmu> {
    let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
    let host = SimPmu::new(8, ArchEventSet::ALL);
    VcpuPmu::new(Model::new(config), host, Policy::Flexible)
}

/// The look-ups that `access` makes.
fn looked_up(access: impl FnOnce()) -> u32 {
    let before = decodes();
    access();
    decodes() - before
}

#[test]
fn a_read_and_a_write_decode_their_index_once() {
    for kind in ModelKind::ALL {
        let mut pmu = pmu(kind);
        for msr in all_registers() {
            // With every question that an owner asks about an access.
            let read = looked_up(|| {
                if let Ok(access) = pmu.decode(msr) {
                    let _ = (access.register(), access.counter(), access.touches());
                    pmu.read(access).unwrap();
                }
            });
            let write = looked_up(|| {
                if let Ok(access) = pmu.decode(msr) {
                    let _ = (access.effect(3), access.arming(3));
                    let _ = pmu.write(access, 3);
                }
            });
            let by_index = looked_up(|| {
                let _ = pmu.rdmsr(msr);
                let _ = pmu.wrmsr(msr, 1);
            });
            assert_eq!((read, write, by_index), (1, 1, 2), "{kind} {msr}");
        }
    }
}
