//! `--pmu type=…` → the backing of the guest's counters, and the host CPUs of vCPUs.
//!
//! ```text
//!  sysfs ─▶ PmuRegistry ─┐
//!  --pmu type=           ├─▶ select ─▶ PmuBacking ─▶ driver, one for each vCPU
//!  --cpus                │                │
//!  HostCpus ─────────────┴────────────────┴─▶ place ─▶ VcpuAffinity: bind, required_cpus
//! ```

mod backing;
mod counters;
mod error;
mod required_cpus;
#[cfg(test)]
mod tests;

use std::path::Path;

use vpmu::host::linux::sysfs::{PmuDevice, PmuRegistry, Sysfs};
use vpmu::host::linux::{EventSource, PerfOpenError};
use vpmu::ids::PmuType;
use vpmu::x86::event::{ArchEvent, ArchEventSet};
use vpmu::x86::standard::{StandardEvent, StandardSet};

use crate::config::{CpusConfig, PmuKind};
use crate::kvm::{Parameter, SYS_MODULE};

pub use backing::{HostSource, PmuBacking, Reason};
pub use counters::{CountersError, free_counters};
pub use error::SelectError;
pub use required_cpus::{HostCpus, place};

/// The core PMUs of a hybrid host.
const CPU_CORE: &str = "cpu_core";
const CPU_ATOM: &str = "cpu_atom";

/// The events that a source counts by their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Architectural ones.
    pub events: ArchEventSet,
    /// Standard ones.
    pub standard: StandardSet,
    /// Those of the other standard ones whose AMD code it opens: an AMD CPU's PMU opens
    /// any.
    pub by_code: StandardSet,
}

/// The events that a source counts, or what it said to cycles if none.
///
/// # Errors
/// What the host says to cycles, if it counts nothing at all.
pub fn counted_events(source: EventSource) -> Result<Counted, PerfOpenError> {
    let cycles = source.probe(ArchEvent::Cycles);
    let counted = |event: &ArchEvent| match event {
        ArchEvent::Cycles => cycles.is_ok(),
        event => source.probe(*event).is_ok(),
    };
    let events: ArchEventSet = ArchEvent::ALL.into_iter().filter(counted).collect();
    if let (Err(error), ArchEventSet::EMPTY) = (cycles, events) {
        return Err(error);
    }
    let all = StandardEvent::ALL.into_iter();
    let standard: StandardSet = all.filter(|event| source.probe(*event).is_ok()).collect();
    let has_code = |event: &StandardEvent| event.amd_codes().all(|code| source.probe(code).is_ok());
    Ok(Counted {
        events,
        standard,
        by_code: StandardSet::ALL
            .without(standard)
            .filter(has_code)
            .collect(),
    })
}

/// Chooses the backing on the host whose sysfs and CPUs these are.
///
/// # Errors
/// [`SelectError`]; nothing is open then.
pub fn select(
    kind: &PmuKind,
    cpus: &CpusConfig,
    sysfs: &Sysfs,
    host: &HostCpus,
) -> Result<PmuBacking, SelectError> {
    if *kind == PmuKind::Software {
        return Ok(PmuBacking::Software(Reason::Asked));
    }
    Selector {
        pmus: &PmuRegistry::read(sysfs)?,
        host,
        cpus,
        probe: &counted_events,
        mediated: Parameter::mediated_pmu(Path::new(SYS_MODULE)),
    }
    .select(kind)
}

/// What a choice depends on.
struct Selector<'a> {
    pmus: &'a PmuRegistry,
    host: &'a HostCpus,
    cpus: &'a CpusConfig,
    /// What the host says to a source.
    probe: &'a dyn Fn(EventSource) -> Result<Counted, PerfOpenError>,
    /// The module of KVM's mediated vPMU, which may have taken the host's PMU.
    mediated: Option<&'static str>,
}

