//! `--pmu type=…` → what backs the guest's counters.

use std::collections::BTreeSet;

use vpmu::host::HostPmu;
use vpmu::host::linux::sysfs::{PmuDevice, Sysfs, SysfsError};
use vpmu::host::linux::{EventSource, LinuxPmu, OpenError, OverflowSignal};
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::x86::event::{ArchEvent, ArchEventSet};

use crate::config::PmuKind;

/// The name of the core PMU on a host whose CPUs are all alike.
const CORE_PMU: &str = "cpu";

/// What backs the guest's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Hardware counters of the host.
    Hardware {
        /// The PMU's name in sysfs.
        name: String,
        /// How its events are opened.
        source: EventSource,
        /// The events that it was found to count.
        events: ArchEventSet,
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
    /// The host has several core PMUs, one for each kind of its CPUs.
    Hybrid,
    /// The host has a core PMU that counts nothing in guests.
    CountsNothing,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked => "asked for",
            Self::NoHostPmu => "the host has no core PMU",
            Self::Hybrid => "the host is hybrid, and vCPUs are not bound to one kind of its CPUs",
            Self::CountsNothing => "the host's core PMU counts nothing in guests",
        })
    }
}

/// Why no backing was chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No such PMU.
    #[error("--pmu type={asked}: no such host PMU; this host has {}; or type=auto, type=software", list(.present))]
    Unknown {
        /// What was asked for.
        asked: String,
        /// The host's PMUs.
        present: Vec<String>,
    },
    /// It does not count on every host CPU.
    #[error(
        "--pmu type={name}: this PMU counts on some of the host's CPUs only, and vCPUs roam; use type=auto or type=software"
    )]
    PartOfTheHost {
        /// The PMU.
        name: String,
    },
    /// It counts none of the architectural events in a guest.
    #[error(
        "--pmu type={name}: this PMU counts no architectural event of a guest; use type=auto or type=software"
    )]
    CountsNothing {
        /// The PMU.
        name: String,
        /// What the host said to cycles.
        source: OpenError,
    },
    /// The user may not count.
    #[error(
        "--pmu type={asked}: perf_event_open is not permitted; run as root or with CAP_PERFMON, or set /proc/sys/kernel/perf_event_paranoid to 1 or less, or use type=software"
    )]
    NotPermitted {
        /// What was asked for.
        asked: String,
        /// What the host said.
        source: OpenError,
    },
    /// The list of PMUs could not be had.
    #[error("cannot list the host's PMUs")]
    Sysfs(#[from] SysfsError),
}

impl SelectError {
    /// Whether another value of the flag would do, as opposed to another host.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. } | Self::PartOfTheHost { .. } | Self::CountsNothing { .. }
        )
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The events that a source counts, or what it said to cycles if none.
///
/// # Errors
/// What the host says to cycles, if it counts nothing at all.
pub fn probe(source: EventSource) -> Result<ArchEventSet, OpenError> {
    let cycles = source.probe(ArchEvent::Cycles);
    let counted = |event: &ArchEvent| match event {
        ArchEvent::Cycles => cycles.is_ok(),
        event => source.probe(*event).is_ok(),
    };
    let events: ArchEventSet = ArchEvent::ALL.into_iter().filter(counted).collect();
    match cycles {
        Err(error) if events == ArchEventSet::EMPTY => Err(error),
        _ => Ok(events),
    }
}

/// Chooses the backing on the host whose sysfs this is.
///
/// # Errors
/// [`SelectError`]; nothing is open then.
pub fn select(kind: &PmuKind, sysfs: &Sysfs) -> Result<Backing, SelectError> {
    let device = match kind {
        PmuKind::Software => return Ok(Backing::Software(Reason::Asked)),
        PmuKind::Auto => return select_auto(sysfs),
        PmuKind::Named(name) => find(sysfs, name, |pmu| pmu.name == *name)?,
        PmuKind::Number(number) => find(sysfs, &number.to_string(), |pmu| pmu.kind.0 == *number)?,
    };
    let online: BTreeSet<_> = sysfs.online_cpus()?.into_iter().collect();
    if device
        .cpus
        .as_ref()
        .is_some_and(|cpus| !online.iter().all(|cpu| cpus.contains(cpu)))
    {
        return Err(SelectError::PartOfTheHost { name: device.name });
    }
    let source = if device.name == CORE_PMU {
        EventSource::Hardware
    } else {
        EventSource::Pmu(device.kind)
    };
    match probe(source) {
        Ok(events) => Ok(Backing::Hardware {
            name: device.name,
            source,
            events,
        }),
        Err(source) if source.is_permission() => Err(SelectError::NotPermitted {
            asked: device.name,
            source,
        }),
        Err(source) => Err(SelectError::CountsNothing {
            name: device.name,
            source,
        }),
    }
}

