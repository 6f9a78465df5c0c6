//! The contract with the owner: `before_entry` and `after_run`, nothing else.

use super::*;
use crate::guest::{Model, ModelConfig, ModelKind};
use crate::host::Level;
use crate::host::software::{Khz, SoftwarePmu};

const TO_USER: Ran = Ran {
    span: Nanos(0),
    interrupted: true,
    level: None,
};

type Clocked = VcpuPmu<Model, SoftwarePmu>;

/// One cycle a nanosecond; PMC0 overflows after `left` of them.
fn sampling(kind: ModelKind, sel: u64, left: u64) -> Clocked {
    let config = ModelConfig::new(kind, kind.shape(), SoftwarePmu::SUPPORTED).unwrap();
    let host = SoftwarePmu::new(Khz(1_000_000));
    let mut pmu = Clocked::new(Model::new(config), host, Policy::Flexible);
    pmu.wrmsr(MsrIndex(0xc1), left.wrapping_neg() & 0xffff_ffff)
        .unwrap();
    pmu.wrmsr(SEL0, sel).unwrap();
    pmu
}

fn intel_v2() -> Clocked {
    sampling(ModelKind::ALL[1], CYCLES, 1_000)
}

fn overflow(pmu: &mut Clocked) {
    pmu.after_run(Ran {
        span: Nanos(1_000),
        ..TO_USER
    });
}

fn ready<G: GuestPmu, H: HostPmu>(pmu: &mut VcpuPmu<G, H>) -> EntryWants {
    match pmu.before_entry() {
        BeforeEntry::Ready(wants) => wants,
        BeforeEntry::Pmi(_) => panic!("a PMI"),
    }
}

fn pending<G: GuestPmu, H: HostPmu>(pmu: &mut VcpuPmu<G, H>) -> PendingPmi<'_, G, H> {
    match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => pmi,
        BeforeEntry::Ready(_) => panic!("no PMI"),
    }
}

#[test]
fn a_guest_that_counts_nothing_wants_nothing() {
    let mut pmu = sampling(ModelKind::ALL[1], 0, 1_000);
    assert_eq!(ready(&mut pmu), EntryWants::default());
    pmu.after_run(Ran {
        span: Nanos(5),
        ..TO_USER
    });
    assert_eq!(ready(&mut pmu), EntryWants::default());
}

#[test]
fn a_pmi_without_an_answer_stays_pending() {
    let mut pmu = intel_v2();
    assert_eq!(ready(&mut pmu).deadline, Some(Nanos(1_000)));
    overflow(&mut pmu);
    for _ in 0..3 {
        drop(pending(&mut pmu));
    }
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (0, 0)
    );
    let wants = pending(&mut pmu).delivered();
    assert!(wants.guest_time && !wants.level);
    let _ = ready(&mut pmu);
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (1, 0)
    );
}

/// G-401: as after the next overflow, a dropped PMI leaves the guest armed.
#[test]
fn a_dropped_pmi_is_gone_and_its_status_stays() {
    let mut pmu = intel_v2();
    overflow(&mut pmu);
    let _ = pending(&mut pmu).dropped();
    let _ = ready(&mut pmu);
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(1));
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (0, 1)
    );
    pmu.after_run(Ran {
        span: Nanos(1 << 48),
        ..TO_USER
    });
    let _ = pending(&mut pmu).delivered();
}

#[test]
fn a_postponed_pmi_is_tried_again_soon_also_after_a_restore() {
    let mut pmu = intel_v2();
    overflow(&mut pmu);
    for _ in 0..2 {
        assert_eq!(pending(&mut pmu).postponed().deadline, Some(Nanos(20_000)));
        pmu.after_run(Ran::default());
    }
    let bytes = pmu.save();
    let model = sampling(ModelKind::ALL[1], 0, 1).model;
    let host = SoftwarePmu::new(Khz(1_000_000));
    let mut pmu = Clocked::restore(model, host, Policy::Flexible, &bytes).unwrap();
    let deadline = pending(&mut pmu).delivered().deadline;
    assert!(deadline > Some(Nanos(20_000)), "{deadline:?}");
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (1, 0)
    );
}

/// G-405: without a status, the guest would take the PMI for an unknown NMI.
#[test]
fn a_postponed_pmi_whose_status_the_guest_clears_is_dropped() {
    let mut pmu = intel_v2();
    overflow(&mut pmu);
    let _ = pending(&mut pmu).postponed();
    pmu.wrmsr(GLOBAL_OVF_CTRL, 1).unwrap();
    let deadline = ready(&mut pmu).deadline;
    assert!(deadline > Some(Nanos(20_000)), "{deadline:?}");
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (0, 1)
    );
}

#[test]
fn reset_ends_a_pmi_on_its_way() {
    let mut pmu = intel_v2();
    overflow(&mut pmu);
    let _ = pending(&mut pmu).postponed();
    pmu.reset();
    assert_eq!(ready(&mut pmu), EntryWants::default());
    assert_eq!(
        (pmu.totals().pmis_injected, pmu.totals().pmis_suppressed),
        (0, 0)
    );
}

#[test]
fn the_level_is_asked_for_only_while_a_counter_of_one_level_counts() {
    let user = CYCLES & !(1 << 17 | 1 << 20);
    let mut pmu = sampling(ModelKind::ALL[1], user, 1 << 20);
    let wants = ready(&mut pmu);
    assert!(wants.level && wants.guest_time);
    let before = pmu.host().level_memory();
    for _ in 0..100 {
        let span = ready(&mut pmu).deadline.unwrap();
        pmu.after_run(Ran {
            span,
            level: Some(Level::User),
            ..TO_USER
        });
    }
    assert_ne!(pmu.host().level_memory(), before);
    pmu.wrmsr(SEL0, 0).unwrap();
    assert!(!ready(&mut pmu).level);
}

#[test]
fn the_second_interruption_of_an_idle_guest_closes_its_host_events() {
    let mut pmu = pmu_with(4);
    let all_off = [(GLOBAL_CTRL, 0)];
    write(&mut pmu, &[(SEL0, CYCLES), (GLOBAL_CTRL, 0xf)]);
    write(&mut pmu, &all_off);
    assert_eq!(ready(&mut pmu), EntryWants::default());
    pmu.after_run(TO_USER);
    let linger = EntryWants {
        deadline: Some(Nanos(1_000_000_000)),
        ..EntryWants::default()
    };
    assert_eq!(ready(&mut pmu), linger);
    pmu.after_run(Ran::default());
    assert_eq!(ready(&mut pmu), linger, "an exit of the guest's own");
    write(&mut pmu, &[(GLOBAL_CTRL, 0xf)]);
    assert_ne!(ready(&mut pmu), linger);
    write(&mut pmu, &all_off);
    assert_eq!(ready(&mut pmu), EntryWants::default(), "from the start");
    pmu.after_run(TO_USER);
    assert_eq!(pmu.host_mut().open_events(), 1);
    pmu.after_run(TO_USER);
    assert_eq!(pmu.host_mut().open_events(), 0);
    assert_eq!(ready(&mut pmu), EntryWants::default());
}
