//! Random operations of every kind on a machine with everything: nothing may
//! panic, and the scheduler's own checks hold after each one.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPlacement, MockPmu};
use vpmu::sched::{
    AttrFlags, CgroupId, Config, EventAttr, EventId, Extent, OpenFlags, OpenRequest, PmuCaps,
    PmuClass, PmuDesc, PmuId, PmuType, ReadFormat, Scheduler, Scope, ScopePolicy, ScopeTopology,
    Target, TaskId,
};
use vpmu::units::Nanos;

const MAX_EVENTS: usize = 40;
const CPUS: u16 = 8;

/// A machine under test.
#[derive(Debug)]
pub(crate) struct Wild {
    s: Scheduler<MockPmu>,
    now: u64,
    tasks: Vec<TaskId>,
    events: Vec<EventId>,
    pmus: Vec<PmuId>,
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn pmus() -> Vec<(PmuDesc, MockConfig)> {
    let counters = MockKind::Counters {
        uncore: false,
        generic: true,
    };
    let uncore = MockKind::Counters {
        uncore: true,
        generic: false,
    };
    let core = |cpus: core::ops::Range<u16>, n| MockConfig {
        kind: counters,
        fixed: 1,
        vcpus: Some(cpus.map(VcpuId).collect()),
        ..MockConfig::core(n)
    };
    let desc = |name: &str, class| PmuDesc::new(name, class);
    let mut all = vec![
        (desc("cpu_core", PmuClass::Hardware), core(0..4, 3)),
        (desc("cpu_atom", PmuClass::Hardware), core(4..8, 2)),
        (
            desc("any", PmuClass::Hardware),
            MockConfig {
                placement: MockPlacement::Match,
                txn: false,
                ..MockConfig::core(2)
            },
        ),
        (
            desc("soft", PmuClass::Software),
            MockConfig::unlimited(counters),
        ),
        (
            desc("tight", PmuClass::Software),
            MockConfig {
                txn: false,
                ..MockConfig::core(2)
            },
        ),
        (
            desc("package", PmuClass::Uncore),
            MockConfig {
                kind: uncore,
                ..MockConfig::core(2)
            },
        ),
        (
            desc("core", PmuClass::Uncore),
            MockConfig {
                kind: uncore,
                ..MockConfig::core(1)
            },
        ),
        (desc("alone", PmuClass::Hardware), MockConfig::core(1)),
        (
            desc("needs", PmuClass::Hardware),
            MockConfig {
                needs_group: true,
                ..MockConfig::core(2)
            },
        ),
    ];
    all[0].0.pmu_type = Some(PmuType::RAW);
    all[0].0.caps = PmuCaps::EXTENDED_HW_TYPE;
    all[1].0.caps = PmuCaps::EXTENDED_HW_TYPE;
    all[5].0.scope = Scope::Package;
    all[6].0.scope = Scope::Core;
    all[7].0.caps = PmuCaps::EXCLUSIVE;
    all
}

impl Wild {
    pub(crate) fn new(seed: u8) -> Self {
        let topology = ScopeTopology {
            packages: 2,
            dies: 1,
            cores: 2,
            threads: 2,
            cluster: 1,
        };
        let mut config = Config::new(topology);
        config.scope_policy = if seed & 1 == 0 {
            ScopePolicy::Linux612
        } else {
            ScopePolicy::Designated
        };
        config.max_sample_rate = 1000;
        let mut s = Scheduler::new(config);
        let registered = pmus()
            .into_iter()
            .map(|(d, m)| s.register_pmu(d, MockPmu::new(m)).unwrap())
            .collect();
        let tasks = (0..3).map(|_| s.create_task()).collect();
        for (g, parent) in [(1, 0), (2, 1), (3, 0)] {
            s.create_cgroup(CgroupId(g), CgroupId(parent));
        }
        Self {
            s,
            now: 0,
            tasks,
            events: vec![],
            pmus: registered,
        }
    }

    /// One operation of eight bytes; errors of the scheduler are fine.
    pub(crate) fn step(&mut self, op: [u8; 8]) {
        let now = Nanos(self.now);
        let vcpu = VcpuId(u16::from(op[1]) % (CPUS + 1));
        let event = self
            .events
            .get(usize::from(op[1]) % self.events.len().max(1))
            .copied();
        let task = self
            .tasks
            .get(usize::from(op[2]) % self.tasks.len().max(1))
            .copied();
        let pmu = self.pmus[usize::from(op[2]) % self.pmus.len()];
        match op[0] % 32 {
            0..=6 => self.open(op),
            7..=15 => self.on_event(op, event),
            16..=18 => drop(self.s.switch_to(now, vcpu, task.filter(|_| op[3] & 3 != 0))),
            19 => self.fork_or_exit(op, task),
            20 => drop(self.s.offline(now, vcpu)),
            21 => drop(self.s.online(now, vcpu)),
            22 => self.s.tick(now, vcpu),
            23 => drop(
                self.s
                    .set_mux_interval(now, pmu, Nanos(u64::from(op[3]) * 100_000)),
            ),
            24 => drop(self.s.resched_pmu(now, vcpu, pmu)),
            25 => drop(
                self.s
                    .migrate_pmu(now, pmu, vcpu, VcpuId(u16::from(op[3]) % CPUS)),
            ),
            26 => drop(task.map(|t| {
                self.s
                    .move_to_cgroup(now, t, CgroupId(u32::from(op[3]) % 5))
            })),
            27 if op[3] & 3 == 0 => drop(event.map(|e| self.s.lose(now, e))),
            27 => self.s.fire_timer(now, vcpu, pmu),
            28 => drop(
                self.s
                    .exit_cpu(now, vcpu)
                    .and_then(|()| self.s.init_cpu(now, vcpu)),
            ),
            _ => self.sleep(u64::from(op[2]) * 100_000),
        }
    }

