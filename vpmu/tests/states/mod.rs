//! PMUs on a scripted host, for what a clock-derived one never has: turns, errors,
//! event codes, filters.

#[path = "../kept_host/mod.rs"]
mod kept_host;

use vpmu::guest::{CoreType, Model, ModelConfig, ModelKind};
use vpmu::host::sim::SimPmu;
use vpmu::host::{EventCode, HostEventId, HostPmu};
use vpmu::ids::MsrIndex;
use vpmu::state::RestoreError;
use vpmu::units::Nanos;
use vpmu::x86::cpuid::Vendor;
use vpmu::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use vpmu::{BeforeEntry, CodesId, EventFilter, FilterLists, Policy, Ran, Rules, VcpuPmu};

use kept_host::Host;

pub(crate) type Pmu = VcpuPmu<Model, Host>;

/// A guest on a host.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    rules: Rules,
    model: &'static str,
    counters: usize,
    script: fn(&mut Pmu, &Host),
}

const RAW: u64 = 0x1d1;
const RAW_AMD: u64 = 0x1_0000_0043;
/// Each kind of event occurs at its own rate: so many in a microsecond.
const RATES: [(ArchEvent, u64); 4] = [
    (ArchEvent::Cycles, 2_903),
    (ArchEvent::Instructions, 4_517),
    (ArchEvent::Branches, 811),
    (ArchEvent::LlcMisses, 13),
];

fn raw(code: u64) -> EventCode {
    EventCode::Raw(RawEvent::of_event_sel(code))
}

pub(crate) fn all() -> [Scenario; 3] {
    let lists = FilterLists::new(
        [
            ArchEvent::Cycles.into(),
            ArchEvent::Instructions.into(),
            raw(RAW),
            raw(RAW_AMD),
        ],
        [ArchEvent::LlcMisses.into(), raw(0xc2)],
    );
    [
        Scenario {
            name: "turns",
            rules: Rules {
                policy: Policy::Flexible,
                filter: EventFilter::All,
                codes: Some(CodesId::new(Vendor::Intel, 0x606a6, None)),
                ..Rules::default()
            },
            model: "intel-v4",
            counters: 2,
            script: turns,
        },
        Scenario {
            name: "errors",
            rules: Rules {
                policy: Policy::Pinned,
                filter: EventFilter::All,
                codes: Some(CodesId::new(Vendor::Intel, 0x906a3, Some(CoreType::Atom))),
                ..Rules::default()
            },
            model: "intel-v5",
            counters: 3,
            script: errors,
        },
        Scenario {
            name: "lists",
            rules: Rules {
                policy: Policy::Flexible,
                filter: EventFilter::Lists(lists),
                codes: Some(CodesId::new(Vendor::Amd, 0xa2_0f12, None)),
                ..Rules::default()
            },
            model: "amd-v2",
            counters: 4,
            script: listed,
        },
    ]
}

impl Scenario {
    pub(crate) fn model(&self) -> Model {
        let kind = ModelKind::from_name(self.model).unwrap();
        Model::new(ModelConfig::new(kind, kind.shape(), ArchEventSet::ALL).unwrap())
    }

    fn host(&self) -> Host {
        let host = SimPmu::quiet(self.counters, ArchEventSet::ALL);
        Host::new(host)
    }

    /// The guest after what it did.
    pub(crate) fn run(&self) -> Pmu {
        let host = self.host();
        let mut pmu = Pmu::new(self.model(), host.clone(), self.rules.clone());
        (self.script)(&mut pmu, &host);
        pmu
    }

    pub(crate) fn restore(&self, bytes: &[u8]) -> Result<Pmu, RestoreError> {
        Pmu::restore(self.model(), self.host(), self.rules.clone(), bytes)
    }
}

fn write(pmu: &mut Pmu, writes: &[(u32, u64)]) {
    for (msr, value) in writes {
        pmu.wrmsr(MsrIndex(*msr), *value).unwrap();
    }
}

pub(crate) fn ran<H: HostPmu>(pmu: &mut VcpuPmu<Model, H>, span: Nanos, interrupted: bool) {
    let level = None;
    pmu.after_run(Ran {
        span,
        interrupted,
        level,
    });
}

/// Whether the guest may not run before something is done.
fn due_now(pmu: &mut Pmu) -> bool {
    let wants = match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => pmi.postponed(),
        BeforeEntry::Ready(wants) => wants,
    };
    wants.deadline == Some(Nanos(0))
}

/// Whether there is a PMI, which reaches the guest.
pub(crate) fn deliver<H: HostPmu>(pmu: &mut VcpuPmu<Model, H>) -> bool {
    match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => {
            let _ = pmi.delivered();
            true
        }
        BeforeEntry::Ready(_) => false,
    }
}

