//! On recorded trees and a host that does as it is told.

use std::cell::{Cell, RefCell};
use std::io;

use super::*;
use crate::host::linux::PerfOpenError;
use crate::host::linux::event::Reading;
use crate::host::linux::sysfs::{CpuSet, Sysfs};
use crate::host::{EnergyDomain, RawSelect};
use crate::ids::HostCpu;

include!("../../../../tests/data/sysfs/unpack.rs");

const ALDER_LAKE: &str = include_str!("../../../../tests/data/sysfs/alder-lake.tree");
const ZEN: &str = include_str!("../../../../tests/data/sysfs/zen.tree");

fn source(name: &str, text: &str, pmu: &str) -> Result<UncoreSource, UncoreSourceError> {
    let tree = Tree::unpack(&format!("uncore-{name}-{pmu}"), text);
    UncoreSource::find(&tree.sysfs(), pmu)
}

#[test]
fn a_pmu_that_is_not_there_is_named() {
    let error = source("none", ZEN, "amd_umc_0").unwrap_err().to_string();
    assert!(error.contains("amd_umc_0"), "{error}");
    let error = source("core", ZEN, "cpu").unwrap_err().to_string();
    assert!(error.contains("cpumask"), "{error}");
}

#[test]
fn energy_needs_a_scale_in_joules() {
    let power = source("adl", ALDER_LAKE, "power").unwrap();
    let domains: Vec<_> = power.energy_domains().collect();
    assert_eq!(domains, [EnergyDomain::Package]);
    let package = UncoreEvent::Energy(EnergyDomain::Package);
    let encoded = power.encode(&package).unwrap();
    assert_eq!((encoded.config, &*encoded.text), (2, "energy-pkg"));
    assert_eq!(encoded.energy.unwrap().energy(12_345), Energy(12_345));
    // The recorded Zen does not say what its counts are.
    assert_eq!(
        source("zen", ZEN, "power")
            .unwrap()
            .energy_domains()
            .count(),
        0
    );
    assert_eq!(EnergyScale::parse("1e-3").unwrap().energy(1_000).0 >> 32, 1);
    for text in ["", "-1", "0", "nan", "1e400"] {
        assert_eq!(EnergyScale::parse(text), None, "{text}");
    }
}

/// A guest's codes are the host's where the host has all of their bits, and
/// nobody's threads but everybody's.
#[test]
fn selects_pass_as_far_as_the_host_has_their_fields() {
    let (l3, df) = (
        source("l3", ZEN, "amd_l3").unwrap(),
        source("df", ZEN, "amd_df").unwrap(),
    );
    let config = |source: &UncoreSource, event| source.encode(&event).map(|e| e.config);
    for everybody in [0xff0f_0000_0000_ff04, 0x0300_c000_0000_ff04] {
        let event = UncoreEvent::L3(RawSelect(everybody));
        assert_eq!(config(&l3, event), Some(0xff04));
    }
    for some in [0x010f_0000_0000_ff04, 0xff01_0000_0000_ff04, 0xff04] {
        assert_eq!(config(&l3, UncoreEvent::L3(RawSelect(some))), None);
    }
    let select = 0x1800_000f_0000_3807;
    let event = UncoreEvent::DataFabric(RawSelect(select));
    assert_eq!(config(&df, event), Some(select));
    // PerfMonV2's further bits, on a host without them.
    let event = UncoreEvent::DataFabric(RawSelect(0x0010_0000_3807 | 1 << 36));
    assert_eq!(config(&df, event), None);
    assert_eq!(
        config(&df, UncoreEvent::Energy(EnergyDomain::Package)),
        None
    );
}

/// A host whose events count 10 a read, on the CPU that stands for 0-3.
#[derive(Debug, Default)]
struct Script {
    designated: Cell<Option<HostCpu>>,
    opened: RefCell<Vec<HostCpu>>,
    ticks: Cell<u64>,
}

impl Script {
    fn on(cpu: u32) -> Self {
        let script = Self::default();
        script.designated.set(Some(HostCpu(cpu)));
        script
    }
}

/// The CPU, and the tick at which it was opened.
#[derive(Debug)]
struct Fake {
    cpu: HostCpu,
    since: u64,
    /// What an event without a CPU stands still at.
    still: Cell<u64>,
}

impl CpuEvents for Script {
    type Event = Fake;