fn select_auto(sysfs: &Sysfs) -> Result<Backing, SelectError> {
    let pmus = sysfs.pmus()?;
    if pmus
        .iter()
        .any(|pmu| matches!(pmu.name.as_str(), "cpu_core" | "cpu_atom"))
    {
        return Ok(Backing::Software(Reason::Hybrid));
    }
    if !pmus.iter().any(|pmu| pmu.name == CORE_PMU) {
        return Ok(Backing::Software(Reason::NoHostPmu));
    }
    match probe(EventSource::Hardware) {
        Ok(events) => Ok(Backing::Hardware {
            name: CORE_PMU.to_owned(),
            source: EventSource::Hardware,
            events,
        }),
        Err(source) if source.is_permission() => Err(SelectError::NotPermitted {
            asked: "auto".to_owned(),
            source,
        }),
        Err(_unsupported) => Ok(Backing::Software(Reason::CountsNothing)),
    }
}

fn find(
    sysfs: &Sysfs,
    asked: &str,
    matches: impl Fn(&PmuDevice) -> bool,
) -> Result<PmuDevice, SelectError> {
    let pmus = sysfs.pmus()?;
    match pmus.iter().find(|pmu| matches(pmu)) {
        Some(pmu) => Ok(pmu.clone()),
        None => Err(SelectError::Unknown {
            asked: asked.to_owned(),
            present: pmus.into_iter().map(|pmu| pmu.name).collect(),
        }),
    }
}

impl Backing {
    /// The events that guests of this backing can count.
    #[must_use]
    pub const fn events(&self) -> ArchEventSet {
        match self {
            Self::Hardware { events, .. } => *events,
            Self::Software(_) => SoftwarePmu::SUPPORTED,
        }
    }

    /// The driver for one vCPU, whose TSC ticks at `tsc`.
    #[must_use]
    pub fn driver(&self, tsc: Khz, signal: OverflowSignal) -> Box<dyn HostPmu + Send> {
        match self {
            Self::Hardware { source, events, .. } => {
                Box::new(LinuxPmu::new(*source, *events, signal))
            }
            Self::Software(_) => Box::new(SoftwarePmu::new(tsc)),
        }
    }
}

impl std::fmt::Display for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hardware { name, .. } => write!(f, "host PMU {name}"),
            Self::Software(reason) => write!(
                f,
                "clock-derived ({reason}): cycles and ref-cycles from guest time, user and kernel \
                 filters sampled"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, pmus: &[(&str, &str, &str)]) -> Sysfs {
        let root = std::env::temp_dir().join(format!("perfvisor-{name}-{}", std::process::id()));
        let cpu = root.join("devices/system/cpu");
        std::fs::create_dir_all(&cpu).unwrap();
        std::fs::write(cpu.join("online"), "0-3\n").unwrap();
        for (pmu, number, cpus) in pmus {
            let device = root.join("bus/event_source/devices").join(pmu);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("type"), number).unwrap();
            if !cpus.is_empty() {
                std::fs::write(device.join("cpus"), cpus).unwrap();
            }
        }
        Sysfs::at(&root)
    }

    #[test]
    fn a_host_without_a_core_pmu_is_backed_by_a_clock() {
        let sysfs = tree("none", &[("software", "1", ""), ("msr", "7", "")]);
        let chosen = select(&PmuKind::Auto, &sysfs).unwrap();
        assert_eq!(chosen, Backing::Software(Reason::NoHostPmu));
        assert_eq!(chosen.events().unavailable_mask(), 0x7e, "G-101");
    }

    #[test]
    fn a_hybrid_host_is_never_counted_in_part() {
        let sysfs = tree(
            "hybrid",
            &[("cpu_core", "4", "0-1"), ("cpu_atom", "10", "2-3")],
        );
        assert_eq!(
            select(&PmuKind::Auto, &sysfs).unwrap(),
            Backing::Software(Reason::Hybrid)
        );
        let error = select(&PmuKind::Named("cpu_core".into()), &sysfs).unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains("cpu_core"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_pmu_is_refused_with_the_ones_there_are() {
        let sysfs = tree("unknown", &[("software", "1", ""), ("msr", "7", "")]);
        for kind in [PmuKind::Named("cpu_big".into()), PmuKind::Number(99)] {
            let error = select(&kind, &sysfs).unwrap_err();
            assert!(error.is_usage());
            assert!(
                error.to_string().contains("this host has msr, software"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_pmu_that_counts_no_guest_event_is_refused() {
        let sysfs = tree("useless", &[("nothing", "65000", "")]);
        let error = select(&PmuKind::Number(65_000), &sysfs).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("type=nothing") && text.contains("type=software"),
            "{text}"
        );
    }

    /// Needs a host whose core PMU is closed to the user; so the error alone.
    #[test]
    fn a_missing_permission_says_what_would_help_and_is_the_hosts() {
        let source = OpenError::from(std::io::Error::from_raw_os_error(libc::EACCES));
        assert!(source.is_permission());
        let error = SelectError::NotPermitted {
            asked: "auto".into(),
            source,
        };
        let text = error.to_string();
        for part in [
            "--pmu type=auto",
            "CAP_PERFMON",
            "perf_event_paranoid",
            "type=software",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!error.is_usage(), "exit status 1");
    }
}