/// Whether there is a PMI, which meets a masked LVTPC.
fn drop_pmi(pmu: &mut Pmu) -> bool {
    match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => {
            let _ = pmi.dropped();
            true
        }
        BeforeEntry::Ready(_) => false,
    }
}

/// The guest runs; its PMIs are taken and, if it has a handler, handled.
fn run_for(pmu: &mut Pmu, host: &Host, micros: u64, handler: Option<fn(&mut Pmu)>) {
    for _ in 0..micros {
        let mut events = host.0.borrow_mut();
        for (event, rate) in RATES {
            events.occur(event, rate);
        }
        events.occur(raw(RAW), 97);
        events.occur(raw(RAW_AMD), 41);
        let interrupted = events.take_interrupt();
        drop(events);
        ran(pmu, Nanos(1_000), interrupted);
        if !interrupted && due_now(pmu) {
            ran(pmu, Nanos(0), true);
        }
        if let Some(handle) = handler
            && deliver(pmu)
        {
            handle(pmu);
        }
    }
}

const CTRL: u64 = 0x7_0000_000f;

/// The value of a counter that overflows after `n` events.
const fn before_overflow(n: u64) -> u64 {
    (1 << 48) - n
}

fn handle_intel(pmu: &mut Pmu) {
    write(pmu, &[(0x38f, 0)]);
    let status = pmu.rdmsr(MsrIndex(0x38e)).unwrap();
    write(pmu, &[(0x4c1, before_overflow(2_000_000))]);
    write(pmu, &[(0x390, status), (0x38f, CTRL)]);
}

/// 4 on 2, with events of one level and a raw one: a turn is under way, one was
/// stopped before its first, and the host took a counter for a while. Some PMIs
/// were handled, some dropped, and one waits.
fn turns(pmu: &mut Pmu, host: &Host) {
    write(pmu, &[(0x38f, 0), (0x4c3, 77)]);
    write(pmu, &[(0x186, 0x51_003c), (0x187, 0x52_00c0)]);
    write(pmu, &[(0x188, 0x53_0000 | RAW), (0x189, 0x53_00c4)]);
    // Fixed counters with AnyThread: not backed.
    write(pmu, &[(0x38d, 0x777), (0x38f, CTRL)]);
    for _ in 0..5 {
        write(pmu, &[(0x4c1, before_overflow(100))]);
        run_for(pmu, host, 1, None);
        assert!(drop_pmi(pmu));
    }
    write(pmu, &[(0x4c1, before_overflow(1_000_000))]);
    run_for(pmu, host, 495, Some(handle_intel));
    write(pmu, &[(0x189, 0x13_00c4)]);
    run_for(pmu, host, 200, Some(handle_intel));
    write(pmu, &[(0x189, 0x53_00c4)]);
    run_for(pmu, host, 9_000, Some(handle_intel));
    host.0.borrow_mut().lose(HostEventId(2));
    run_for(pmu, host, 3_000, Some(handle_intel));
    for pmc in (0..4).cycle().take(39) {
        pmu.rdpmc(pmc).unwrap();
    }
    write(pmu, &[(0x4c2, before_overflow(3_000_000))]);
    run_for(pmu, host, 4_000, None);
}

/// 4 on 3, pinned, after PMIs that were delivered and one that was dropped: one
/// had no counter, one has lost its own, and one is off.
fn errors(pmu: &mut Pmu, host: &Host) {
    write(pmu, &[(0x38f, 0), (0x4c1, before_overflow(1_000_000))]);
    write(pmu, &[(0x186, 0x53_003c), (0x187, 0x52_00c0)]);
    write(pmu, &[(0x188, 0x51_0000 | RAW), (0x189, 0x53_412e)]);
    write(pmu, &[(0x38f, 0xf)]);
    run_for(pmu, host, 500, Some(handle_intel));
    write(pmu, &[(0x4c1, before_overflow(500_000))]);
    run_for(pmu, host, 200, None);
    assert!(drop_pmi(pmu));
    write(pmu, &[(0x187, 0x12_00c0)]);
    run_for(pmu, host, 123, None);
    ran(pmu, Nanos(0), true);
    host.0.borrow_mut().lose(HostEventId(2));
    run_for(pmu, host, 45, None);
}

/// One event of each list, with the PMI of one that wrapped on its way.
fn listed(pmu: &mut Pmu, host: &Host) {
    write(pmu, &[(0xc000_0301, 0)]);
    write(pmu, &[(0xc001_0200, 0x53_0076), (0xc001_0202, 0x51_00c0)]);
    write(
        pmu,
        &[
            (0xc001_0204, 0x52_0000 | RAW),
            (0xc001_0206, 0x53_0000 | RAW_AMD),
        ],
    );
    write(
        pmu,
        &[
            (0xc001_0205, before_overflow(30_000)),
            (0xc001_0208, 0x53_0964),
        ],
    );
    write(pmu, &[(0xc000_0301, 0x3f)]);
    run_for(pmu, host, 400, None);
}
