//! PMIs for handlers of every habit: each does something else to be ready for the
//! next one, and each overflow after that must interrupt.

use super::*;
use crate::guest::{Model, ModelConfig, ModelKind};
use crate::x86::msr::{AMD_GLOBAL_CTL, DEBUGCTL};

type AnyPmu = VcpuPmu<Model, SimPmu>;

/// A vCPU of the model called `name` after RESET.
fn pmu_of(name: &str) -> AnyPmu {
    let kind = ModelKind::from_name(name).unwrap();
    let config = ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap();
    let host = SimPmu::new(8, ArchEventSet::ALL);
    VcpuPmu::new(Model::new(config), host, Policy::Flexible)
}

fn write_all(pmu: &mut AnyPmu, writes: &[(u32, u64)]) {
    for (msr, value) in writes {
        pmu.wrmsr(MsrIndex(*msr), *value).unwrap();
    }
}

/// Whether there is a PMI after each of three overflows, each followed by what the
/// handler writes.
fn pmis(pmu: &mut AnyPmu, handler: &[(u32, u64)]) -> [bool; 3] {
    [(); 3].map(|()| {
        pmu.host_mut().occur(ArchEvent::Cycles, 12);
        pmu.guest_ran(Nanos(12));
        pmu.poll();
        let came = pmu.take_pmi();
        if came {
            pmu.pmi_was_delivered();
        }
        write_all(pmu, handler);
        came
    })
}

const INTEL: [&str; 5] = ["intel-v1", "intel-v2", "intel-v3", "intel-v4", "intel-v5"];
const AMD: [&str; 3] = ["amd-k7", "amd-core", "amd-v2"];
/// Ten events before the wrap: as 32 bits with a sign, and as 48.
const SOON: u64 = 0xffff_fff6;
const AMD_SOON: u64 = MASK - 9;
const AMD_CYCLES: u64 = 0x53_0076;

/// G-401: P6-style drivers, which know no global registers, set the next period
/// and nothing else.
#[test]
fn a_handler_that_sets_the_next_period_gets_the_next_pmi() {
    for name in INTEL {
        let mut pmu = pmu_of(name);
        write_all(&mut pmu, &[(0xc1, SOON), (0x186, CYCLES)]);
        assert_eq!(pmis(&mut pmu, &[(0xc1, SOON)]), [true; 3], "{name}");
    }
    for name in AMD {
        let mut pmu = pmu_of(name);
        write_all(
            &mut pmu,
            &[(0xc001_0004, AMD_SOON), (0xc001_0000, AMD_CYCLES)],
        );
        let came = pmis(&mut pmu, &[(0xc001_0004, AMD_SOON)]);
        assert_eq!(came, [true; 3], "{name}");
    }
}

/// G-401: GLOBAL_CTRL is left alone, the status is acknowledged. Fixed counters as well.
#[test]
fn a_handler_that_acknowledges_the_status_gets_the_next_pmi() {
    for name in &INTEL[1..] {
        let mut pmu = pmu_of(name);
        write_all(
            &mut pmu,
            &[(0x38f, 1 << 33), (0x30a, MASK - 9), (0x38d, 0xb0)],
        );
        let handler = [(0x30a, MASK - 9), (0x390, 1 << 33)];
        assert_eq!(pmis(&mut pmu, &handler), [true; 3], "{name}");
    }
}

/// SDM vol. 3B, "Freezing LBR and Performance Counters on PMI", streamlined: the
/// handler thaws by the status and leaves GLOBAL_CTRL alone.
#[test]
fn a_streamlined_handler_gets_the_next_pmi() {
    for name in ["intel-v4", "intel-v5"] {
        let mut pmu = pmu_of(name);
        pmu.wrmsr(DEBUGCTL, 1 << 12).unwrap();
        write_all(&mut pmu, &[(0xc1, SOON), (0x186, CYCLES)]);
        let handler = [(0xc1, SOON), (0x390, 1 | 1 << 59)];
        assert_eq!(pmis(&mut pmu, &handler), [true; 3], "{name}");
    }
}

/// G-304: AMD's hardware interrupts at each overflow, whatever the handler does.
#[test]
fn amd_interrupts_at_each_overflow() {
    for name in AMD {
        let mut pmu = pmu_of(name);
        for (i, left) in [10, 20, 30].into_iter().enumerate() {
            let i = u32::try_from(i).unwrap();
            write_all(
                &mut pmu,
                &[
                    (0xc001_0004 + i, MASK + 1 - left),
                    (0xc001_0000 + i, AMD_CYCLES),
                ],
            );
        }
        assert_eq!(pmis(&mut pmu, &[]), [true; 3], "{name}");
    }
}

/// ... and a status that is still set is no overflow.
#[test]
fn amd_does_not_interrupt_for_an_old_status() {
    let mut pmu = pmu_of("amd-v2");
    write_all(
        &mut pmu,
        &[(0xc001_0004, AMD_SOON), (0xc001_0000, AMD_CYCLES)],
    );
    let enable = (AMD_GLOBAL_CTL.0, 0x3f);
    assert_eq!(pmis(&mut pmu, &[enable]), [true, false, false]);
}

/// G-402: what the handler has not acknowledged is told of again, once it has
/// acknowledged something; its next period alone does not ask for that.
#[test]
fn what_is_left_of_a_status_interrupts_again() {
    let mut pmu = pmu_of("intel-v4");
    for i in [0, 1] {
        write_all(&mut pmu, &[(0xc1 + i, SOON), (0x186 + i, CYCLES)]);
    }
    assert_eq!(pmis(&mut pmu, &[]), [true, false, false]);
    write_all(&mut pmu, &[(0xc1, 0)]);
    assert!(!pmu.take_pmi());
    write_all(&mut pmu, &[(0x390, 1)]);
    assert!(pmu.take_pmi());
    assert!(pmu.pmi_has_cause());
    write_all(&mut pmu, &[(0x390, 2)]);
    assert!(!pmu.pmi_has_cause());
}
