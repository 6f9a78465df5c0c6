//! Uncore PMUs told in the simplest way: a table of counters, and for each
//! scope the set of designated vCPUs by the letter of.

use std::collections::{BTreeMap, BTreeSet};

use vpmu::ids::VcpuId;
use vpmu::uncore::{Change, UncorePmu};
use vpmu::units::Count;

/// A counter: which PMU, which instance, which number.
pub(crate) type Key = (UncorePmu, u16, u8);

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counter {
    pub(crate) select: u64,
    pub(crate) value: u64,
    /// The guest wants it to count.
    pub(crate) wanted: bool,
    /// It does.
    pub(crate) on: bool,
    pub(crate) counted: u64,
    pub(crate) ran: u64,
}

#[derive(Debug)]
pub(crate) struct Naive {
    /// How many vCPUs share an instance, by PMU.
    pub(crate) share: BTreeMap<UncorePmu, u16>,
    pub(crate) present: BTreeSet<u16>,
    pub(crate) designated: BTreeMap<UncorePmu, BTreeSet<u16>>,
    pub(crate) counters: BTreeMap<Key, Counter>,
    pub(crate) refusing: BTreeSet<UncorePmu>,
    pub(crate) news: Vec<(UncorePmu, u16, Change)>,
}

impl Naive {
    /// vCPUs 0 to `boot` - 1 come up one by one.
    pub(crate) fn new(share: BTreeMap<UncorePmu, u16>, boot: u16) -> Self {
        let designated = share.keys().map(|pmu| (*pmu, BTreeSet::new())).collect();
        let mut naive = Self {
            share,
            present: BTreeSet::new(),
            designated,
            counters: BTreeMap::new(),
            refusing: BTreeSet::new(),
            news: Vec::new(),
        };
        for vcpu in 0..boot {
            naive.plug(vcpu);
        }
        naive.news.clear();
        naive
    }

    pub(crate) fn instance(&self, pmu: UncorePmu, vcpu: u16) -> u16 {
        vcpu / self.share[&pmu]
    }

    fn peers(&self, pmu: UncorePmu, vcpu: u16) -> Vec<u16> {
        let same = |other: &&u16| self.instance(pmu, **other) == self.instance(pmu, vcpu);
        self.present.iter().filter(same).copied().collect()
    }

    pub(crate) fn designated_of(&self, pmu: UncorePmu, instance: u16) -> Option<u16> {
        let mut all = self.designated[&pmu].iter().copied();
        all.find(|v| self.instance(pmu, *v) == instance)
    }

    ///
    pub(crate) fn plug(&mut self, vcpu: u16) {
        if !self.present.insert(vcpu) {
            return;
        }
        for pmu in self.share.keys().copied().collect::<Vec<_>>() {
            let peers = self.peers(pmu, vcpu);
            if peers.iter().any(|p| self.designated[&pmu].contains(p)) {
                continue;
            }
            self.designated.get_mut(&pmu).unwrap().insert(vcpu);
            let instance = self.instance(pmu, vcpu);
            let to = Some(VcpuId(vcpu));
            self.news
                .push((pmu, instance, Change::Designated { from: None, to }));
            for key in self.keys(pmu, instance) {
                if self.counters[&key].wanted && self.open(key) {
                    let (counter, to) = (key.2, VcpuId(vcpu));
                    self.news
                        .push((pmu, instance, Change::Resumed { counter, to }));
                }
            }
        }
    }

    ///
    pub(crate) fn unplug(&mut self, vcpu: u16) {
        if !self.present.remove(&vcpu) {
            return;
        }
        for pmu in self.share.keys().copied().collect::<Vec<_>>() {
            if !self.designated.get_mut(&pmu).unwrap().remove(&vcpu) {
                continue;
            }
            let heir = self.peers(pmu, vcpu).first().copied();
            self.designated.get_mut(&pmu).unwrap().extend(heir);
            let instance = self.instance(pmu, vcpu);
            let from = VcpuId(vcpu);
            let to = heir.map(VcpuId);
            let change = Change::Designated {
                from: Some(from),
                to,
            };
            self.news.push((pmu, instance, change));
            for key in self.keys(pmu, instance) {
                let counter = key.2;
                let state = self.counters.get_mut(&key).unwrap();
                if !state.on {
                    continue;
                }
                let count = Count(state.counted);
                state.on = to.is_some();
                let change = match to {
                    Some(to) => Change::Moved {
                        counter,
                        from,
                        to,
                        count,
                    },
                    None => Change::Off {
                        counter,
                        from,
                        count,
                    },
                };
                self.news.push((pmu, instance, change));
            }
        }
    }

    fn keys(&self, pmu: UncorePmu, instance: u16) -> Vec<Key> {
        let keys = self.counters.keys();
        keys.filter(|k| (k.0, k.1) == (pmu, instance))
            .copied()
            .collect()
    }

    /// The host gives an event for a wanted counter, if it does.
    pub(crate) fn open(&mut self, key: Key) -> bool {
        let on = !self.refusing.contains(&key.0) && self.designated_of(key.0, key.1).is_some();
        self.counters.get_mut(&key).unwrap().on = on;
        on
    }

    /// `n` events on an instance.
    pub(crate) fn occur(&mut self, pmu: UncorePmu, instance: u16, n: u64) {
        for key in self.keys(pmu, instance) {
            let counter = self.counters.get_mut(&key).unwrap();
            if !counter.on {
                continue;
            }
            counter.counted += n;
            counter.value = match pmu {
                UncorePmu::Power => counter.value + n,
                UncorePmu::Umc(_) if counter.value >= 1 << 48 => counter.value,
                UncorePmu::Umc(_) if counter.value + n >= 1 << 48 => 0x1_ffff_ffff_ffff,
                UncorePmu::Umc(_) => counter.value + n,
                _ => (counter.value + n) % (1 << 48),
            };
        }
    }

    /// The host takes an instance's counters away.
    pub(crate) fn lose(&mut self, pmu: UncorePmu, instance: u16) {
        for key in self.keys(pmu, instance) {
            self.counters.get_mut(&key).unwrap().on = false;
        }
    }

    pub(crate) fn tick(&mut self, span: u64) {
        for counter in self.counters.values_mut().filter(|c| c.on) {
            counter.ran += span;
        }
    }
}
