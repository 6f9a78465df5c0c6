//! How the guest's events would be counted: backing, free counters, RDPMC.

use vpmu::host::linux::EventSource;
use vpmu::host::linux::probe::extended_type;
use vpmu::host::linux::sysfs::{CpuSet, PmuDevice, PmuRegistry, Sysfs};
use vpmu::x86::event::ArchEvent;

use super::report::{
    BackingReport, CountersReport, EventCounters, EventReport, Finding, KvmReport, RdpmcReport,
    YesOrNo,
};
use crate::config::{CpusConfig, PmuKind};
use crate::kvm::Hypervisor;
use crate::pmu::{HostCpus, PmuBacking, free_counters, select};
use crate::probe::{self, INDICES, ProbeError, Rdpmc, RdpmcClass};

const CLOCK_NOTE: &str = "clock-derived counts come from the time that the vCPU spends in the guest; filters for user or kernel mode (:u, :k) are sampled, once a millisecond of guest time";

/// The source of counts that `--pmu type=auto` chooses on this host.
pub(super) fn backing(sysfs: &Sysfs) -> BackingReport {
    let chosen = select(
        &PmuKind::Auto,
        &CpusConfig::flat(1),
        sysfs,
        &HostCpus::read(sysfs),
    );
    let events = ArchEvent::ALL.map(|event| match &chosen {
        Ok(backing) if backing.events().contains(event) => backed(event, backing),
        _ => EventReport {
            event: event.name(),
            backing: "unavailable",
            pmu: None,
        },
    });
    let is_clock = chosen.as_ref().is_ok_and(PmuBacking::is_clock);
    BackingReport {
        events: events.into(),
        note: is_clock.then_some(CLOCK_NOTE),
        chosen: Finding::from(chosen.map(|backing| backing.to_string())),
    }
}

fn backed(event: ArchEvent, backing: &PmuBacking) -> EventReport {
    let (word, pmu) = if backing.is_clock() {
        ("clock-derived", None)
    } else {
        ("hardware", Some(backing.name()))
    };
    EventReport {
        event: event.name(),
        backing: word,
        pmu,
    }
}

/// The free counters of each core PMU; empty on a host without one.
pub(super) fn counters(sysfs: &Sysfs) -> Vec<CountersReport> {
    // That the list cannot be had is said where the list is.
    let pmus = PmuRegistry::read(sysfs).unwrap_or_default();
    let host = HostCpus::read(sysfs);
    pmus.cores()
        .map(|pmu| {
            let cpus = pmu.cpus().unwrap_or(&host.online);
            let cpus = cpus.intersection(&host.allowed);
            counters_of(pmu, pmus.source(pmu), &cpus)
        })
        .collect()
}

fn counters_of(pmu: &PmuDevice, source: EventSource, cpus: &CpuSet) -> CountersReport {
    let first = cpus.iter().take(1).collect();
    let counted = |event: ArchEvent| {
        let free = free_counters(source, event, &first).ok()?;
        Some(EventCounters {
            event: event.name(),
            free,
        })
    };
    let others = ArchEvent::ALL.into_iter();
    CountersReport {
        pmu: pmu.name.clone(),
        free: Finding::from(free_counters(source, ArchEvent::Instructions, cpus)),
        events: others
            .filter(|event| *event != ArchEvent::Instructions)
            .filter_map(counted)
            .collect(),
        extended_type: Finding::from(extended_type(pmu.kind)),
    }
}

pub(super) fn rdpmc(hypervisor: Option<&Hypervisor>) -> Finding<RdpmcReport> {
    let Some(hypervisor) = hypervisor else {
        return Finding::unknown("KVM does not open");
    };
    Finding::from(probe::rdpmc(hypervisor, &INDICES).and_then(|answers| {
        let class = RdpmcClass::of(&answers);
        let class = class.ok_or(ProbeError::Ended("it gave no answer"))?;
        Ok(rdpmc_report(class, &answers))
    }))
}

fn rdpmc_report(class: RdpmcClass, answers: &[Rdpmc]) -> RdpmcReport {
    let (class, user_reads) = match class {
        RdpmcClass::GpFault => (
            "gp-fault",
            "served exactly: RDPMC in a guest program faults, and a doorbell in the #GP entry of Linux guests answers it",
        ),
        RdpmcClass::SilentZero => (
            "silent-zero",
            "served, but for a program that maps an event which counts already: it reads wrong values for up to 10 ms",
        ),
        RdpmcClass::Value => (
            "value",
            "served, but for a program that maps an event which counts already: it reads what KVM's own vPMU counts for up to 10 ms",
        ),
    };
    let answer = |(index, answer): (&u32, &Rdpmc)| match answer {
        Rdpmc::Gp => format!("{index:#x}: #GP"),
        Rdpmc::Value(value) => format!("{index:#x}: {value:#x}"),
    };
    RdpmcReport {
        class,
        answers: INDICES.iter().zip(answers).map(answer).collect(),
        kernel_reads: "served exactly: rdpmc=rewrite turns the kernel's RDPMC into RDMSR",
        user_reads,
    }
}

/// Whether `perfvisor run` with its default flags gives a Linux guest a PMU.
pub(super) fn verdict(kvm: &KvmReport, backing: &BackingReport) -> YesOrNo {
    let no = |reason: &str| YesOrNo {
        possible: false,
        reason: reason.to_owned(),
    };
    if !kvm.linux_guest.possible {
        return no(&kvm.linux_guest.reason);
    }
    match kvm.features.value() {
        Some(features) if features.msr_filter && features.user_space_msr => {}
        _ => return no("this KVM cannot hand the PMU's registers to user space"),
    }
    match &backing.chosen {
        Finding::Value(chosen) => YesOrNo {
            possible: true,
            reason: chosen.clone(),
        },
        Finding::Unknown { unknown } => no(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmu::{Counted, HostSource};
    use std::path::Path;
    use vpmu::x86::event::ArchEventSet;

    #[test]
    fn a_host_without_pmus_is_clock_derived() {
        let report = backing(&Sysfs::at(Path::new("/nonexistent")));
        let of = |name| {
            let event = report.events.iter().find(|event| event.event == name);
            event.map(|event| event.backing)
        };
        assert_eq!(of("cycles"), Some("clock-derived"));
        assert_eq!(of("ref-cycles"), Some("clock-derived"));
        assert_eq!(of("instructions"), Some("unavailable"));
        assert!(report.note.unwrap().contains("sampled"));
        assert!(counters(&Sysfs::at(Path::new("/nonexistent"))).is_empty());
    }

    #[test]
    fn a_hardware_event_names_its_pmu() {
        let hardware = PmuBacking::Hardware(HostSource {
            name: "cpu".to_owned(),
            source: EventSource::Hardware,
            counted: Counted {
                events: ArchEventSet::ALL,
                ..Counted::default()
            },
            cpus: None,
        });
        let event = backed(ArchEvent::Branches, &hardware);
        assert_eq!(event.backing, "hardware");
        assert_eq!(event.pmu.as_deref(), Some("cpu"));
    }

    #[test]
    fn every_class_names_the_limit() {
        for class in [
            RdpmcClass::GpFault,
            RdpmcClass::SilentZero,
            RdpmcClass::Value,
        ] {
            let report = rdpmc_report(class, &[Rdpmc::Gp, Rdpmc::Value(0)]);
            assert!(report.user_reads.starts_with("served"));
            assert_eq!(report.answers, ["0x0: #GP", "0x5: 0x0"]);
        }
    }
}