    fn sleep(&mut self, span: u64) {
        self.now += span;
        while let Some(t) = self.s.next_timer().filter(|t| t.at.0 <= self.now) {
            self.s.fire_timer(t.at, t.vcpu, t.pmu);
        }
    }

    fn open(&mut self, op: [u8; 8]) {
        if self.events.len() >= MAX_EVENTS {
            return;
        }
        let pmu = self.pmus[usize::from(op[1]) % self.pmus.len()];
        let pmu_type = self.s.pmu(pmu).unwrap().1;
        let mut attr = EventAttr::new(pmu_type, u64::from(op[2] & 7) | u64::from(op[2] >> 6) << 16);
        if op[3] % 16 == 1 {
            attr = EventAttr::new(PmuType::HARDWARE, u64::from(pmu_type.0) << 32 | 1);
        }
        let bits = u16::from_le_bytes([op[4], op[5]]);
        let flags = [
            (AttrFlags::DISABLED, 7),
            (AttrFlags::PINNED, 3 << 3),
            (AttrFlags::EXCLUSIVE, 7 << 5),
            (AttrFlags::INHERIT, 1 << 8),
            (AttrFlags::INHERIT_STAT, 3 << 8),
            (AttrFlags::FREQ, 3 << 10),
        ];
        for (flag, mask) in flags {
            attr.flags.set(flag, bits & mask == mask);
        }
        attr.sample = u64::from(bits >> 12) * 10;
        attr.read_format = ReadFormat::from_bits_retain(u64::from(op[6]) % 32);
        let mut request = OpenRequest::new(attr, Target::Cpu, None);
        request.vcpu = (op[7] & 3 != 0).then_some(VcpuId(u16::from(op[7] / 4) % CPUS));
        request.target = match op[6] / 32 {
            0..=3 => self
                .tasks
                .get(usize::from(op[6]) % 3)
                .map_or(Target::Cpu, |t| Target::Task(*t)),
            4 => Target::Cgroup(CgroupId(u32::from(op[5]) % 5)),
            _ => Target::Cpu,
        };
        request.flags.set(OpenFlags::CGROUP, op[6] / 32 == 4);
        let at = usize::from(op[3] / 2) % self.events.len().max(1);
        request.group = self.events.get(at).copied().filter(|_| op[3] & 1 == 0);
        self.events.extend(self.s.open(Nanos(self.now), &request));
    }

    fn on_event(&mut self, op: [u8; 8], event: Option<EventId>) {
        let (now, Some(e)) = (Nanos(self.now), event) else {
            return;
        };
        let extent = if op[2] & 3 == 0 {
            Extent::Group
        } else {
            Extent::Event
        };
        let n = u64::from(op[3]);
        match op[0] % 32 {
            7 | 8 => drop(self.s.enable(now, e, extent)),
            9 => drop(self.s.disable(now, e, extent)),
            10 | 11 => {
                self.s.close(now, e).unwrap();
                self.events.retain(|o| *o != e);
            }
            12 => drop(self.s.read(now, e, 1 << 14)),
            13 => drop(self.s.reset(now, e, extent)),
            14 => drop((0..n % 8).map(|_| self.s.overflow(now, e)).last()),
            _ => {
                let _ = self.s.refresh_budget(now, e, i32::from(op[3]));
                let _ = self.s.set_period(now, e, n);
            }
        }
    }

    fn fork_or_exit(&mut self, op: [u8; 8], task: Option<TaskId>) {
        let (now, Some(t)) = (Nanos(self.now), task) else {
            return;
        };
        if op[3] & 1 == 0 && self.tasks.len() < 6 {
            self.tasks.extend(self.s.fork(now, t));
        } else {
            self.s.exit_task(now, t).unwrap();
            self.tasks.retain(|o| *o != t);
            if self.tasks.len() < 2 {
                self.tasks.push(self.s.create_task());
            }
        }
    }

    /// Closes everything; nothing is left.
    pub(crate) fn finish(mut self) {
        for e in core::mem::take(&mut self.events) {
            self.s.close(Nanos(self.now), e).unwrap();
        }
        assert_eq!(
            self.s.event_ids().count(),
            0,
            "events outlived their owners"
        );
    }
}