impl Selector<'_> {
    fn select(&self, kind: &PmuKind) -> Result<PmuBacking, SelectError> {
        match kind {
            PmuKind::Software => Ok(PmuBacking::Software(Reason::Asked)),
            PmuKind::Auto => self.auto(),
            PmuKind::Core => self.one_kind("core", CPU_CORE).map(PmuBacking::Hardware),
            PmuKind::Atom => self.one_kind("atom", CPU_ATOM).map(PmuBacking::Hardware),
            PmuKind::Hybrid => self.hybrid(),
            PmuKind::Named(name) => self.found(self.pmus.by_name(name), name),
            PmuKind::Number(number) => {
                let pmu = self.pmus.by_type(PmuType(*number));
                self.found(pmu, &number.to_string())
            }
        }
    }

    fn found(&self, pmu: Option<&PmuDevice>, asked: &str) -> Result<PmuBacking, SelectError> {
        match pmu {
            Some(pmu) => self.source(pmu).map(PmuBacking::Hardware),
            None => Err(SelectError::Unknown {
                asked: asked.to_owned(),
                present: names(self.pmus.iter()),
            }),
        }
    }

    fn one_kind(&self, asked: &'static str, name: &'static str) -> Result<HostSource, SelectError> {
        match self.pmus.by_name(name) {
            Some(pmu) => self.source(pmu),
            None => Err(self.not_hybrid(asked, name)),
        }
    }

    /// Both kinds, whatever the guest's vCPUs are: a clock-derived hybrid guest
    /// would show two kinds of CPUs that count alike, so there is none.
    fn hybrid(&self) -> Result<PmuBacking, SelectError> {
        let both = |name| {
            let pmu = self.pmus.by_name(name);
            pmu.ok_or_else(|| self.not_hybrid("hybrid", "cpu_core and cpu_atom"))
        };
        let (core, atom) = (both(CPU_CORE)?, both(CPU_ATOM)?);
        Ok(PmuBacking::Hybrid {
            core: self.source(core)?,
            atom: self.source(atom)?,
            // The configuration has them whenever the kind is hybrid.
            types: self.cpus.core_types.clone().unwrap_or_default(),
        })
    }

    fn not_hybrid(&self, asked: &'static str, needed: &'static str) -> SelectError {
        SelectError::NotHybrid {
            asked,
            needed,
            cores: names(self.pmus.cores()),
        }
    }

    /// All core PMUs if they count wherever a vCPU may run, else a clock: `auto`
    /// binds no vCPU and contradicts no affinity.
    fn auto(&self) -> Result<PmuBacking, SelectError> {
        let mut sources = Vec::new();
        let mut reason = Reason::CountsNothing;
        for pmu in self.pmus.cores() {
            match self.source(pmu) {
                Ok(source) => sources.push(source),
                Err(SelectError::CountsNothing { .. }) => {}
                Err(SelectError::Mediated { module, .. }) => reason = Reason::Mediated(module),
                Err(SelectError::NotPermitted { source, .. }) => {
                    let asked = "auto".to_owned();
                    return Err(SelectError::NotPermitted { asked, source });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(match (sources.pop(), sources.is_empty()) {
            (None, _) if self.pmus.cores().next().is_none() => {
                PmuBacking::Software(Reason::NoHostPmu)
            }
            (None, _) => PmuBacking::Software(reason),
            (Some(only), true) => self.unless_partial(PmuBacking::Hardware(only)),
            (Some(last), false) => {
                sources.push(last);
                self.unless_partial(PmuBacking::Sum(sources))
            }
        })
    }

    fn unless_partial(&self, backing: PmuBacking) -> PmuBacking {
        let counts_for = |vcpu| {
            let reach = self.cpus.affinity.of(vcpu).unwrap_or(&self.host.allowed);
            let required = backing.required_cpus(vcpu, &self.host.online);
            required.is_none_or(|required| reach.is_subset(&required.cpus))
        };
        if backing.events() == ArchEventSet::EMPTY {
            PmuBacking::Software(Reason::CountsNothing)
        } else if self.cpus.possible().all(counts_for) {
            backing
        } else {
            PmuBacking::Software(Reason::PartOfTheHost)
        }
    }

    fn source(&self, pmu: &PmuDevice) -> Result<HostSource, SelectError> {
        let source = self.pmus.source(pmu);
        let name = pmu.name.clone();
        match (self.probe)(source) {
            Ok(counted) => Ok(HostSource {
                name,
                source,
                counted,
                cpus: pmu.cpus().cloned(),
            }),
            Err(source) if source.is_permission() => Err(SelectError::NotPermitted {
                asked: name,
                source,
            }),
            Err(source) => Err(match self.mediated {
                Some(module) if source.errno() == libc::EOPNOTSUPP => SelectError::Mediated {
                    name,
                    module,
                    source,
                },
                _ => SelectError::CountsNothing { name, source },
            }),
        }
    }
}

fn names<'a>(pmus: impl Iterator<Item = &'a PmuDevice>) -> Vec<String> {
    pmus.map(|pmu| pmu.name.clone()).collect()
}
