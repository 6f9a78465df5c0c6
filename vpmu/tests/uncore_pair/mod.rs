//! Operations on a VM's uncore PMUs and on a naive model of them: registers,
//! designated vCPUs, counts, times and the log must agree after each.

mod guest;
mod naive;

use std::collections::BTreeMap;

use guest::{counter_at, enable, kept};
use naive::{Counter, Key, Naive};
use vpmu::host::sim_uncore::SimUncore;
use vpmu::host::{EnergyDomain, ScopeInstance, UncoreCount};
use vpmu::ids::{MsrIndex, VcpuId};
use vpmu::sched::ScopeTopology;
use vpmu::uncore::{
    LogEntry, Power, PowerForm, Uncore, UncoreCounterView, UncoreModel, UncorePmu, UncoreState,
};
use vpmu::units::{Count, Energy, Nanos};

const UMC_UNITS: u8 = 2;
/// What the first read of an energy counter gives (G-601).
const ENERGY_START: u64 = 0x1_0000;

/// A topology with the PMUs of one vendor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    topology: ScopeTopology,
    amd: bool,
    boot: u16,
}

impl Shape {
    /// The topologies that issue and rules name, and two packages.
    pub(crate) fn of(seed: u8) -> Self {
        let (threads, cores, dies, packages) =
            [(1, 2, 2, 1), (2, 2, 1, 1), (1, 1, 2, 2), (1, 3, 1, 2)][usize::from(seed) % 4];
        let topology = ScopeTopology {
            packages,
            dies,
            cores,
            threads,
            cluster: 1,
        };
        Self {
            topology,
            amd: seed & 4 != 0,
            boot: 1 + u16::from(seed >> 3) % topology.count(),
        }
    }

    fn model(&self) -> UncoreModel {
        if self.amd {
            let model = UncoreModel::default().with_power(Power::new(PowerForm::Amd));
            model.with_l3().with_df().with_umc(UMC_UNITS).unwrap()
        } else {
            let power = Power::new(PowerForm::Intel).with(EnergyDomain::Memory);
            UncoreModel::default().with_power(power)
        }
    }

    fn share(&self) -> BTreeMap<UncorePmu, u16> {
        let die = self.topology.threads * self.topology.cores;
        if !self.amd {
            return [(UncorePmu::Power, die * self.topology.dies)].into();
        }
        [
            (UncorePmu::Power, die * self.topology.dies),
            (UncorePmu::L3, die),
            (UncorePmu::DataFabric, die),
            (UncorePmu::Umc(0), die),
            (UncorePmu::Umc(1), die),
        ]
        .into()
    }
}

/// The PMUs and the naive model of them.
pub(crate) struct Pair {
    shape: Shape,
    uncore: Uncore<SimUncore>,
    naive: Naive,
    now: u64,
    logged: u64,
}

type Outcome = Result<(), String>;

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, due: &T) -> Outcome {
    if got == due {
        return Ok(());
    }
    Err(format!("{what}: {got:x?}, should be {due:x?}"))
}

impl Pair {
    pub(crate) fn new(shape: Shape) -> Self {
        let uncore = Uncore::new(shape.model(), shape.topology, shape.boot, |_| {
            SimUncore::default()
        });
        Self {
            shape,
            uncore: uncore.unwrap(),
            naive: Naive::new(shape.share(), shape.boot),
            now: 0,
            logged: 0,
        }
    }

    /// One operation. Looking at the counts brings them up to date, so that is
    /// done now and then only.
    pub(crate) fn step(&mut self, op: [u8; 8]) -> Outcome {
        let [code, vcpu, which, ..] = op;
        let value = u64::from_le_bytes([op[3], op[4], op[5], op[6], op[7], op[4], op[6], op[3]]);
        let vcpu = u16::from(vcpu) % self.shape.topology.count();
        let span = u64::from(op[3]);
        self.now += span;
        self.naive.tick(span);
        match code % 12 {
            0 => self.plug(vcpu),
            1 => self.unplug(vcpu),
            2..=4 => self.write(vcpu, which, value)?,
            5 | 6 => self.read(vcpu, which)?,
            7 => self.rdpmc(vcpu, which)?,
            8 | 9 => self.occur(which, vcpu, value),
            10 => self.trouble(which, vcpu),
            _ => self.wild(vcpu, value)?,
        }
        self.log()?;
        if op[7] & 7 == 0 {
            self.compare()
        } else {
            Ok(())
        }
    }

    fn plug(&mut self, vcpu: u16) {
        self.uncore.arrived(Nanos(self.now), VcpuId(vcpu));
        self.naive.plug(vcpu);
    }

    fn unplug(&mut self, vcpu: u16) {
        self.uncore.departed(Nanos(self.now), VcpuId(vcpu));
        self.naive.unplug(vcpu);
    }

