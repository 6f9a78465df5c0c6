//! Which CPUs share one instance of an uncore PMU.

use std::collections::BTreeMap;

use super::{CPUS, Coverage, CpuSet, PmuDevice, Sysfs, SysfsError, cpu_list};
use crate::ids::HostCpu;

/// A group of CPUs that share one instance of a PMU.
///
/// Linux: `enum perf_pmu_scope`.
///
/// # Examples
/// ```
/// use vpmu::host::linux::sysfs::{PmuScope, Sysfs};
///
/// let sysfs = Sysfs::default();
/// for pmu in sysfs.pmus()? {
///     if sysfs.scope(&pmu)? == Some(PmuScope::Package) {
///         println!("{} has one instance for each package", pmu.name);
///     }
/// }
/// # Ok::<(), vpmu::host::linux::sysfs::SysfsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PmuScope {
    /// The threads of a core.
    Core,
    /// Cores that share a mid-level cache.
    Cluster,
    /// A die.
    Die,
    /// A package.
    Package,
    /// The whole machine.
    System,
}

impl PmuScope {
    /// From wide to narrow.
    const ALL: [Self; 5] = [
        Self::System,
        Self::Package,
        Self::Die,
        Self::Cluster,
        Self::Core,
    ];

    /// The topology attribute that lists a CPU's own group.
    const fn list(self) -> Option<&'static str> {
        match self {
            Self::Core => Some("core_cpus_list"),
            Self::Cluster => Some("cluster_cpus_list"),
            Self::Die => Some("die_cpus_list"),
            Self::Package => Some("package_cpus_list"),
            Self::System => None,
        }
    }
}

impl Sysfs {
    /// The scope of a PMU, concluded from its `cpumask`: the widest one of
    /// whose groups each has exactly one CPU in the mask. sysfs does not name
    /// the scope; where two levels have the same groups (one package with one
    /// die) they are the same thing by two names.
    ///
    /// `None`: it has no `cpumask`, or none of these groups explains it (AMD's
    /// L3, for one).
    ///
    /// # Errors
    /// [`SysfsError`] if the CPUs that are online cannot be read.
    pub fn scope(&self, pmu: &PmuDevice) -> Result<Option<PmuScope>, SysfsError> {
        let Coverage::Designated(mask) = &pmu.coverage else {
            return Ok(None);
        };
        let online = self.online_cpus()?;
        let explains = |scope: &PmuScope| {
            let groups = self.groups(*scope, &online);
            groups.is_some_and(|groups| {
                groups.len() == mask.len()
                    && groups
                        .iter()
                        .all(|group| group.intersection(mask).len() == 1)
            })
        };
        Ok(PmuScope::ALL.into_iter().find(explains))
    }

    /// The instances of a PMU with a `cpumask`: for each CPU of the mask, those
    /// that share its instance, itself among them; ascending. Where no level of
    /// the topology explains the mask, the last-level caches may (AMD's L3);
    /// where they do not either, a CPU of the mask stands for itself alone.
    ///
    /// # Errors
    /// [`SysfsError`] if the CPUs that are online cannot be read.
    pub fn instances(&self, pmu: &PmuDevice) -> Result<Vec<(HostCpu, CpuSet)>, SysfsError> {
        let Coverage::Designated(mask) = &pmu.coverage else {
            return Ok(Vec::new());
        };
        let online = self.online_cpus()?;
        let groups = match self.scope(pmu)? {
            Some(scope) => self.groups(scope, &online).unwrap_or_default(),
            None => self.last_level_caches(&online),
        };
        let alone = |cpu| CpuSet::from_iter([cpu]);
        let group_of = |cpu| groups.iter().find(|group| group.contains(cpu)).cloned();
        let instance = |cpu| (cpu, group_of(cpu).unwrap_or_else(|| alone(cpu)));
        Ok(mask.iter().map(instance).collect())
    }

    /// Who shares a last-level cache with whom.
    fn last_level_caches(&self, online: &CpuSet) -> Vec<CpuSet> {
        let shared = |cpu: HostCpu| {
            let caches = self.0.join(CPUS).join(format!("cpu{}/cache", cpu.0));
            let last = (0..)
                .map(|n| caches.join(format!("index{n}/shared_cpu_list")))
                .take_while(|path| path.exists())
                .last()?;
            Some(cpu_list(&last).ok()?.intersection(online))
        };
        online.iter().filter_map(shared).collect()
    }

    /// The groups of a scope, online CPUs alone; `None` if the kernel does not
    /// tell.
    fn groups(&self, scope: PmuScope, online: &CpuSet) -> Option<Vec<CpuSet>> {
        let Some(list) = scope.list() else {
            return Some(vec![online.clone()]);
        };
        let mut groups = BTreeMap::<HostCpu, CpuSet>::new();
        for cpu in online.iter() {
            let topology = self.0.join(CPUS).join(format!("cpu{}/topology", cpu.0));
            let group = cpu_list(&topology.join(list)).ok()?.intersection(online);
            let first = group.iter().next()?;
            groups.insert(first, group);
        }
        Some(groups.into_values().collect())
    }
}
