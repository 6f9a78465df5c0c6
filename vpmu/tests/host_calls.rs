//! How many system calls of the host an access of the guest costs, on a host of perf events:
//! none where nothing changes, and a read for each counter where the guest stops and starts
//! the same programme.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
use vpmu::host::held::Held;
use vpmu::host::sim::SimPmu;
use vpmu::host::{HostEvent, HostEventId, HostOpenError, HostPmu, NoCounter, ReadError};
use vpmu::ids::MsrIndex;
use vpmu::units::{Count, Nanos};
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::msr::GLOBAL_CTRL;
use vpmu::{BeforeEntry, Policy, Ran, VcpuPmu};

const SEL: [MsrIndex; 4] = [
    MsrIndex(0x186),
    MsrIndex(0x187),
    MsrIndex(0x188),
    MsrIndex(0x189),
];
const FIXED_CTR_CTRL: MsrIndex = MsrIndex(0x38d);
const PMC: [MsrIndex; 2] = [MsrIndex(0x4c1), MsrIndex(0x4c2)];
/// Cycles, instructions, branches, branch misses; each asks for an interrupt.
const EVENTS: [u64; 4] = [0x53_003c, 0x53_00c0, 0x53_00c4, 0x53_00c5];

/// A host that counts the system calls that `LinuxPmu` makes.
#[derive(Debug)]
struct Counting {
    inner: SimPmu,
    running: [bool; HostEventId::COUNT],
    calls: u64,
}

impl Counting {
    /// From here on an overflow is not asked of the host.
    const FAR: Count = Count(1 << 40);
}

impl HostPmu for Counting {
    fn supported(&self) -> ArchEventSet {
        self.inner.supported()
    }
    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        // perf_event_open, and three of fcntl for the signal.
        self.calls += 4;
        self.running[id.0] = false;
        self.inner.open(id, attr)
    }
    fn close(&mut self, id: HostEventId) {
        self.calls += 1;
        self.inner.close(id);
    }
    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        self.calls += u64::from(left < Self::FAR) + u64::from(!self.running[id.0]);
        self.running[id.0] = true;
        self.inner.start(id, left)
    }
    fn stop(&mut self, id: HostEventId) {
        self.calls += 1;
        self.running[id.0] = false;
        self.inner.stop(id);
    }
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        self.calls += 1;
        self.inner.read(id)
    }
    fn can_lose(&self) -> bool {
        true
    }
}

type Pmu = VcpuPmu<ArchPerfmon, Held<Counting>>;

/// With so many counters on, each of which has run.
fn counting(counters: usize) -> Pmu {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    let host = Counting {
        inner: SimPmu::quiet(8, ArchEventSet::ALL),
        running: [false; HostEventId::COUNT],
        calls: 0,
    };
    let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), Held::new(host), Policy::Flexible);
    for n in 0..counters {
        pmu.wrmsr(SEL[n], EVENTS[n]).unwrap();
    }
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    runs(&mut pmu);
    pmu
}

/// The guest runs, and leaves by what it does.
fn runs(pmu: &mut Pmu) {
    for event in [
        ArchEvent::Cycles,
        ArchEvent::Instructions,
        ArchEvent::Branches,
    ] {
        pmu.host_mut().inner_mut().inner.occur(event, 1_000);
    }
    pmu.after_run(Ran {
        span: Nanos(1_000),
        ..Ran::default()
    });
    let BeforeEntry::Ready(_) = pmu.before_entry() else {
        panic!("no counter has overflowed");
    };
}

/// The calls that writes cost, each in a run of its own.
fn cost(pmu: &mut Pmu, writes: &[(MsrIndex, u64)]) -> Vec<u64> {
    let one = |(msr, value): &(MsrIndex, u64)| {
        let before = pmu.host_mut().inner_mut().calls;
        pmu.wrmsr(*msr, *value).unwrap();
        let calls = pmu.host_mut().inner_mut().calls - before;
        runs(pmu);
        calls
    };
    writes.iter().map(one).collect()
}

#[test]
fn a_write_that_changes_nothing_costs_none() {
    let mut pmu = counting(4);
    let same = [(SEL[0], EVENTS[0]), (SEL[3], EVENTS[3]), (GLOBAL_CTRL, 0xf)];
    assert_eq!(cost(&mut pmu, &same), [0, 0, 0]);
}

/// A freeze on a PMI may change the global control: it is no such register.
#[test]
fn to_read_what_the_guest_has_programmed_costs_none() {
    let mut pmu = counting(4);
    for (msr, calls) in [(SEL[0], 0), (FIXED_CTR_CTRL, 0), (PMC[0], 1)] {
        let before = pmu.host_mut().inner_mut().calls;
        pmu.rdmsr(msr).unwrap();
        let cost = pmu.host_mut().inner_mut().calls - before;
        assert_eq!(cost, calls, "{msr}");
        runs(&mut pmu);
    }
}

#[test]
fn a_stop_and_a_start_cost_a_read_for_each_counter() {
    for counters in 1..=4 {
        let mut pmu = counting(counters);
        let reads = counters as u64;
        let stop_and_start = [(GLOBAL_CTRL, 0), (GLOBAL_CTRL, 0xf)];
        for _ in 0..3 {
            assert_eq!(cost(&mut pmu, &stop_and_start), [reads, reads]);
        }
    }
}

#[test]
fn programming_while_all_is_stopped_costs_none_until_the_start() {
    let mut pmu = counting(2);
    let writes = [
        (GLOBAL_CTRL, 0),
        (SEL[0], 0),
        (SEL[1], 0),
        (PMC[0], 5),
        (SEL[0], EVENTS[0]),
        (SEL[1], EVENTS[1]),
        (GLOBAL_CTRL, 0xf),
    ];
    // Two tasks, one with events and one without, take turns.
    for _ in 0..3 {
        assert_eq!(cost(&mut pmu, &writes), [2, 0, 0, 0, 0, 0, 2]);
    }
}

/// What a handler does for a counter that samples: its period is the only thing to tell.
#[test]
fn a_handler_costs_two_reads_and_a_period() {
    let mut pmu = counting(1);
    let period = (1_u64 << 48) - 100_000;
    let writes = [(GLOBAL_CTRL, 0), (PMC[0], period), (GLOBAL_CTRL, 0xf)];
    for _ in 0..3 {
        assert_eq!(cost(&mut pmu, &writes), [1, 0, 2]);
    }
}
