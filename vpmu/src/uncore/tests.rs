//! Registers of uncore PMUs, one rule a test.

mod moves;

use alloc::vec::Vec;

use super::*;
use crate::guest::{MsrError, refusal, register_name};
use crate::host::sim_uncore::SimUncore;
use crate::host::{EnergyDomain, HostOpenError, RawSelect, ReadError, ScopeInstance, UncoreEvent};
use crate::ids::{MsrIndex, VcpuId};
use crate::sched::{Scope, ScopeTopology};
use crate::units::{Energy, Nanos};
use crate::x86::cpuid::Vendor;

/// Two packages of two dies of two threads: vCPUs 0 to 7.
const TWO_PACKAGES: ScopeTopology = ScopeTopology {
    packages: 2,
    dies: 2,
    cores: 1,
    threads: 2,
    cluster: 1,
};
const L3_CTL: MsrIndex = MsrIndex(0xc001_0230);
const L3_CTR: MsrIndex = MsrIndex(0xc001_0231);
const DF_CTL: MsrIndex = MsrIndex(0xc001_0240);
const UMC_CTL: MsrIndex = MsrIndex(0xc001_0800);
const UMC_CTR: MsrIndex = MsrIndex(0xc001_0801);
const EN: u64 = 1 << 22;

fn amd() -> UncoreModel {
    let model = UncoreModel::default().with_power(Power::new(PowerForm::Amd));
    model.with_l3().with_df().with_umc(2).unwrap()
}

fn vm(model: UncoreModel) -> Uncore<SimUncore> {
    Uncore::new(model, TWO_PACKAGES, 8, |_| SimUncore::default()).unwrap()
}

/// A VM without time.
impl Uncore<SimUncore> {
    fn get(&mut self, vcpu: u16, msr: MsrIndex) -> Result<u64, MsrError> {
        self.rdmsr(Nanos(0), VcpuId(vcpu), msr)
    }

    fn set(&mut self, vcpu: u16, msr: MsrIndex, value: u64) {
        let done = self.wrmsr(Nanos(0), VcpuId(vcpu), msr, value);
        assert_eq!(done, Ok(()), "{msr} = {value:#x}");
    }

    fn host(&mut self, pmu: UncorePmu) -> &mut SimUncore {
        self.host_mut(pmu).unwrap()
    }

    fn only(&mut self, pmu: UncorePmu) -> UncoreCounterView {
        let view = self.view(Nanos(0)).into_iter().find(|v| v.pmu == pmu);
        let counters = view.unwrap().instances.into_iter().flat_map(|i| i.counters);
        let [counter] = counters.collect::<Vec<_>>().try_into().unwrap();
        counter
    }
}

/// Every register leaves KVM for a guest of either vendor, as a register that no
/// core's PMU has.
#[test]
fn every_register_leaves_kvm() {
    for index in runs().flat_map(|run| run.indices()) {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            assert_eq!(refusal(vendor, index), MsrError::InvalidAccess, "{index}");
        }
        assert_eq!(register_name(index), None, "{index} is the core's");
    }
}

/// Guest-contract §8: a guest has what its model has, and the rest is #GP.
#[test]
fn what_is_not_shown_faults() {
    let mut none = vm(UncoreModel::default());
    let mut intel = vm(UncoreModel::default().with_power(Power::new(PowerForm::Intel)));
    let mut l3 = vm(UncoreModel::default().with_l3());
    for (index, _) in amd().registers() {
        let at = |uncore: &mut Uncore<_>| {
            let read = uncore.get(0, index);
            assert_eq!(
                read,
                uncore.wrmsr(Nanos(0), VcpuId(0), index, 0).map(|()| 0)
            );
            read
        };
        assert_eq!(at(&mut none), Err(MsrError::Unknown), "{index}");
        assert_eq!(at(&mut intel), Err(MsrError::Unknown), "{index}");
        let is_l3 = (0xc001_0230..0xc001_023c).contains(&index.0);
        assert_eq!(at(&mut l3).is_ok(), is_l3, "{index}");
    }
    for (ecx, has) in [(5, false), (6, false), (10, true), (15, true), (16, false)] {
        assert_eq!(l3.rdpmc(Nanos(0), VcpuId(0), ecx).is_some(), has, "{ecx}");
    }
    assert_eq!(
        intel.get(0, MsrIndex(0x619)),
        Err(MsrError::Unknown),
        "no RAM"
    );
    assert_eq!(amd().registers().count(), 2 + (6 + 4 + 8) * 2);
}

