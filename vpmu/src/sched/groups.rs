//! The ordered sets of groups of a context. Linux: `struct perf_event_groups`.
//!
//! One set is three trees over the same keys: all groups, those that want to
//! run and need counters, and those that want to run and are pure software.
//! A pass walks the last two, so that groups that are off cost nothing and the
//! walk over the second ends at the first refusal.

use alloc::collections::BTreeMap;
use core::ops::Bound;

use super::event::Ready;
use super::ids::{CgroupId, EventId, PmuId};
use crate::ids::VcpuId;

/// One run of a set: groups that compete by their index alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    /// The CPU they are bound to; unbound ones come first.
    pub vcpu: Option<VcpuId>,
    /// The PMU of their slice.
    pub pmu: PmuId,
    /// Their cgroup; those without come first.
    pub cgroup: Option<CgroupId>,
}

/// Order of groups in a set. Linux: `perf_event_groups_cmp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// CPU, PMU and cgroup.
    pub run: RunKey,
    /// Place in the run; later insertions are larger.
    pub index: u64,
}

/// A [`GroupKey`] as two numbers in the same order: searching compares little else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed {
    run: u64,
    index: u64,
}

/// The largest cgroup id that fits a key.
pub(crate) const MAX_CGROUP: u32 = (1 << CGROUP_BITS) - 2;
const CGROUP_BITS: u32 = 31;
const PMU_BITS: u32 = 16;

const fn pack(run: RunKey) -> u64 {
    let vcpu = match run.vcpu {
        Some(v) => v.0 as u64 + 1,
        None => 0,
    };
    let cgroup = match run.cgroup {
        Some(g) => g.0 as u64 + 1,
        None => 0,
    };
    (vcpu << PMU_BITS | run.pmu.0 as u64) << CGROUP_BITS | cgroup
}

impl From<GroupKey> for Packed {
    fn from(key: GroupKey) -> Self {
        Self {
            run: pack(key.run),
            index: key.index,
        }
    }
}

type Tree = BTreeMap<Packed, EventId>;

/// One ordered set of groups.
#[derive(Debug, Default)]
pub(crate) struct EventGroups {
    index: u64,
    all: Tree,
    hardware: Tree,
    software: Tree,
}

impl EventGroups {
    /// The index that the next insertion gets.
    pub(crate) fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(crate) fn insert(&mut self, key: GroupKey, leader: EventId) {
        self.all.insert(key.into(), leader);
    }

    pub(crate) fn remove(&mut self, key: &GroupKey) {
        self.all.remove(&Packed::from(*key));
    }

    fn tree(&self, ready: Ready) -> &Tree {
        match ready {
            Ready::Hardware => &self.hardware,
            Ready::Software => &self.software,
        }
    }

    fn tree_mut(&mut self, ready: Ready) -> &mut Tree {
        match ready {
            Ready::Hardware => &mut self.hardware,
            Ready::Software => &mut self.software,
        }
    }

    pub(crate) fn set_ready(&mut self, key: GroupKey, leader: EventId, ready: Ready) {
        self.tree_mut(ready).insert(key.into(), leader);
    }

    pub(crate) fn clear_ready(&mut self, key: &GroupKey, ready: Ready) {
        self.tree_mut(ready).remove(&Packed::from(*key));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All groups in order, of any CPU and PMU.
    pub(crate) fn iter(&self) -> impl Iterator<Item = EventId> {
        self.all.values().copied()
    }

    /// The first ready group of `run` behind `after`.
    pub(crate) fn next_ready(
        &self,
        run: RunKey,
        ready: Ready,
        after: u64,
    ) -> Option<(u64, EventId)> {
        first_in(self.tree(ready), run, after)
    }

    /// The first group of `run`, ready or not.
    pub(crate) fn first_of_run(&self, run: RunKey) -> Option<EventId> {
        first_in(&self.all, run, 0).map(|(_, e)| e)
    }

    /// The first group of the CPU and PMU, whatever its cgroup.
    pub(crate) fn first_of_cpu(&self, vcpu: Option<VcpuId>, pmu: PmuId) -> Option<EventId> {
        let run = pack(RunKey {
            vcpu,
            pmu,
            cgroup: None,
        });
        let (key, event) = self.all.range(Packed { run, index: 0 }..).next()?;
        (key.run >> CGROUP_BITS == run >> CGROUP_BITS).then_some(*event)
    }

    /// Sizes of the trees: all, ready hardware, ready software.
    #[cfg(debug_assertions)]
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.all.len(), self.hardware.len(), self.software.len())
    }
}

fn first_in(tree: &Tree, run: RunKey, after: u64) -> Option<(u64, EventId)> {
    if tree.is_empty() {
        return None;
    }
    let run = pack(run);
    let from = Bound::Excluded(Packed { run, index: after });
    let (key, event) = tree.range((from, Bound::Unbounded)).next()?;
    (key.run == run).then_some((key.index, *event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_keys_are_ordered_as_keys() {
        let vcpus = [
            None,
            Some(VcpuId(0)),
            Some(VcpuId(1)),
            Some(VcpuId(u16::MAX)),
        ];
        let pmus = [PmuId(0), PmuId(1), PmuId(u16::MAX)];
        let cgroups = [None, Some(CgroupId(0)), Some(CgroupId(MAX_CGROUP))];
        let mut keys = alloc::vec::Vec::new();
        for vcpu in vcpus {
            for pmu in pmus {
                for cgroup in cgroups {
                    keys.extend([0, 1, u64::MAX].map(|index| GroupKey {
                        run: RunKey { vcpu, pmu, cgroup },
                        index,
                    }));
                }
            }
        }
        assert!(keys.is_sorted());
        assert!(
            keys.iter()
                .map(|k| Packed::from(*k))
                .is_sorted_by(|a, b| a < b)
        );
    }
}
