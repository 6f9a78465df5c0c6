//! The probes on the KVM of this machine, where there is one.

use std::path::Path;

use vmm::kvm::Hypervisor;
use vmm::probe::{self, INDICES, RdpmcClass};

fn kvm() -> Option<Hypervisor> {
    Hypervisor::open(Path::new("/dev/kvm"))
        .inspect_err(|error| eprintln!("skipped: {error}"))
        .ok()
}

#[test]
fn rdpmc_has_a_class() {
    let Some(kvm) = kvm() else { return };
    let answers = probe::rdpmc(&kvm, &INDICES).unwrap();
    let class = RdpmcClass::of(&answers).unwrap();
    eprintln!("RDPMC: {class:?}, {answers:?}");
    assert_eq!(answers.len(), INDICES.len());
    assert_ne!(class, RdpmcClass::Value, "KVM's vPMU is off for the VM");
}

#[test]
fn an_exit_costs_less_than_a_millisecond() {
    let Some(kvm) = kvm() else { return };
    let start = std::time::Instant::now();
    let cost = probe::exit_cost(&kvm).unwrap();
    eprintln!("exit: {} ns, measured in {:?}", cost.0, start.elapsed());
    assert!((100..1_000_000).contains(&cost.0), "{cost:?}");
}

#[test]
fn an_instruction_costs_less_than_an_exit() {
    let Some(kvm) = kvm() else { return };
    let instruction = probe::instruction_cost(&kvm).unwrap();
    let exit = probe::exit_cost(&kvm).unwrap();
    eprintln!("instruction: {} ps", instruction.0);
    assert!(instruction.0 > 0 && instruction.nanos() < exit.0);
}
