//! What backs the guest's counters.

use std::fmt;

use vpmu::guest::CoreType;
use vpmu::host::HostPmu;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::host::linux::{EventSource, LinuxPmu, OverflowSignal};
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::host::sum::SumPmu;
use vpmu::ids::VcpuId;
use vpmu::x86::event::ArchEventSet;

use super::covered;
use crate::config::CoreTypes;
use crate::vcpu::Home;

/// A host PMU that counts for guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSource {
    /// Its name in sysfs.
    pub name: String,
    /// How its events are opened.
    pub source: EventSource,
    /// The events that it was found to count.
    pub events: ArchEventSet,
    /// The CPUs that it counts on; `None`: on all.
    pub cpus: Option<CpuSet>,
}

impl HostSource {
    fn driver(&self, signal: OverflowSignal) -> LinuxPmu {
        LinuxPmu::new(self.source, self.events, signal)
    }
}

/// What backs the guest's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// One PMU of the host.
    Hardware(HostSource),
    /// One PMU for each kind of the host's CPUs. Every guest counter has an
    /// event on each of them, and their counts are added.
    Sum(Vec<HostSource>),
    /// A hybrid guest: each vCPU has the PMU of its type.
    Hybrid {
        /// For vCPUs of type core.
        core: HostSource,
        /// For vCPUs of type atom.
        atom: HostSource,
        /// Which is which.
        types: CoreTypes,
    },
    /// Guest time stands for cycles; the reason why.
    Software(Reason),
}

/// Why a clock backs the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `type=software`.
    Asked,
    /// The host has no core PMU.
    NoHostPmu,
    /// A vCPU may run where no core PMU counts.
    PartOfTheHost,
    /// The host has a core PMU that counts nothing in guests.
    CountsNothing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::NoHostPmu => "the host has no core PMU",
            Self::PartOfTheHost => {
                "the host's core PMUs do not count on every CPU that vCPUs may use; --cpus \
                 affinity= or a PMU's name would keep them where one does"
            }
            Self::CountsNothing => "the host's core PMU counts nothing in guests",
        })
    }
}

impl Backing {
    /// The events that guests of this backing can count, on every vCPU.
    #[must_use]
    pub fn events(&self) -> ArchEventSet {
        let common = |sources: &[&HostSource]| {
            let in_all = |event: &_| sources.iter().all(|s| s.events.contains(*event));
            vpmu::x86::event::ArchEvent::ALL
                .into_iter()
                .filter(in_all)
                .collect()
        };
        match self {
            Self::Hardware(source) => source.events,
            Self::Sum(sources) => common(&sources.iter().collect::<Vec<_>>()),
            Self::Hybrid { core, atom, .. } => common(&[core, atom]),
            Self::Software(_) => SoftwarePmu::SUPPORTED,
        }
    }

    /// The driver for one vCPU, whose TSC ticks at `tsc`.
    #[must_use]
    pub fn driver(
        &self,
        vcpu: VcpuId,
        tsc: Khz,
        signal: OverflowSignal,
    ) -> Box<dyn HostPmu + Send> {
        match self {
            Self::Software(_) => Box::new(SoftwarePmu::new(tsc)),
            Self::Sum(sources) => {
                let parts = sources.iter().map(|source| source.driver(signal));
                Box::new(SumPmu::new(parts.collect()))
            }
            Self::Hardware(source) => Box::new(source.driver(signal)),
            Self::Hybrid { core, atom, types } => Box::new(match types.of(vcpu) {
                CoreType::Core => core.driver(signal),
                CoreType::Atom => atom.driver(signal),
            }),
        }
    }

    /// Where a vCPU has to stay to be counted; `None`: it is counted on every
    /// CPU of the host.
    #[must_use]
    pub fn home(&self, vcpu: VcpuId, online: &CpuSet) -> Option<Home> {
        let cpus = match self {
            Self::Software(_) => None,
            Self::Hardware(source) => source.cpus.clone(),
            Self::Sum(sources) => covered(sources),
            Self::Hybrid { core, atom, types } => match types.of(vcpu) {
                CoreType::Core => core.cpus.clone(),
                CoreType::Atom => atom.cpus.clone(),
            },
        }?;
        (!online.is_subset(&cpus)).then(|| Home {
            pmu: self.name_for(vcpu),
            cpus,
        })
    }

    /// The PMU of one vCPU, by name.
    fn name_for(&self, vcpu: VcpuId) -> String {
        match self {
            Self::Hybrid { core, atom, types } => match types.of(vcpu) {
                CoreType::Core => core.name.clone(),
                CoreType::Atom => atom.name.clone(),
            },
            Self::Hardware(_) | Self::Sum(_) | Self::Software(_) => self.name(),
        }
    }

    /// What it is, in a word: names of host PMUs, or `clock`.
    #[must_use]
    pub fn name(&self) -> String {
        let names: Vec<_> = match self {
            Self::Hardware(source) => vec![source.name.as_str()],
            Self::Sum(sources) => sources.iter().map(|source| source.name.as_str()).collect(),
            Self::Hybrid { core, atom, .. } => vec![&core.name, &atom.name],
            Self::Software(_) => vec!["clock"],
        };
        names.join("+")
    }

    /// The type of a vCPU, in a hybrid guest.
    #[must_use]
    pub fn core_type(&self, vcpu: VcpuId) -> Option<CoreType> {
        self.core_types().map(|types| types.of(vcpu))
    }

    /// The types of vCPUs, in a hybrid guest.
    #[must_use]
    pub const fn core_types(&self) -> Option<&CoreTypes> {
        match self {
            Self::Hybrid { types, .. } => Some(types),
            Self::Hardware(_) | Self::Sum(_) | Self::Software(_) => None,
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |source: &HostSource| match &source.cpus {
            Some(cpus) => format!("{} on host CPUs {cpus}", source.name),
            None => source.name.clone(),
        };
        match self {
            Self::Hardware(source) => write!(f, "host PMU {}", on(source)),
            Self::Sum(sources) => {
                let parts: Vec<_> = sources.iter().map(on).collect();
                write!(f, "host PMUs {}, added up", parts.join(" and "))
            }
            Self::Hybrid { core, atom, .. } => write!(
                f,
                "host PMUs {} for core vCPUs and {} for atom vCPUs",
                on(core),
                on(atom)
            ),
            Self::Software(reason) => write!(
                f,
                "clock-derived ({reason}): cycles and ref-cycles from guest time, user and kernel \
                 filters sampled"
            ),
        }
    }
}
