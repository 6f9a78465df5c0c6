//! Instructions that a guest's accesses cost in `VcpuPmu`, counted by valgrind:
//! `cargo run --release -p vpmu --example vcpu_cost` prints a table.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot go on fails"
)]

mod callgrind;

use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
use vpmu::host::sim::SimPmu;
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::host::{HostEvent, HostOpenError, HostPmu, Privilege};
use vpmu::ids::{MonitorId, MsrIndex};
use vpmu::units::Nanos;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::msr::{GLOBAL_CTRL, GLOBAL_OVF_CTRL, GLOBAL_STATUS};
use vpmu::{BeforeEntry, CounterState, Policy, Ran, VcpuPmu};

const CYCLES: u64 = 0x53_003c;
const STOPPED: u64 = 0x13_003c;
const OTHER: u64 = 0x51_003c;
const OPS: [(&str, &str); 8] = [
    ("read", "RDPMC of a running counter"),
    ("rewrite", "a new value for a running counter"),
    (
        "toggle",
        "all counters off and on: GLOBAL_CTRL = 0, then 15",
    ),
    ("watched", "the same beside a monitor"),
    ("stop_start", "one counter off and on by its event select"),
    ("reprogram", "another event for one counter, and back"),
    (
        "pmi",
        "an overflow from the look to the end of the guest's handler",
    ),
    ("rotation", "a turn of four counters on two of the host"),
];

fn sel(i: u32) -> MsrIndex {
    MsrIndex(0x186 + i)
}

fn counter(i: u32) -> MsrIndex {
    MsrIndex(0x4c1 + i)
}

fn pmu<H: HostPmu>(host: H, counters: u32) -> VcpuPmu<ArchPerfmon, H> {
    let config = ArchPerfmonConfig::new(4, 3, 48, ArchEventSet::ALL).unwrap();
    let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    for i in 0..counters {
        pmu.wrmsr(sel(i), CYCLES).unwrap();
    }
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
    pmu
}

fn run<H: HostPmu>(op: &str, pmu: &mut VcpuPmu<ArchPerfmon, H>, times: u64) {
    let mut w = |msr, value| pmu.wrmsr(msr, value).unwrap();
    for i in 0..times {
        match op {
            "rewrite" => w(counter(0), i),
            "toggle" | "watched" => {
                w(GLOBAL_CTRL, 0);
                w(GLOBAL_CTRL, 0xf);
            }
            "stop_start" => {
                w(sel(0), STOPPED);
                w(sel(0), CYCLES);
            }
            "reprogram" => {
                w(sel(0), OTHER);
                w(sel(0), CYCLES);
            }
            _ => {}
        }
    }
    for _ in 0..times {
        match op {
            "read" => assert!(std::hint::black_box(pmu.rdpmc(0)).is_some()),
            "pmi" => handle_one(pmu),
            "rotation" => {
                pmu.after_run(interrupted_after(4_000_000));
            }
            _ => {}
        }
    }
}

/// A run that a deadline ends.
fn interrupted_after(span: u64) -> Ran {
    Ran {
        span: Nanos(span),
        interrupted: true,
        level: None,
    }
}

/// What Linux's handler does (guest-contract §4.2).
fn handle_one<H: HostPmu>(pmu: &mut VcpuPmu<ArchPerfmon, H>) {
    pmu.after_run(interrupted_after(1_000_000));
    let wants = match pmu.before_entry() {
        BeforeEntry::Pmi(pmi) => pmi.delivered(),
        BeforeEntry::Ready(_) => panic!("no PMI"),
    };
    assert!(std::hint::black_box(wants).guest_time);
    pmu.wrmsr(GLOBAL_CTRL, 0).unwrap();
    let status = pmu.rdmsr(GLOBAL_STATUS).unwrap();
    pmu.wrmsr(GLOBAL_OVF_CTRL, status).unwrap();
    assert!(pmu.rdpmc(0).is_some());
    pmu.wrmsr(counter(0), (1 << 48) - 1_000_000).unwrap();
    assert_eq!(pmu.rdmsr(GLOBAL_STATUS), Ok(0));
    pmu.wrmsr(GLOBAL_CTRL, 0xf).unwrap();
}

fn worker(op: &str, counters: u32, times: u64) -> Result<(), HostOpenError> {
    if op == "rotation" {
        let mut pmu = pmu(SimPmu::quiet(2, ArchEventSet::ALL), counters);
        run(op, &mut pmu, times);
        assert!(pmu.totals().rotations >= times);
        return Ok(());
    }
    let mut pmu = pmu(SoftwarePmu::new(Khz(1_000_000)), counters);
    if op == "watched" {
        let (event, id) = (ArchEvent::RefTsc.into(), MonitorId::all().next().unwrap());
        let privilege = Privilege {
            user: true,
            kernel: true,
        };
        let attr = HostEvent {
            code: event,
            privilege,
        };
        pmu.attach(id, attr, Policy::Flexible).unwrap();
    }
    if op == "pmi" {
        pmu.wrmsr(counter(0), (1 << 48) - 1_000_000).unwrap();
    }
    run(op, &mut pmu, times);
    match pmu.counters().next().map(|c| c.state) {
        Some(CounterState::Refused(error)) => Err(error),
        _ => Ok(()),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [op, counters, times] = &args[..] {
        worker(op, counters.parse().unwrap(), times.parse().unwrap()).unwrap();
        return;
    }
    println!("| operation | is | 1 counter | 4 counters |");
    println!("|---|---|---|---|");
    for (op, what) in OPS {
        let cost = |counters: u32| match (op, counters) {
            ("rotation", 1) => "–".to_owned(),
            _ => callgrind::cost(&[op.to_owned(), counters.to_string()], 64).to_string(),
        };
        println!("| {op} | {what} | {} | {} |", cost(1), cost(4));
    }
}
