//! A simulated PMU with few counters, for tests, benches and `vpmu-sim`.
//!
//! It behaves like the mock PMU of the oracle (`docs/scenario.md` §3): an
//! event counts `rate` events a nanosecond of its running time, so that every
//! count can be checked against the times.

mod matching;
mod shape;

use alloc::vec::Vec;

use super::driver::{AddError, InitError, InitRequest, PmuDriver, TxnKind};
use super::error::Errno;
use super::ids::{EventId, PmuType};
use super::rated::RatedEvents;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};
use matching::{Matching, take};

pub use shape::{MockConfig, MockKind, MockPlacement};

/// Fields of `config` of an event that is not generic.
mod config {
    pub(super) const BAD: u64 = !0x1fff_ffff;
    pub(super) const fn rate(c: u64) -> u64 {
        c & 0xffff
    }
    pub(super) const fn mask(c: u64) -> u64 {
        c >> 16 & 0xff
    }
    pub(super) const fn fixed(c: u64) -> u64 {
        c >> 24 & 0xf
    }
    pub(super) const fn fixed_or_gp(c: u64) -> bool {
        c >> 28 & 1 != 0
    }
}

#[derive(Debug)]
struct MockEvent {
    /// Permitted counters: bits 0 to 31 general purpose, 32 and up fixed.
    allowed: u64,
    counter: Option<u32>,
}

#[derive(Debug, Default)]
struct MockCpu {
    used: u64,
    /// Events of `MockPlacement::Match`.
    matched: Vec<EventId>,
    pending: Vec<EventId>,
    in_txn: bool,
}

/// Calls that reached the counters since the mock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MockStats {
    /// Counting began.
    pub starts: u64,
    /// Counting ended.
    pub stops: u64,
    /// Reservations asked for.
    pub adds: u64,
}

/// A simulated PMU.
#[derive(Debug)]
pub struct MockPmu {
    config: MockConfig,
    events: RatedEvents<MockEvent>,
    vcpus: Vec<MockCpu>,
    stats: MockStats,
    matching: Matching,
}

impl MockPmu {
    /// A PMU of a shape, with nothing on it.
    #[must_use]
    pub fn new(config: MockConfig) -> Self {
        let (counters, fixed) = (config.counters.min(32), config.fixed.min(4));
        Self {
            config: MockConfig {
                counters,
                fixed,
                ..config
            },
            events: RatedEvents::new(),
            vcpus: Vec::new(),
            stats: MockStats::default(),
            matching: Matching::default(),
        }
    }

    /// What reached the counters.
    #[must_use]
    pub const fn stats(&self) -> MockStats {
        self.stats
    }

    /// The counter that an event has reserved; fixed ones are 32 and up.
    #[must_use]
    pub fn counter(&self, event: EventId) -> Option<u32> {
        self.events.find(event)?.counter
    }

    /// How counters are chosen.
    #[must_use]
    pub const fn placement(&self) -> MockPlacement {
        self.config.placement
    }

    fn cpu(&mut self, vcpu: VcpuId) -> &mut MockCpu {
        let at = usize::from(vcpu.0);
        while self.vcpus.len() <= at {
            self.vcpus.push(MockCpu::default());
        }
        &mut self.vcpus[at]
    }

    /// Rate and permitted counters, if the configuration is valid.
    fn decode(&self, pmu_type: PmuType, config: u64) -> Option<(u64, u64)> {
        let gp = (1_u64 << self.config.counters) - 1;
        match pmu_type {
            PmuType::HARDWARE => return (config < 10).then_some(((config & 0xffff) + 1, gp)),
            PmuType::HW_CACHE => return Some((1, gp)),
            _ => {}
        }
        let fixed = config::fixed(config);
        let unlimited = self.config.placement == MockPlacement::Unlimited;
        if config & config::BAD != 0 || (fixed > u64::from(self.config.fixed) && !unlimited) {
            return None;
        }
        let mask = config::mask(config);
        let mut allowed = if mask == 0 { gp } else { gp & mask };
        if fixed != 0 && !config::fixed_or_gp(config) {
            allowed = 0;
        }
        if fixed != 0 && fixed <= u64::from(self.config.fixed) {
            allowed |= 1 << (31 + fixed);
        }
        Some((config::rate(config), allowed))
    }

    fn init_counters(
        &self,
        r: &InitRequest<'_>,
        uncore: bool,
        generic: bool,
    ) -> Result<(u64, u64), InitError> {
        let is_generic = matches!(r.attr.pmu_type, PmuType::HARDWARE | PmuType::HW_CACHE);
        if r.attr.pmu_type != r.own_type && !(is_generic && generic) {
            return Err(InitError::NotMine);
        }
        if r.vcpu.is_some_and(|v| !self.supports(v)) {
            return Err(InitError::NotMine);
        }
        let refused = Err(InitError::Refused(Errno::EINVAL));
        if uncore && (r.attr.is_sampling() || r.of_task || r.vcpu.is_none()) {
            return refused;
        }
        let Some((rate, allowed)) = self.decode(r.attr.pmu_type, r.attr.config) else {
            return refused;
        };
        if self.config.placement != MockPlacement::Unlimited && !self.group_fits(r, allowed) {
            return refused;
        }
        Ok((rate, allowed))
    }

    fn group_fits(&self, r: &InitRequest<'_>, allowed: u64) -> bool {
        let ours = r.group.iter().filter(|m| m.ours);
        let sets: Vec<u64> = ours
            .map(|m| self.events.own(m.event).allowed)
            .chain([allowed])
            .collect();
        if self.config.placement == MockPlacement::Match {
            return Matching::default().feasible(sets.into_iter());
        }
        let mut used = 0;
        sets.into_iter().all(|s| take(s, &mut used).is_some())
    }

