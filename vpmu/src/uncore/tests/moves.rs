//! vCPUs that go and come back, and what the log says of it.

use super::*;
use crate::units::Count;

/// as seen in the log, with the count.
#[test]
fn the_log_tells_where_a_counter_went() {
    let mut vm = vm(amd());
    vm.set(2, L3_CTL, EN | 4);
    vm.host(UncorePmu::L3).occur(ScopeInstance(1), 5);
    for (at, vcpu) in [(10, 2), (20, 3)] {
        vm.departed(Nanos(at), VcpuId(vcpu));
    }
    assert_eq!(
        vm.only(UncorePmu::L3).state,
        UncoreState::Stopped(Trouble::NoVcpu)
    );
    vm.arrived(Nanos(30), VcpuId(3));
    vm.arrived(Nanos(40), VcpuId(2));
    let log = vm.log().filter(|e| e.pmu == UncorePmu::L3);
    let log: Vec<_> = log.map(|e| (e.at.0, e.instance.0, e.change)).collect();
    let (two, three) = (VcpuId(2), VcpuId(3));
    let (counter, count) = (0, Count(5));
    let designated = |from, to| Change::Designated { from, to };
    assert_eq!(
        log,
        [
            (10, 1, designated(Some(two), Some(three))),
            (
                10,
                1,
                Change::Moved {
                    counter,
                    from: two,
                    to: three,
                    count
                }
            ),
            (20, 1, designated(Some(three), None)),
            (
                20,
                1,
                Change::Off {
                    counter,
                    from: three,
                    count
                }
            ),
            (30, 1, designated(None, Some(three))),
            (30, 1, Change::Resumed { counter, to: three }),
        ]
    );
    assert_eq!(
        vm.host(UncorePmu::L3).opens(),
        2,
        "moved with its host event"
    );
}

/// R-255, and better: what occurs while an event is between two vCPUs is not
/// lost, and the counter never runs backwards. Issue 6: twenty times to and fro.
#[test]
fn nothing_is_lost_between_two_vcpus() {
    let mut vm = vm(amd());
    vm.set(0, L3_CTL, EN | 4);
    vm.host(UncorePmu::L3).creep(3);
    let mut last = 0;
    for _ in 0..20 {
        for (goes, stays) in [(0, 1), (1, 0)] {
            vm.departed(Nanos(0), VcpuId(goes));
            vm.arrived(Nanos(0), VcpuId(goes));
            let value = vm.get(stays, L3_CTR).unwrap();
            assert_eq!(value, vm.host(UncorePmu::L3).counted());
            assert!(value > last);
            last = value;
        }
    }
    assert_eq!(vm.host(UncorePmu::L3).opens(), 1);
}

#[test]
fn the_log_keeps_the_newest() {
    let mut vm = vm(UncoreModel::default().with_df());
    for _ in 0..LOG_LEN {
        vm.departed(Nanos(0), VcpuId(0));
        vm.arrived(Nanos(0), VcpuId(0));
        vm.departed(Nanos(0), VcpuId(1));
        vm.arrived(Nanos(0), VcpuId(1));
    }
    let numbers: Vec<_> = vm.log().map(|e| e.number).collect();
    assert_eq!(numbers.len(), LOG_LEN);
    assert_eq!(numbers.last(), Some(&(2 * LOG_LEN as u64 - 1)));
}