    fn open(&self, _config: u64, cpu: HostCpu) -> Result<Fake, PerfOpenError> {
        if self.designated.get() != Some(cpu) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV).into());
        }
        self.opened.borrow_mut().push(cpu);
        Ok(Fake {
            cpu,
            since: self.ticks.get(),
            still: Cell::new(0),
        })
    }

    fn read(&self, event: &Fake) -> Result<Reading, ReadError> {
        self.ticks.set(self.ticks.get() + 1);
        if self.designated.get() == Some(event.cpu) {
            event.still.set(self.ticks.get() - event.since);
        }
        let ran = event.still.get();
        Ok(Reading {
            count: ran * 10,
            enabled: ran,
            running: ran,
        })
    }

    fn designated(&self, group: &CpuSet) -> Option<(HostCpu, CpuSet)> {
        let cpu = self.designated.get().filter(|cpu| group.contains(*cpu))?;
        Some((cpu, group.clone()))
    }
}

fn group() -> CpuSet {
    CpuSet::parse("0-3").unwrap()
}

#[test]
fn an_event_goes_on_where_its_scope_has_gone() {
    let host = Script::on(0);
    let mut event = Followed::open(&host, 7, HostCpu(0), group()).unwrap();
    assert_eq!(event.read(&host, 7), Ok(10));
    assert_eq!(event.read(&host, 7), Ok(20));
    host.designated.set(Some(HostCpu(2)));
    assert_eq!(
        event.read(&host, 7),
        Ok(20),
        "nothing is lost, nothing jumps"
    );
    assert_eq!(event.read(&host, 7), Ok(30));
    assert_eq!(*host.opened.borrow(), [HostCpu(0), HostCpu(2)]);
    assert!(event.describe().ends_with("with a gap: 1 so far)"));
    assert!(event.describe().starts_with("2 (opened anew"));
}

#[test]
fn without_a_cpu_of_its_scope_an_event_stands_still_until_one_is_back() {
    let host = Script::on(1);
    let mut event = Followed::open(&host, 7, HostCpu(1), group()).unwrap();
    assert_eq!(event.read(&host, 7), Ok(10));
    host.designated.set(None);
    assert_eq!(event.read(&host, 7), Ok(10));
    assert_eq!(event.describe(), "1 (offline)");
    // Another scope's CPU is none of its.
    host.designated.set(Some(HostCpu(8)));
    assert_eq!(event.read(&host, 7), Ok(10));
    host.designated.set(Some(HostCpu(1)));
    assert_eq!(event.read(&host, 7), Ok(40), "the fake counts on by itself");
}

/// Pinned, and another has the counter: no count that looks right.
#[test]
fn an_event_without_a_counter_is_lost() {
    #[derive(Debug)]
    struct Full;
    impl CpuEvents for Full {
        type Event = ();
        fn open(&self, _: u64, _: HostCpu) -> Result<(), PerfOpenError> {
            Ok(())
        }
        fn read(&self, (): &()) -> Result<Reading, ReadError> {
            Err(ReadError::Lost)
        }
        fn designated(&self, group: &CpuSet) -> Option<(HostCpu, CpuSet)> {
            Some((HostCpu(0), group.clone()))
        }
    }
    let mut event = Followed::open(&Full, 7, HostCpu(0), group()).unwrap();
    assert_eq!(event.read(&Full, 7), Err(ReadError::Lost));
}

#[test]
fn instances_of_the_guest_are_counted_round() {
    let l3 = source("round", ZEN, "amd_l3").unwrap();
    let behind = |shown, instance, energy| {
        let driver = LinuxUncore::new(l3.clone().places().collect(), shown);
        let behind = driver.behind(ScopeInstance(instance), energy).iter();
        behind.map(|place| place.designated().0).collect::<Vec<_>>()
    };
    assert_eq!(behind(Shown::Raw, 0, false), [0]);
    assert_eq!(behind(Shown::Raw, 3, false), [2]);
    #[derive(Debug)]
    struct Never;
    impl CpuTimes for Never {
        fn now(&mut self, _: ScopeInstance) -> Option<crate::host::CpuTime> {
            None
        }
    }
    let by_time = || Shown::ByCpuTime(Box::new(Never));
    assert_eq!(behind(by_time(), 0, true), [0, 2], "all energy");
    assert_eq!(behind(by_time(), 1, false), [2]);
    let mut driver = LinuxUncore::new(l3.places().collect(), by_time());
    let event = UncoreEvent::Energy(EnergyDomain::Package);
    assert_eq!(
        driver.open(UncoreEventId(0), &event, ScopeInstance(0)),
        Err(HostOpenError::Unsupported)
    );
    assert_eq!(driver.read(UncoreEventId(0)), Err(ReadError::Lost));
    assert_eq!(driver.describe(UncoreEventId(0)), None);
}
