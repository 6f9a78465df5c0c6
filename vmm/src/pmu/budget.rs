//! The number of counters that the guest sees. Without an explicit number, and
//! always with `policy=pinned`, it is at most the number that the host has.

use vpmu::Policy;
use vpmu::guest::{ModelKind, Shape};
use vpmu::host::linux::EventSource;
use vpmu::host::linux::sysfs::CpuSet;
use vpmu::ids::HostCpu;
use vpmu::x86::event::ArchEvent;

use super::select::{CountersError, HostCpus, HostSource, PmuBacking, free_counters};
use crate::config::PmuConfig;

/// The reason why `policy=pinned` cannot guarantee the guest's counters.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The host has too few.
    #[error(
        "policy=pinned: model={model} with gp={gp},fixed={fixed} needs {} guaranteed host counters, but the host has {host} free; use numbers with a sum of at most {host}, or policy=flexible",
        u16::from(*.gp) + u16::from(*.fixed)
    )]
    TooFew {
        /// The guest's PMU.
        model: ModelKind,
        /// The number of general-purpose counters of the guest.
        gp: u8,
        /// The number of fixed counters of the guest.
        fixed: u8,
        /// The number of free counters of the host.
        host: u8,
    },
    /// The free counters of the host could not be counted; the field has the reason.
    #[error("policy=pinned: the host's free counters cannot be counted ({0}); use policy=flexible")]
    Unknown(String),
}

/// The counters that the host was found to have, on each CPU that it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// The number of counters for events that no fixed counter counts.
    general: u8,
    /// Whether events that have a fixed counter do not need those.
    fixed: bool,
}

impl Budget {
    /// Tries on every CPU that vCPUs may use, for pinned counters; on one of each
    /// kind for flexible ones. `None` for a clock, which has no limit, and for a
    /// hybrid guest, whose numbers go with its CPU model.
    ///
    /// # Errors
    /// [`BudgetError::Unknown`] for pinned counters alone.
    pub(super) fn find(
        backing: &PmuBacking,
        policy: Policy,
        host: &HostCpus,
    ) -> Result<Option<Self>, BudgetError> {
        let sources = match backing {
            PmuBacking::Hardware(source) => std::slice::from_ref(source),
            PmuBacking::Sum(sources) => &sources[..],
            PmuBacking::Hybrid { .. } | PmuBacking::Software(_) => return Ok(None),
        };
        let found = sources.iter().map(|s| Self::of(s, policy, host));
        let least = found.reduce(|a, b| Ok(a?.and(b?)));
        match (least.transpose(), policy) {
            (Ok(budget), _) => Ok(budget),
            (Err(error), Policy::Pinned) => Err(BudgetError::Unknown(error.to_string())),
            (Err(error), Policy::Flexible) => {
                log::warn!("pmu: the host's free counters cannot be found: {error}");
                Ok(None)
            }
        }
    }

    fn of(source: &HostSource, policy: Policy, host: &HostCpus) -> Result<Self, CountersError> {
        let counts_on = |cpu: &HostCpu| source.cpus.as_ref().is_none_or(|cpus| cpus.contains(*cpu));
        let usable = host.online.iter().filter(|cpu| host.allowed.contains(*cpu));
        let cpus = usable.filter(counts_on);
        let cpus: CpuSet = match policy {
            Policy::Pinned => cpus.collect(),
            Policy::Flexible => cpus.take(1).collect(),
        };
        // What every PMU has and no fixed counter counts, else the next best.
        let plain = [
            ArchEvent::Branches,
            ArchEvent::LlcMisses,
            ArchEvent::BranchMisses,
        ];
        let plain = plain
            .into_iter()
            .find(|e| source.counted.events.contains(*e));
        let count = |event| find_on(source.source, event, &cpus);
        let all = count(ArchEvent::Instructions)?;
        let general = plain.map_or(Ok(all), count)?;
        Ok(Self {
            general,
            fixed: all > general,
        })
    }

    fn and(self, other: Self) -> Self {
        Self {
            general: self.general.min(other.general),
            fixed: self.fixed && other.fixed,
        }
    }