/// G-601: the low 32 bits of each energy register are not 0 at its first read;
/// units are those of §8; all are read-only.
#[test]
fn energy_reads_above_zero_and_cannot_be_written() {
    let intel = Power::new(PowerForm::Intel).with(EnergyDomain::Cores);
    for (power, unit, energies, unit_value) in [
        (intel, 0x606, [0x611, 0x639].as_slice(), 0xa_0e03),
        (
            Power::new(PowerForm::Amd),
            0xc001_0299,
            &[0xc001_029b],
            0xa_1003,
        ),
    ] {
        let mut vm = vm(UncoreModel::default().with_power(power));
        assert_eq!(vm.get(0, MsrIndex(unit)), Ok(unit_value));
        for index in energies {
            assert_ne!(vm.get(7, MsrIndex(*index)).unwrap() & 0xffff_ffff, 0);
        }
        for index in energies.iter().chain([&unit]) {
            let written = vm.wrmsr(Nanos(0), VcpuId(0), MsrIndex(*index), 1);
            assert_eq!(written, Err(MsrError::InvalidAccess));
        }
    }
}

/// Energy counts from its first read on, and reads the same everywhere in a
/// package.
#[test]
fn energy_is_its_scopes() {
    let intel = UncoreModel::default().with_power(Power::new(PowerForm::Intel));
    for (model, index, peers) in [(intel, 0x611, [0, 3]), (amd(), 0xc001_029b, [0, 3])] {
        let mut vm = vm(model);
        let index = MsrIndex(index);
        let first = peers.map(|vcpu| vm.get(vcpu, index).unwrap());
        let elsewhere = vm.get(7, index).unwrap();
        vm.host(UncorePmu::Power)
            .occur(ScopeInstance(0), 3 * Energy::PER_JOULE);
        let joules = 3 << (model.power().unwrap().form().energy_shift());
        assert_eq!(
            peers.map(|vcpu| vm.get(vcpu, index).unwrap()),
            first.map(|e| e + joules)
        );
        assert_eq!(vm.get(7, index), Ok(elsewhere));
        assert_eq!(
            vm.host(UncorePmu::Power).opens(),
            2,
            "one for each instance that was read"
        );
    }
    let scopes = [amd().scope(UncorePmu::Power), intel.scope(UncorePmu::Power)];
    assert_eq!(scopes, [Scope::Package; 2]);
}

/// A domain that the host never gave is #GP, so that the guest's driver hides
/// it; one that it took away later stands still, and is tried again.
#[test]
fn energy_that_the_host_does_not_give() {
    let mut vm = vm(amd());
    let index = MsrIndex(0xc001_029b);
    vm.host(UncorePmu::Power).refuse(true);
    assert_eq!(vm.get(0, index), Err(MsrError::InvalidAccess));
    vm.host(UncorePmu::Power).refuse(false);
    let first = vm.get(0, index).unwrap();
    vm.host(UncorePmu::Power).lose(ScopeInstance(0));
    vm.host(UncorePmu::Power).refuse(true);
    assert_eq!(vm.get(0, index), Ok(first));
    let refused = Trouble::Refused(HostOpenError::Unsupported);
    assert_eq!(
        vm.only(UncorePmu::Power).state,
        UncoreState::Stopped(refused)
    );
    vm.host(UncorePmu::Power).refuse(false);
    assert_eq!(vm.get(0, index), Ok(first));
    vm.host(UncorePmu::Power)
        .occur(ScopeInstance(0), Energy::PER_JOULE);
    assert_eq!(vm.get(0, index), Ok(first + (1 << 16)));
}

/// G-602: each vCPU of the scope reaches the same counter, by RDMSR and RDPMC,
/// and no other vCPU does. §6: what Linux's driver writes and reads.
#[test]
fn state_belongs_to_the_instance() {
    let mut vm = vm(amd());
    vm.set(0, L3_CTR, 0);
    vm.set(0, L3_CTL, EN | 0xff04);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 42);
    assert_eq!(vm.get(1, L3_CTR), Ok(42));
    assert_eq!(vm.rdpmc(Nanos(0), VcpuId(1), 10), Some(42));
    assert_eq!(vm.get(1, L3_CTL), Ok(EN | 0xff04));
    assert_eq!((vm.get(2, L3_CTL), vm.get(2, L3_CTR)), (Ok(0), Ok(0)));
    // The other thread stops it.
    vm.set(1, L3_CTL, 0xff04);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 42);
    assert_eq!(vm.rdpmc(Nanos(0), VcpuId(0), 10), Some(42));
    assert_eq!(vm.host(UncorePmu::L3).open_on(ScopeInstance(0)).count(), 0);
}

/// §6: L3 and data fabric count with bit 22, a memory controller with bit 31;
/// the host is asked for what the guest chose.
#[test]
fn each_pmu_asks_for_its_event() {
    let mut vm = vm(amd());
    let thread_mask = 0xff0f_0000_0000_0000;
    vm.set(4, L3_CTL, EN | thread_mask | 0xff04);
    vm.set(4, DF_CTL, EN | 7 << 32 | 0x0f << 24 | 0x1f07);
    vm.set(4, UMC_CTL, EN | 0x10);
    vm.set(4, MsrIndex(UMC_CTL.0 + 8), 1 << 31 | 0x20a);
    let asked = |vm: &mut Uncore<SimUncore>, pmu| {
        vm.host(pmu).open_on(ScopeInstance(2)).collect::<Vec<_>>()
    };
    let l3 = UncoreEvent::L3(RawSelect(thread_mask | 0xff04));
    assert_eq!(asked(&mut vm, UncorePmu::L3), [l3]);
    let df = UncoreEvent::DataFabric(RawSelect(7 << 32 | 0x0f << 24 | 0x1f07));
    assert_eq!(asked(&mut vm, UncorePmu::DataFabric), [df]);
    assert_eq!(asked(&mut vm, UncorePmu::Umc(0)), [], "bit 22 is not its");
    let select = RawSelect(0x20a);
    assert_eq!(
        asked(&mut vm, UncorePmu::Umc(1)),
        [UncoreEvent::Umc { unit: 1, select }]
    );
}

