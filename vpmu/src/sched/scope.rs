//! ScopeTopology, scopes and designated CPUs (R-240…R-243).

use alloc::collections::BTreeSet;

use super::Scheduler;
use super::driver::PmuDriver;
use super::ids::PmuId;
use crate::ids::VcpuId;

/// Which CPUs share one instance of a PMU. Linux: `enum perf_pmu_scope`.
///
/// # Examples
/// ```
/// use vpmu::ids::VcpuId;
/// use vpmu::sched::{Scope, ScopeTopology};
///
/// let machine = ScopeTopology { packages: 2, ..ScopeTopology::flat(2) };
/// let package: Vec<_> = machine.peers(Scope::Package, VcpuId(3)).collect();
/// assert_eq!(package, [VcpuId(2), VcpuId(3)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// None: every CPU has its own, or the driver looks after it.
    None,
    /// A core's threads.
    Core,
    /// A die.
    Die,
    /// Cores that share a mid-level cache.
    Cluster,
    /// A package.
    Package,
    /// The whole machine.
    System,
}

/// The five scopes that have designated CPUs.
pub const SCOPES: [Scope; 5] = [
    Scope::Core,
    Scope::Die,
    Scope::Cluster,
    Scope::Package,
    Scope::System,
];

/// What becomes of events of PMUs with a scope (R-247).
///
/// # Examples
/// ```
/// use vpmu::sched::{Config, ScopePolicy, ScopeTopology};
///
/// let config = Config::new(ScopeTopology::flat(2));
/// assert_eq!(config.scope_policy, ScopePolicy::Designated);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScopePolicy {
    /// As released Linux 6.12: an event stays on the CPU that was asked for,
    /// is lost when that CPU goes and is not the designated one (R-249), and a
    /// migrated event that was disabled comes back enabled (R-257).
    Linux612,
    /// Every event is bound to the designated CPU, all of them migrate, and a
    /// disabled event stays disabled: nothing is lost.
    #[default]
    Designated,
}

/// How CPUs make up cores, clusters, dies and packages. CPUs are numbered
/// threads first.
///
/// # Examples
/// ```
/// use vpmu::ids::VcpuId;
/// use vpmu::sched::{Scope, ScopeTopology};
///
/// let machine = ScopeTopology { threads: 2, ..ScopeTopology::flat(4) };
/// assert_eq!(machine.count(), 8);
/// let core: Vec<_> = machine.peers(Scope::Core, VcpuId(1)).collect();
/// assert!(core.contains(&VcpuId(0)) && !core.contains(&VcpuId(2)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeTopology {
    /// Packages.
    pub packages: u16,
    /// Dies in a package.
    pub dies: u16,
    /// Cores in a die.
    pub cores: u16,
    /// Threads in a core.
    pub threads: u16,
    /// Cores in a cluster.
    pub cluster: u16,
}

impl ScopeTopology {
    /// One package of `n` cores with one thread each.
    #[must_use]
    pub const fn flat(n: u16) -> Self {
        Self {
            packages: 1,
            dies: 1,
            cores: n,
            threads: 1,
            cluster: 1,
        }
    }

    /// How many CPUs there are.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.packages
            .saturating_mul(self.dies)
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
    }

    /// All CPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..self.count()).map(VcpuId)
    }

    /// The CPUs that share an instance of `scope` with `vcpu`, online or not (R-241).
    pub fn peers(&self, scope: Scope, vcpu: VcpuId) -> impl Iterator<Item = VcpuId> + use<> {
        let size = match scope {
            Scope::None => 1,
            Scope::Core => self.threads,
            Scope::Cluster => self.threads.saturating_mul(self.cluster),
            Scope::Die => self.threads.saturating_mul(self.cores),
            Scope::Package => self
                .threads
                .saturating_mul(self.cores)
                .saturating_mul(self.dies),
            Scope::System => self.count(),
        }
        .max(1);
        let first = vcpu.0 / size * size;
        (first..first.saturating_add(size)).map(VcpuId)
    }
}

/// The designated CPUs of each scope.
#[derive(Debug, Default)]
pub(crate) struct ScopeMasks {
    masks: [BTreeSet<VcpuId>; 5],
    /// Linux: `perf_online_mask`.
    online: BTreeSet<VcpuId>,
}

impl ScopeMasks {
    fn index(scope: Scope) -> Option<usize> {
        SCOPES.iter().position(|s| *s == scope)
    }

    pub(crate) fn mask(&self, scope: Scope) -> Option<&BTreeSet<VcpuId>> {
        Self::index(scope).map(|i| &self.masks[i])
    }

    /// R-242. Linux: `perf_event_setup_cpumask`.
    pub(crate) fn online(
        &mut self,
        topology: &ScopeTopology,
        vcpu: VcpuId,
        up: impl Fn(VcpuId) -> bool,
    ) {
        let first = self.online.is_empty();
        for (scope, mask) in SCOPES.iter().zip(&mut self.masks) {
            let mut peers = topology.peers(*scope, vcpu).filter(|c| up(*c)).peekable();
            if first || (peers.peek().is_some() && !peers.any(|c| mask.contains(&c))) {
                mask.insert(vcpu);
            }
        }
        self.online.insert(vcpu);
    }

    /// R-243: for each scope, the CPU that takes over, if `vcpu` was
    /// designated and has a peer. Linux: `perf_event_clear_cpumask`.
    pub(crate) fn offline(
        &mut self,
        topology: &ScopeTopology,
        vcpu: VcpuId,
        up: impl Fn(VcpuId) -> bool,
    ) -> [Option<VcpuId>; 5] {
        let mut targets = [None; 5];
        self.online.remove(&vcpu);
        for (at, scope) in SCOPES.iter().enumerate() {
            if !self.masks[at].remove(&vcpu) {
                continue;
            }
            let target = topology.peers(*scope, vcpu).find(|c| *c != vcpu && up(*c));
            if let Some(t) = target {
                self.masks[at].insert(t);
            }
            targets[at] = target;
        }
        targets
    }
}

/// The place of a scope in the result of [`ScopeMasks::offline`].
pub(crate) fn target_of(scope: Scope, targets: &[Option<VcpuId>; 5]) -> Option<VcpuId> {
    targets[ScopeMasks::index(scope)?]
}

impl<D: PmuDriver> Scheduler<D> {
    /// The designated CPU for `vcpu`'s instance of a scope; none while `vcpu`
    /// is offline, as it has no peers then (R-245).
    #[must_use]
    pub fn designated(&self, scope: Scope, vcpu: VcpuId) -> Option<VcpuId> {
        let mask = self.masks.mask(scope).filter(|_| self.is_up(vcpu))?;
        let mut peers = self.config.topology.peers(scope, vcpu);
        peers.find(|c| self.is_up(*c) && mask.contains(c))
    }

    /// The CPUs that a PMU with a scope shows in its `cpumask`, ascending; none
    /// without a scope (R-240). Linux: `cpumask_show`.
    #[must_use]
    pub fn cpumask(&self, pmu: PmuId) -> Option<impl Iterator<Item = VcpuId> + '_> {
        let scope = self.pmus.get(pmu.index())?.scope;
        Some(self.masks.mask(scope)?.iter().copied())
    }
}