    fn msr(&self, which: u8) -> MsrIndex {
        let all: Vec<_> = self.uncore.model().registers().collect();
        all[usize::from(which) % all.len()].0
    }

    /// A vCPU that is not there executes nothing.
    fn runs(&self, vcpu: u16) -> bool {
        self.naive.present.contains(&vcpu)
    }

    fn key(&self, vcpu: u16, pmu: UncorePmu, number: u8) -> Key {
        (pmu, self.naive.instance(pmu, vcpu), number)
    }

    fn write(&mut self, vcpu: u16, which: u8, value: u64) -> Outcome {
        let msr = self.msr(which);
        // Half of them enabled, and often the same choice again.
        let value = if value & 1 == 0 {
            value
        } else {
            value & 0x8040_0003
        };
        self.wrmsr(vcpu, msr, value)
    }

    fn wrmsr(&mut self, vcpu: u16, msr: MsrIndex, value: u64) -> Outcome {
        if !self.runs(vcpu) {
            return Ok(());
        }
        let done = self.uncore.wrmsr(Nanos(self.now), VcpuId(vcpu), msr, value);
        let writable = counter_at(msr.0, self.shape.amd).filter(|c| c.0 != UncorePmu::Power);
        equal("a write is taken", &done.is_ok(), &writable.is_some())?;
        let Some((pmu, number, is_counter)) = writable else {
            return Ok(());
        };
        let key = self.key(vcpu, pmu, number);
        let before = *self.naive.counters.entry(key).or_default();
        let counter = self.naive.counters.get_mut(&key).unwrap();
        if is_counter {
            let bits = if matches!(pmu, UncorePmu::Umc(_)) {
                49
            } else {
                48
            };
            counter.value = value & ((1 << bits) - 1);
            return Ok(());
        }
        counter.select = value & kept(pmu);
        counter.wanted = value & enable(pmu) != 0;
        if !counter.wanted {
            counter.on = false;
        } else if !(before.on && before.select == counter.select) {
            self.naive.open(key);
        }
        Ok(())
    }

    fn read(&mut self, vcpu: u16, which: u8) -> Outcome {
        let msr = self.msr(which);
        self.rdmsr(vcpu, msr)
    }

    fn rdmsr(&mut self, vcpu: u16, msr: MsrIndex) -> Outcome {
        if !self.runs(vcpu) {
            return Ok(());
        }
        let got = self.uncore.rdmsr(Nanos(self.now), VcpuId(vcpu), msr).ok();
        let due = match counter_at(msr.0, self.shape.amd) {
            None => match (msr.0, self.shape.amd) {
                (0x606, false) => Some(0xa_0e03),
                (0xc001_0299, true) => Some(0xa_1003),
                _ => None,
            },
            Some((UncorePmu::Power, domain, _)) => {
                self.energy(self.key(vcpu, UncorePmu::Power, domain))
            }
            Some((pmu, number, is_counter)) => {
                let counters = &self.naive.counters;
                let counter = counters.get(&self.key(vcpu, pmu, number));
                let counter = counter.copied().unwrap_or_default();
                Some(if is_counter {
                    counter.value
                } else {
                    counter.select
                })
            }
        };
        equal(&format!("RDMSR {msr}"), &got, &due)
    }

    /// A domain counts from its first read on; the host is asked again by each
    /// read after it had no event.
    fn energy(&mut self, key: Key) -> Option<u64> {
        let known = self.naive.counters.contains_key(&key);
        let counter = self.naive.counters.entry(key).or_default();
        counter.wanted = true;
        if !counter.on && !self.naive.open(key) && !known {
            self.naive.counters.remove(&key);
            return None;
        }
        let shift = if self.shape.amd { 16 } else { 18 };
        let value = self.naive.counters[&key].value;
        Some((ENERGY_START + (value >> shift)) & 0xffff_ffff)
    }

    fn rdpmc(&mut self, vcpu: u16, which: u8) -> Outcome {
        if !self.runs(vcpu) {
            return Ok(());
        }
        let ecx = u32::from(which) % 20;
        let got = self.uncore.rdpmc(Nanos(self.now), VcpuId(vcpu), ecx);
        let counter = match ecx {
            6..=9 => Some((UncorePmu::DataFabric, ecx - 6)),
            10..=15 => Some((UncorePmu::L3, ecx - 10)),
            _ => None,
        };
        let due = counter.filter(|_| self.shape.amd).map(|(pmu, number)| {
            let key = self.key(vcpu, pmu, number as u8);
            self.naive.counters.get(&key).map_or(0, |c| c.value)
        });
        equal(&format!("RDPMC {ecx}"), &got, &due)
    }

    fn pmu(&self, which: u8) -> UncorePmu {
        let pmus: Vec<_> = self.uncore.model().pmus().collect();
        pmus[usize::from(which) % pmus.len()]
    }

