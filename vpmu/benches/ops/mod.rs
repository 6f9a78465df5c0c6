//! The operations that are measured, on a machine of a size: used by the
//! criterion benches and by the instruction counts.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{
    Config, EventAttr, EventId, Extent, OpenRequest, PmuClass, PmuDesc, PmuId, PmuType, Scheduler,
    ScopeTopology, Target, TaskId,
};
use vpmu::units::Nanos;

/// Counters of each PMU.
const COUNTERS: u32 = 4;

/// What is measured.
pub(crate) const OPS: [&str; 11] = [
    "install",
    "install_software",
    "open_all",
    "enable",
    "disable",
    "read",
    "reschedule",
    "rotation",
    "switch",
    "migration",
    "lookup",
];

/// A machine with `n` flexible events of one task on `pmus` PMUs.
#[derive(Debug)]
pub(crate) struct Bench {
    s: Scheduler<MockPmu>,
    task: TaskId,
    pmus: Vec<PmuId>,
    types: Vec<PmuType>,
    events: Vec<EventId>,
    now: u64,
    turn: usize,
}

impl Bench {
    pub(crate) fn new(op: &str, n: usize, pmus: usize) -> Self {
        let mut config = Config::new(ScopeTopology::flat(2));
        config.self_check = false;
        let mut s = Scheduler::new(config);
        let task = s.create_task();
        s.switch_to(Nanos(0), VcpuId(0), Some(task)).unwrap();
        let mut bench = Self {
            s,
            task,
            pmus: vec![],
            types: vec![],
            events: vec![],
            now: 0,
            turn: 0,
        };
        for i in 0..pmus {
            let software = op == "install_software";
            let class = if software {
                PmuClass::Software
            } else {
                PmuClass::Hardware
            };
            let kind = MockKind::Counters {
                uncore: false,
                generic: false,
            };
            let mock = if software {
                MockConfig::unlimited(kind)
            } else {
                MockConfig::core(COUNTERS)
            };
            let id = bench
                .s
                .register_pmu(PmuDesc::new(&format!("pmu{i}"), class), MockPmu::new(mock))
                .unwrap();
            bench.pmus.push(id);
            bench.types.push(bench.s.pmu(id).unwrap().1);
        }
        if op == "open_all" {
            return bench;
        }
        for i in 0..n {
            let target = if op == "migration" {
                Target::Cpu
            } else {
                Target::Task(task)
            };
            let event = bench.open(i, target);
            bench.events.push(event);
        }
        bench
    }

    fn open(&mut self, i: usize, target: Target) -> EventId {
        let attr = EventAttr::new(self.types[i % self.types.len()], 1);
        let vcpu = (target == Target::Cpu).then_some(VcpuId(0));
        self.s
            .open(Nanos(self.now), &OpenRequest::new(attr, target, vcpu))
            .unwrap()
    }

    fn next_event(&mut self) -> EventId {
        self.turn = (self.turn + 1) % self.events.len();
        self.events[self.turn]
    }

    /// One operation; some bring the machine back by its opposite.
    pub(crate) fn run(&mut self, op: &str, n: usize) {
        self.now += 1000;
        let now = Nanos(self.now);
        match op {
            "install" | "install_software" => {
                let e = self.open(0, Target::Task(self.task));
                self.s.close(now, e).unwrap();
            }
            "open_all" => {
                for i in 0..n {
                    let e = self.open(i, Target::Task(self.task));
                    self.events.push(e);
                }
                for e in core::mem::take(&mut self.events) {
                    self.s.close(now, e).unwrap();
                }
            }
            "enable" | "disable" => {
                let e = self.next_event();
                self.s.disable(now, e, Extent::Event).unwrap();
                self.s.enable(now, e, Extent::Event).unwrap();
            }
            "read" => {
                let e = self.next_event();
                let _ = self.s.read(now, e, 64).unwrap();
            }
            "reschedule" => assert!(self.s.resched_pmu(now, VcpuId(0), self.pmus[0])),
            "rotation" => {
                let pmu = self.pmus[self.turn % self.pmus.len()];
                self.turn += 1;
                self.s.fire_timer(now, VcpuId(0), pmu);
            }
            "switch" => {
                self.s.switch_to(now, VcpuId(0), None).unwrap();
                self.s.switch_to(now, VcpuId(0), Some(self.task)).unwrap();
            }
            "migration" => {
                let (from, to) = (self.turn % 2, (self.turn + 1) % 2);
                self.turn += 1;
                for pmu in self.pmus.clone() {
                    assert!(
                        self.s
                            .migrate_pmu(now, pmu, VcpuId(from as u16), VcpuId(to as u16))
                    );
                }
            }
            _ => {
                self.turn += 1;
                let t = self.types[self.turn % self.types.len()];
                assert!(std::hint::black_box(self.s.pmu_of_type(t)).is_some());
            }
        }
    }
}