    /// The numbers of a guest PMU on this host: `shape`, less what nobody asked
    /// for and the host does not have.
    ///
    /// # Errors
    /// [`BudgetError::TooFew`] for pinned counters that are not there.
    pub(super) fn shape(
        &self,
        asked: &PmuConfig,
        kind: ModelKind,
        mut shape: Shape,
    ) -> Result<Shape, BudgetError> {
        let limits = kind.limits();
        if asked.policy == Policy::Pinned && asked.fixed.is_none() && !self.fixed {
            // Each needs one of the general ones.
            let left = self.general.saturating_sub(*limits.gp.start());
            shape.fixed = shape.fixed.min(left).max(*limits.fixed.start());
        }
        let taken = match asked.policy {
            Policy::Pinned if !self.fixed => shape.fixed,
            _ => 0,
        };
        if asked.gp.is_none() {
            let left = self.general.saturating_sub(taken);
            shape.gp = shape.gp.min(left).max(*limits.gp.start());
        }
        if asked.policy == Policy::Pinned && shape.gp + taken > self.general {
            return Err(BudgetError::TooFew {
                model: kind,
                gp: shape.gp,
                fixed: shape.fixed,
                host: self.general,
            });
        }
        Ok(shape)
    }
}

fn find_on(source: EventSource, event: ArchEvent, cpus: &CpuSet) -> Result<u8, CountersError> {
    let found = free_counters(source, event, cpus)?;
    Ok(u8::try_from(found).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PmuArg;
    use vpmu::guest::{AmdVersion, ArchVersion};

    const V2: ModelKind = ModelKind::Intel(ArchVersion::V2);
    const AMD_V2: ModelKind = ModelKind::Amd(AmdVersion::V2);
    const AMD_CORE: ModelKind = ModelKind::Amd(AmdVersion::Core);

    fn numbers(budget: Budget, text: &str, kind: ModelKind) -> Result<(u8, u8), BudgetError> {
        let PmuArg::On(asked) = PmuArg::parse(text).unwrap() else {
            panic!("it is on");
        };
        let shape = asked.shape(kind);
        budget.shape(&asked, kind, shape).map(|s| (s.gp, s.fixed))
    }

    #[test]
    fn a_guest_is_told_of_what_the_host_has() {
        let intel = |general| Budget {
            general,
            fixed: true,
        };
        let amd = |general| Budget {
            general,
            fixed: false,
        };
        for (budget, policy, kind, expected) in [
            (intel(8), "flexible", V2, (4, 3)),
            (intel(3), "flexible", V2, (3, 3)),
            (intel(1), "flexible", V2, (2, 3)),
            (intel(3), "pinned", V2, (3, 3)),
            (amd(6), "flexible", AMD_V2, (6, 0)),
            (amd(4), "flexible", AMD_V2, (4, 0)),
            (amd(4), "pinned", AMD_V2, (4, 0)),
            (amd(4), "flexible", AMD_CORE, (6, 0)),
            (amd(4), "pinned", V2, (2, 2)),
            (amd(6), "pinned", V2, (3, 3)),
        ] {
            let text = format!("type=auto,policy={policy}");
            let found = numbers(budget, &text, kind).unwrap();
            assert_eq!(found, expected, "{budget:?} {policy} {kind}");
        }
    }

    #[test]
    fn pinned_counters_that_are_not_there_are_refused() {
        let budget = Budget {
            general: 4,
            fixed: false,
        };
        for (text, kind) in [
            ("type=auto,policy=pinned", AMD_CORE),
            ("type=auto,policy=pinned,gp=4,fixed=1", V2),
            ("type=auto,policy=pinned,gp=6", AMD_V2),
        ] {
            let message = numbers(budget, text, kind).unwrap_err().to_string();
            assert!(message.contains("the host has 4 free"), "{message}");
            assert!(message.contains("policy=flexible"), "{message}");
        }
        let asked = numbers(budget, "type=auto,gp=8", V2).unwrap();
        assert_eq!(asked, (8, 3), "flexible ones take turns");
    }
}