    fn place(&mut self, vcpu: VcpuId, event: EventId) -> Result<(), AddError> {
        match self.config.placement {
            MockPlacement::Unlimited => Ok(()),
            MockPlacement::Greedy => {
                let allowed = self.events.own(event).allowed;
                let counter = take(allowed, &mut self.cpu(vcpu).used).ok_or(AddError)?;
                self.events.own_mut(event).counter = Some(counter);
                Ok(())
            }
            MockPlacement::Match => {
                let mut matching = core::mem::take(&mut self.matching);
                let list = core::mem::take(&mut self.cpu(vcpu).matched);
                let sets = list
                    .iter()
                    .chain([&event])
                    .map(|e| self.events.own(*e).allowed);
                let fits = matching.feasible(sets);
                self.matching = matching;
                let cpu = self.cpu(vcpu);
                cpu.matched = list;
                if !fits {
                    return Err(AddError);
                }
                cpu.matched.push(event);
                Ok(())
            }
        }
    }

    fn unplace(&mut self, vcpu: VcpuId, event: EventId) {
        if let Some(c) = self.events.own_mut(event).counter.take() {
            self.cpu(vcpu).used &= !(1 << c);
        }
        if self.config.placement == MockPlacement::Match {
            self.cpu(vcpu).matched.retain(|e| *e != event);
        }
    }
}

impl PmuDriver for MockPmu {
    fn event_init(&mut self, r: &InitRequest<'_>) -> Result<(), InitError> {
        let own = r.attr.pmu_type == r.own_type;
        let (rate, allowed) = match self.config.kind {
            MockKind::Counters { uncore, generic } => self.init_counters(r, uncore, generic)?,
            MockKind::Software { .. } | MockKind::Clock { .. } | MockKind::Refuse if !own => {
                return Err(InitError::NotMine);
            }
            MockKind::Refuse => return Err(InitError::Refused(Errno::EINVAL)),
            MockKind::Software {
                cpu_clock,
                task_clock,
            } => match r.attr.config {
                0 => return Err(InitError::Forward(cpu_clock)),
                1 => return Err(InitError::Forward(task_clock)),
                c if c >= 12 => return Err(InitError::NotMine),
                _ => (0, 0),
            },
            MockKind::Clock { config } if r.attr.config == config => (1, 0),
            MockKind::Clock { .. } => return Err(InitError::NotMine),
        };
        let own = MockEvent {
            allowed,
            counter: None,
        };
        self.events.insert(r.event, rate, own);
        Ok(())
    }

    fn event_destroy(&mut self, event: EventId) {
        self.events.remove(event);
    }

    fn add(&mut self, vcpu: VcpuId, event: EventId) -> Result<(), AddError> {
        self.stats.adds += 1;
        let room = (self.config.counters + self.config.fixed) as usize;
        let unlimited = self.config.placement == MockPlacement::Unlimited;
        let cpu = self.cpu(vcpu);
        if !cpu.in_txn {
            return self.place(vcpu, event);
        }
        let used = cpu.used.count_ones() as usize + cpu.matched.len() + cpu.pending.len();
        if !unlimited && used >= room {
            return Err(AddError);
        }
        cpu.pending.push(event);
        Ok(())
    }

    fn del(&mut self, vcpu: VcpuId, event: EventId) {
        let cpu = self.cpu(vcpu);
        if let Some(at) = cpu.pending.iter().position(|e| *e == event) {
            cpu.pending.remove(at);
            return;
        }
        self.unplace(vcpu, event);
    }

    fn start(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) {
        self.stats.starts += 1;
        self.events.start(event, at);
    }

    fn stop(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.stats.stops += 1;
        self.events.stop(event, at)
    }

    fn read(&mut self, _vcpu: VcpuId, event: EventId, at: Nanos) -> Count {
        self.events.read(event, at)
    }

    fn start_txn(&mut self, vcpu: VcpuId, kind: TxnKind) {
        if self.config.txn && kind == TxnKind::Add {
            self.cpu(vcpu).in_txn = true;
        }
    }

    fn commit_txn(&mut self, vcpu: VcpuId, kind: TxnKind) -> Result<(), AddError> {
        if !self.config.txn || kind == TxnKind::Read {
            return Ok(());
        }
        for i in 0..self.cpu(vcpu).pending.len() {
            let event = self.cpu(vcpu).pending[i];
            if self.place(vcpu, event).is_err() {
                for k in 0..i {
                    let placed = self.cpu(vcpu).pending[k];
                    self.unplace(vcpu, placed);
                }
                return Err(AddError);
            }
        }
        let cpu = self.cpu(vcpu);
        cpu.pending.clear();
        cpu.in_txn = false;
        Ok(())
    }

    fn cancel_txn(&mut self, vcpu: VcpuId) {
        let cpu = self.cpu(vcpu);
        cpu.pending.clear();
        cpu.in_txn = false;
    }

    fn needs_group(&self, _event: EventId) -> bool {
        self.config.needs_group
    }

    fn forgets(&self) -> bool {
        true
    }

    fn always_fits(&self) -> bool {
        self.config.placement == MockPlacement::Unlimited
    }

    fn supports(&self, vcpu: VcpuId) -> bool {
        self.config.vcpus.as_ref().is_none_or(|s| s.contains(&vcpu))
    }
}