/// §8: selects and counters keep their bits and drop the others; 48 bits, and
/// bit 48 of a memory controller's.
#[test]
fn writes_drop_what_is_not_kept() {
    let mut vm = vm(amd());
    for (index, kept) in [
        (L3_CTL, 0xff0f_dc00_0040_ffff),
        (L3_CTR, 0xffff_ffff_ffff),
        (DF_CTL, 0x1800_003f_0f40_ffff),
        (UMC_CTL, 0x8000_03ff),
        (UMC_CTR, 0x1_ffff_ffff_ffff),
    ] {
        vm.set(0, index, u64::MAX);
        assert_eq!(vm.get(0, index), Ok(kept), "{index}");
    }
}

/// §6: a memory controller's counter stays at its end until it is written, as
/// Linux does when bit 47 is set.
#[test]
fn a_memory_controllers_counter_saturates() {
    let mut vm = vm(amd());
    vm.set(0, UMC_CTR, (1 << 48) - 2);
    vm.set(0, UMC_CTL, 1 << 31 | 0xa);
    vm.host(UncorePmu::Umc(0)).occur(ScopeInstance(0), 5);
    assert_eq!(vm.get(0, UMC_CTR), Ok(0x1_ffff_ffff_ffff));
    vm.set(0, UMC_CTR, 0);
    vm.host(UncorePmu::Umc(0)).occur(ScopeInstance(0), 5);
    assert_eq!(vm.get(0, UMC_CTR), Ok(5));
}

/// A counter that is written goes on from what was written, and its event is
/// not opened anew; another choice is another event.
#[test]
fn a_write_of_the_counter_keeps_its_event() {
    let mut vm = vm(amd());
    vm.set(0, L3_CTL, EN | 4);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 9);
    vm.set(1, L3_CTR, 100);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 7);
    vm.set(1, L3_CTL, EN | 4);
    assert_eq!(vm.get(0, L3_CTR), Ok(107));
    assert_eq!(vm.host(UncorePmu::L3).opens(), 1);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 2);
    vm.set(1, L3_CTL, EN | 5);
    assert_eq!(vm.host(UncorePmu::L3).opens(), 2);
    assert_eq!(vm.get(0, L3_CTR), Ok(109));
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 1);
    vm.set(1, L3_CTL, 5);
    assert_eq!(vm.get(0, L3_CTR), Ok(110));
}

/// A count that the host does not have is not made up: the counter stands, says
/// why, and the next enable asks again.
#[test]
fn a_lost_or_refused_counter_says_so() {
    let mut vm = vm(amd());
    vm.host(UncorePmu::L3).refuse(true);
    vm.set(0, L3_CTL, EN | 4);
    let refused = Trouble::Refused(HostOpenError::Unsupported);
    assert_eq!(vm.only(UncorePmu::L3).state, UncoreState::Stopped(refused));
    vm.host(UncorePmu::L3).refuse(false);
    vm.set(0, L3_CTL, EN | 4);
    vm.host(UncorePmu::L3).occur(ScopeInstance(0), 3);
    assert_eq!(vm.get(0, L3_CTR), Ok(3));
    vm.host(UncorePmu::L3).lose(ScopeInstance(0));
    assert_eq!(vm.get(0, L3_CTR), Ok(3));
    let lost = Trouble::Lost(ReadError::Lost);
    let view = vm.only(UncorePmu::L3);
    assert_eq!((view.state, view.host), (UncoreState::Stopped(lost), None));
    vm.set(0, L3_CTL, EN | 4);
    assert_eq!(
        vm.only(UncorePmu::L3).state,
        UncoreState::Counting(VcpuId(0))
    );
}

/// Numbers of units and instances that cannot be are refused.
#[test]
fn limits() {
    for units in [0, UncoreModel::MAX_UMC + 1, u8::MAX] {
        assert_eq!(
            UncoreModel::default().with_umc(units),
            Err(TooManyUnits(units))
        );
    }
    let dies = ScopeTopology {
        dies: u16::MAX,
        threads: 1,
        ..TWO_PACKAGES
    };
    let dies = ScopeTopology {
        packages: 1,
        ..dies
    };
    let made = Uncore::new(amd(), dies, 1, |_| SimUncore::default());
    assert!(made.is_err());
}
