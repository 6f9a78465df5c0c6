//! An uncore PMU of the host, as sysfs shows it.

use std::sync::Arc;

use crate::host::linux::PerfOpenError;
use crate::host::linux::sysfs::{CpuSet, PmuDetails, Sysfs, SysfsError};
use crate::host::{EnergyDomain, UncoreEvent};
use crate::ids::HostCpu;

use super::follow::HostEvents;

/// The reason why an uncore PMU of the host cannot back a guest's.
///
/// # Examples
/// ```
/// use std::path::Path;
/// use vpmu::host::linux::sysfs::Sysfs;
/// use vpmu::host::linux::uncore::{UncoreSource, UncoreSourceError};
///
/// let no_pmus = Sysfs::at(Path::new("/nonexistent"));
/// let error = UncoreSource::find(&no_pmus, "power").unwrap_err();
/// assert!(matches!(error, UncoreSourceError::Absent(name) if name == "power"));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum UncoreSourceError {
    /// sysfs does not list it.
    #[error("the host has no PMU {0}")]
    Absent(String),
    /// Its `cpumask` is empty: no CPU reads an instance.
    #[error("the host's PMU {0} has an empty cpumask, so no CPU can read it")]
    NoCpu(String),
    /// It has no event that a guest's driver reads.
    #[error("the host's PMU {0} has no event energy-pkg in Joules")]
    NoEnergy(String),
    /// Events of CPUs are not permitted.
    #[error("this process may not count on whole CPUs")]
    NotPermitted(#[source] PerfOpenError),
    /// The host refuses to open its event.
    #[error("the host's PMU {name} refuses its event")]
    Refused {
        /// Its name.
        name: String,
        /// The host's error.
        source: PerfOpenError,
    },
    /// sysfs cannot be read.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
}

/// One instance of an uncore PMU of the host.
#[derive(Clone, Debug)]
pub struct UncorePlace {
    source: Arc<UncoreSource>,
    n: usize,
}

impl UncorePlace {
    /// Of which PMU.
    #[must_use]
    pub fn source(&self) -> &UncoreSource {
        &self.source
    }

    /// Who shares it.
    #[must_use]
    pub fn cpus(&self) -> &CpuSet {
        let (_, cpus) = &self.source.instances[self.n];
        cpus
    }

    /// Who stood for it when it was found.
    #[must_use]
    pub fn designated(&self) -> HostCpu {
        let (cpu, _) = &self.source.instances[self.n];
        *cpu
    }
}

/// An uncore PMU of the host.
///
/// # Examples
/// ```
/// use std::path::Path;
///
/// use vpmu::host::linux::sysfs::Sysfs;
/// use vpmu::host::linux::uncore::UncoreSource;
///
/// let host = Sysfs::at(Path::new("/nonexistent"));
/// assert!(UncoreSource::find(&host, "power").is_err());
/// ```
#[derive(Clone, Debug)]
pub struct UncoreSource {
    events: HostEvents,
    details: PmuDetails,
    instances: Vec<(HostCpu, CpuSet)>,
}

impl UncoreSource {
    /// The PMU of this name.
    ///
    /// # Errors
    /// [`UncoreSourceError`] if there is none, or nobody stands for its instances.
    pub fn find(sysfs: &Sysfs, name: &str) -> Result<Self, UncoreSourceError> {
        let absent = || UncoreSourceError::Absent(name.to_owned());
        let pmu = sysfs.pmu(name)?.ok_or_else(absent)?;
        let instances = sysfs.instances(&pmu)?;
        if instances.is_empty() {
            return Err(UncoreSourceError::NoCpu(name.to_owned()));
        }
        Ok(Self {
            details: sysfs.details(&pmu),
            events: HostEvents {
                sysfs: sysfs.clone(),
                name: pmu.name,
                kind: pmu.kind,
            },
            instances,
        })
    }

    /// Its name in sysfs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.events.name
    }

    /// Its instances: the CPU that stands for each, and who shares it.
    #[must_use]
    pub fn instances(&self) -> &[(HostCpu, CpuSet)] {
        &self.instances
    }

    /// The domains of energy that it counts.
    pub fn energy_domains(&self) -> impl Iterator<Item = EnergyDomain> + '_ {
        let counts = |domain: &EnergyDomain| self.encode(&UncoreEvent::Energy(*domain)).is_some();
        EnergyDomain::ALL.into_iter().filter(counts)
    }

    /// Tries whether this process may count on a CPU, with an event of this PMU
    /// that a guest may ask for. One that has no events by name is not tried.
    ///
    /// # Errors
    /// [`UncoreSourceError::NotPermitted`], [`UncoreSourceError::Refused`].
    pub fn probe(&self, event: &UncoreEvent) -> Result<(), UncoreSourceError> {
        super::probe(self, event).map_err(|source| {
            if source.is_permission() {
                UncoreSourceError::NotPermitted(source)
            } else {
                UncoreSourceError::Refused {
                    name: self.name().to_owned(),
                    source,
                }
            }
        })
    }

    /// The same, one by one.
    pub fn places(self) -> impl Iterator<Item = UncorePlace> {
        let source = Arc::new(self);
        (0..source.instances.len()).map(move |n| UncorePlace {
            source: Arc::clone(&source),
            n,
        })
    }

    pub(super) const fn details(&self) -> &PmuDetails {
        &self.details
    }

    pub(super) const fn host_events(&self) -> &HostEvents {
        &self.events
    }
}
