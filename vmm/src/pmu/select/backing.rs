//! The backing of the guest's counters: host PMUs or the clock.

use std::fmt;

use vpmu::guest::CoreType;
use vpmu::host::HostPmu;
use vpmu::host::held::Held;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::host::linux::{EventSource, LinuxPmu, OverflowSignal};
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::host::sum::SumPmu;
use vpmu::ids::VcpuId;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::standard::StandardSet;

use crate::config::CoreTypes;
use crate::vcpu::RequiredCpus;

use super::Counted;

/// A host PMU that counts for guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSource {
    /// Its name in sysfs.
    pub name: String,
    /// How its events are opened.
    pub source: EventSource,
    /// The events that it was found to count.
    pub counted: Counted,
    /// The CPUs that it counts on; `None`: on all.
    pub cpus: Option<CpuSet>,
}

impl HostSource {
    fn driver(&self, signal: OverflowSignal) -> Held<LinuxPmu> {
        Held::new(LinuxPmu::new(self.source, self.counted.events, signal))
    }
}

/// What backs the guest's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PmuBacking {
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
    /// A VM of another program has the host's core PMU, by the mediated vPMU of this KVM
    /// module.
    Mediated(&'static str),
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
            Self::Mediated(module) => {
                return write!(
                    f,
                    "a VM of another program has the host's core PMU by KVM's mediated vPMU; \
                     load {module} with enable_mediated_pmu=0 to count with the PMU"
                );
            }
        })
    }
}

impl PmuBacking {
    /// Its host PMUs; none if it is a clock.
    fn sources(&self) -> Vec<&HostSource> {
        match self {
            Self::Hardware(source) => vec![source],
            Self::Sum(sources) => sources.iter().collect(),
            Self::Hybrid { core, atom, .. } => vec![core, atom],
            Self::Software(_) => Vec::new(),
        }
    }

    /// Those of them that count for this vCPU.
    fn sources_of(&self, vcpu: VcpuId) -> Vec<&HostSource> {
        match self {
            Self::Hybrid { core, atom, types } => vec![match types.of(vcpu) {
                CoreType::Core => core,
                CoreType::Atom => atom,
            }],
            Self::Hardware(_) | Self::Sum(_) | Self::Software(_) => self.sources(),
        }
    }

    /// Whether guest time stands for cycles.
    #[must_use]
    pub const fn is_clock(&self) -> bool {
        matches!(self, Self::Software(_))
    }

    /// The events that guests of this backing can count, on every vCPU.
    #[must_use]
    pub fn events(&self) -> ArchEventSet {
        if self.is_clock() {
            return SoftwarePmu::SUPPORTED;
        }
        let sources = self.sources();
        let in_all = |event: &_| sources.iter().all(|s| s.counted.events.contains(*event));
        ArchEvent::ALL.into_iter().filter(in_all).collect()
    }

    /// The standard events that guests of this backing can count by their names, on
    /// every vCPU.
    #[must_use]
    pub fn standard(&self) -> StandardSet {
        let sets = self.sources().into_iter().map(|s| s.counted.standard);
        sets.reduce(StandardSet::and).unwrap_or_default()
    }

    /// The others that it counts by their AMD codes. Of a sum, each part has codes of
    /// its own.
    #[must_use]
    pub const fn standard_by_code(&self) -> StandardSet {
        match self {
            Self::Hardware(source) => source.counted.by_code,
            _ => StandardSet::EMPTY,
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
        match self.sources_of(vcpu).as_slice() {
            [] => Box::new(SoftwarePmu::new(tsc)),
            [source] => Box::new(source.driver(signal)),
            sources => {
                let parts = sources.iter().map(|source| source.driver(signal));
                Box::new(SumPmu::new(parts.collect()))
            }
        }
    }

    /// The CPUs on which a vCPU must stay to be counted; `None`: it is counted on
    /// every CPU of the host.
    #[must_use]
    pub fn required_cpus(&self, vcpu: VcpuId, online: &CpuSet) -> Option<RequiredCpus> {
        let sources = self.sources_of(vcpu);
        let cpus = covered(&sources)?;
        (!online.is_subset(&cpus)).then(|| RequiredCpus {
            pmu: joined(&sources),
            cpus,
        })
    }

    /// What it is, in a word: names of host PMUs, or `clock`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.is_clock() {
            return "clock".to_owned();
        }
        joined(&self.sources())
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

fn joined(sources: &[&HostSource]) -> String {
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    names.join("+")
}

/// The union of the CPUs of sources; `None` if one counts on all.
fn covered(sources: &[&HostSource]) -> Option<CpuSet> {
    sources
        .iter()
        .map(|source| source.cpus.clone())
        .reduce(|a, b| Some(a?.union(&b?)))
        .flatten()
}

impl fmt::Display for PmuBacking {
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
