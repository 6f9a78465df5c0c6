//! The probes on the KVM of this machine, where there is one.

use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::kvm::{BootState, Exit, Hypervisor};
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
    // On a busy machine one look may count the time of others.
    let costs_less = (0..20).any(|_| {
        let instruction = probe::instruction_cost(&kvm).unwrap();
        let exit = probe::exit_cost(&kvm).unwrap();
        eprintln!("instruction: {} ps, exit: {} ns", instruction.0, exit.0);
        instruction.0 > 0 && instruction.nanos() < exit.0
    });
    assert!(costs_less);
}

/// The probes of a start: they tell the same as those in VMs of their own, and neither the
/// guest's memory nor its first instructions show them.
#[test]
fn a_guests_own_vcpu_tells_the_same_and_then_runs_the_guest() {
    const ENTRY: u64 = 0x8000;
    // out 0x80, al; then what IN says goes out.
    const CODE: [u8; 6] = [0xe6, 0x80, 0xe4, 0x81, 0xe6, 0x82];
    let Some(kvm) = kvm() else { return };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let pattern = |n: u32| (n % 251).to_le_bytes()[0];
    memory
        .write_slice(
            &(0..0x1_0000).map(pattern).collect::<Vec<u8>>(),
            GuestAddress(0),
        )
        .unwrap();
    memory.write_slice(&CODE, GuestAddress(ENTRY)).unwrap();
    let mut before = vec![0; 0x1_0000];
    memory.read_slice(&mut before, GuestAddress(0)).unwrap();
    let vm = kvm.create_vm(memory.clone()).unwrap();
    vm.disable_kvm_pmu().unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut cpuid = kvm.supported_cpuid().unwrap();
    cpuid.retain(|entry| entry.leaf != 0xa);
    vcpu.set_cpuid(&cpuid).unwrap();
    vcpu.set_boot_state(BootState::Pvh { entry: ENTRY })
        .unwrap();

    let answers = probe::own_rdpmc(&mut vcpu, &memory, &INDICES)
        .unwrap()
        .unwrap();
    assert_eq!(answers, probe::rdpmc(&kvm, &INDICES).unwrap());
    let cost = probe::own_exit_cost(&mut vcpu, &memory).unwrap().unwrap();
    assert!((100..1_000_000).contains(&cost.0), "{cost:?}");

    let mut after = vec![0; before.len()];
    memory.read_slice(&mut after, GuestAddress(0)).unwrap();
    assert!(after == before, "the guest's memory");
    assert!(matches!(
        vcpu.run().unwrap(),
        Exit::PioOut {
            port: 0x80,
            data: [0],
            ..
        }
    ));
    let Exit::PioIn {
        port: 0x81, data, ..
    } = vcpu.run().unwrap()
    else {
        panic!("no IN");
    };
    data[0] = 7;
    assert!(matches!(
        vcpu.run().unwrap(),
        Exit::PioOut {
            port: 0x82,
            data: [7],
            ..
        }
    ));
}