    fn occur(&mut self, which: u8, vcpu: u16, value: u64) {
        let pmu = self.pmu(which);
        let instance = self.naive.instance(pmu, vcpu);
        let n = value % (1 << 44);
        let host = self.uncore.host_mut(pmu).unwrap();
        host.occur(ScopeInstance(instance), n);
        self.naive.occur(pmu, instance, n);
    }

    /// The host refuses events for a while, or takes some away that have just
    /// been read.
    fn trouble(&mut self, which: u8, vcpu: u16) {
        let pmu = self.pmu(which);
        let instance = self.naive.instance(pmu, vcpu);
        // What was not read by then would be lost.
        self.uncore.view(Nanos(self.now));
        let host = self.uncore.host_mut(pmu).unwrap();
        if which & 0x80 != 0 {
            host.lose(ScopeInstance(instance));
            self.naive.lose(pmu, instance);
            // It is seen with the next look.
            self.uncore.view(Nanos(self.now));
        } else {
            let refuses = which & 0x40 != 0;
            host.refuse(refuses);
            if refuses {
                self.naive.refusing.insert(pmu);
            } else {
                self.naive.refusing.remove(&pmu);
            }
        }
    }

    /// Any register at all, near those that there are.
    fn wild(&mut self, vcpu: u16, value: u64) -> Outcome {
        let base = [0x600, 0x640, 0xc001_0228, 0xc001_0290, 0xc001_0800, 0];
        let base = base[value as usize % base.len()];
        let msr = MsrIndex(base + (value >> 8) as u32 % 0x40);
        self.wrmsr(vcpu, msr, value)?;
        self.rdmsr(vcpu, msr)
    }

    /// Everything compared.
    pub(crate) fn compare(&mut self) -> Outcome {
        let views = self.uncore.view(Nanos(self.now));
        let mut shown = Vec::new();
        for view in &views {
            let mut sum = 0u64;
            for instance in &view.instances {
                let at = instance.instance.0;
                let due = self.naive.designated_of(view.pmu, at).map(VcpuId);
                let what = format!("designated vCPU of {} {at}", view.pmu);
                equal(&what, &instance.designated, &due)?;
                for counter in &instance.counters {
                    let key = (view.pmu, at, counter.number);
                    let due = self.naive.counters.get(&key).copied().unwrap_or_default();
                    self.counter(key, counter, &due)?;
                    sum += due.counted;
                    shown.push(key);
                }
                self.host_events(view.pmu, at)?;
            }
            let host = self.uncore.host_mut(view.pmu).unwrap();
            equal("misuse of the host", &host.was_misused(), &false)?;
            let what = format!("sum of {}", view.pmu);
            equal(&what, &sum, &host.counted())?;
        }
        for (key, counter) in &self.naive.counters {
            let due = counter.wanted || counter.counted > 0;
            equal(&format!("{key:?} is shown"), &shown.contains(key), &due)?;
        }
        Ok(())
    }

    fn counter(&self, key: Key, view: &UncoreCounterView, due: &Counter) -> Outcome {
        let counted = match view.counted {
            UncoreCount::Events(Count(n)) | UncoreCount::Energy(Energy(n)) => n,
        };
        equal(&format!("count of {key:?}"), &counted, &due.counted)?;
        equal("wanted", &view.wanted.is_some(), &due.wanted)?;
        let on = match view.state {
            UncoreState::Counting(vcpu) => Some(vcpu.0),
            UncoreState::Off | UncoreState::Stopped(_) => None,
        };
        let home = self.naive.designated_of(key.0, key.1);
        equal(&format!("vCPU of {key:?}"), &on, &home.filter(|_| due.on))?;
        equal("host event", &view.host.is_some(), &due.on)?;
        let times = (view.times.enabled.0, view.times.running.0);
        equal(&format!("times of {key:?}"), &times, &(due.ran, due.ran))
    }

    fn host_events(&mut self, pmu: UncorePmu, instance: u16) -> Outcome {
        let naive = self.naive.counters.iter();
        let due = naive.filter(|(k, c)| (k.0, k.1) == (pmu, instance) && c.on);
        let due = due.count();
        let host = self.uncore.host_mut(pmu).unwrap();
        let open = host.open_on(ScopeInstance(instance)).count();
        equal(&format!("host events of {pmu} {instance}"), &open, &due)
    }

    fn log(&mut self) -> Outcome {
        let new = self.uncore.log().filter(|e| e.number >= self.logged);
        let news: Vec<_> = new
            .map(|e: &LogEntry| (e.pmu, e.instance.0, e.change))
            .collect();
        self.logged += news.len() as u64;
        equal("log", &news, &std::mem::take(&mut self.naive.news))
    }
}
