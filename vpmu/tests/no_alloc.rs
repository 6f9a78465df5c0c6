//! What a scheduler does all the time must not allocate.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

#[path = "../benches/ops/mod.rs"]
#[allow(dead_code, reason = "shared with the benches")]
mod ops;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ops::Bench;
use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
use vpmu::host::sim::SimPmu;
use vpmu::host::{EventCode, HostEvent, Privilege};
use vpmu::ids::{MonitorId, MsrIndex};
use vpmu::units::Nanos;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::{BeforeEntry, Policy, Ran, VcpuPmu};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to `System` as it came.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|a| a.set(a.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: `p` came from `System` with this layout.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of 1,000 operations, after as many to warm up.
fn allocations(op: &str, n: usize) -> u64 {
    let mut bench = Bench::new(op, n, 2);
    (0..1000).for_each(|_| bench.run(op, n));
    let before = ALLOCATIONS.with(Cell::get);
    (0..1000).for_each(|_| bench.run(op, n));
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn reschedules_and_switches_do_not_allocate() {
    for n in [3, 10, 1000] {
        assert_eq!(allocations("reschedule", n), 0, "reschedule of {n}");
        assert_eq!(allocations("switch", n), 0, "switch of {n}");
    }
}

#[test]
fn rotation_allocates_nodes_of_its_order_only_now_and_then() {
    // A rotated group leaves the first node of two trees and enters the last.
    for n in [10, 1000] {
        let count = allocations("rotation", n);
        assert!(
            count <= 500,
            "{count} allocations in 1,000 rotations of {n}"
        );
    }
}

/// What a guest's driver does all the time: it disables and enables all, stops
/// and starts one counter, reads, and counters take turns. `Err` if the guest
/// may not.
fn exercise(
    pmu: &mut VcpuPmu<ArchPerfmon, SimPmu>,
    rounds: u64,
) -> Result<(), vpmu::guest::MsrError> {
    const GLOBAL_CTRL: MsrIndex = MsrIndex(0x38f);
    const SELS: [MsrIndex; 4] = [
        MsrIndex(0x186),
        MsrIndex(0x187),
        MsrIndex(0x188),
        MsrIndex(0x189),
    ];
    const RAN: Ran = Ran {
        span: Nanos(1_000_000),
        interrupted: true,
        level: None,
    };
    const COUNTING: u64 = 0x53_003c;
    const STOPPED: u64 = 0x13_003c;
    for round in 0..rounds {
        pmu.wrmsr(GLOBAL_CTRL, 0)?;
        for (i, sel) in (0_u64..).zip(SELS) {
            pmu.wrmsr(sel, COUNTING)?;
            pmu.wrmsr(MsrIndex(0x4c1 + i as u32), 1 << 47)?;
        }
        pmu.wrmsr(GLOBAL_CTRL, 0xf)?;
        pmu.wrmsr(SELS[(round % 4) as usize], STOPPED)?;
        pmu.wrmsr(SELS[(round % 4) as usize], COUNTING)?;
        pmu.after_run(RAN);
        assert!(pmu.rdpmc(0).is_some());
        let _ = pmu.rdmsr(MsrIndex(0x38e))?;
        let _ = match pmu.before_entry() {
            BeforeEntry::Pmi(pmi) => pmi.delivered(),
            BeforeEntry::Ready(wants) => wants,
        };
    }
    Ok(())
}

#[test]
fn a_guests_accesses_do_not_allocate() {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    for host_counters in [4, 2] {
        let host = SimPmu::quiet(host_counters, ArchEventSet::ALL);
        let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
        exercise(&mut pmu, 100).unwrap();
        let before = ALLOCATIONS.with(Cell::get);
        exercise(&mut pmu, 1_000).unwrap();
        let allocations = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(allocations, 0, "with {host_counters} host counters");
        assert_eq!(pmu.totals().rotations > 0, host_counters < 4);
    }
}

#[test]
fn nor_do_they_beside_monitors() {
    const ATTR: HostEvent = HostEvent {
        code: EventCode::Architectural(ArchEvent::Cycles),
        privilege: Privilege {
            user: true,
            kernel: true,
        },
    };
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    for host_counters in [8, 3] {
        let host = SimPmu::quiet(host_counters, ArchEventSet::ALL);
        let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
        for (i, policy) in [(0, Policy::Pinned), (1, Policy::Flexible)] {
            let id = MonitorId::new(i).unwrap();
            pmu.attach(id, ATTR, policy).unwrap();
        }
        exercise(&mut pmu, 100).unwrap();
        let before = ALLOCATIONS.with(Cell::get);
        exercise(&mut pmu, 1_000).unwrap();
        assert_eq!(pmu.monitors().count(), 2);
        let allocations = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(allocations, 0, "with {host_counters} host counters");
    }
}
