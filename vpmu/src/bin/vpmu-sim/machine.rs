//! The simulated machine: the scheduler, its PMUs, and the scenario's names.

use std::collections::BTreeSet;

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPlacement, MockPmu};
use vpmu::sched::{
    Config, EventId, PmuCaps, PmuClass, PmuDesc, PmuId, PmuType, Scheduler, Scope, ScopePolicy,
    ScopeTopology, TaskId,
};
use vpmu::units::Nanos;

use crate::output::StepResult;
use crate::scenario::{Scenario, bits, flag, millis, num, text_of};
use crate::steps::ops::op_of;
use crate::timeline::Recorder;

pub(crate) type Sched = Scheduler<MockPmu>;

/// A PMU of the scenario.
#[derive(Debug)]
pub(crate) struct NamedPmu {
    pub(crate) name: String,
    pub(crate) id: PmuId,
    pub(crate) mux: Nanos,
}

/// A task of the scenario.
#[derive(Debug)]
pub(crate) struct NamedTask {
    pub(crate) name: String,
    pub(crate) cpu: VcpuId,
    /// Nothing once it has exited.
    pub(crate) id: Option<TaskId>,
    pub(crate) running: bool,
}

/// An open event of the scenario.
#[derive(Debug, Clone)]
pub(crate) struct NamedEvent {
    pub(crate) name: String,
    pub(crate) id: EventId,
    pub(crate) format: u64,
}

/// The machine that a scenario runs on.
#[derive(Debug)]
pub(crate) struct SimMachine {
    pub(crate) sched: Sched,
    pub(crate) now: Nanos,
    pub(crate) pmus: Vec<NamedPmu>,
    pub(crate) tasks: Vec<NamedTask>,
    pub(crate) events: Vec<NamedEvent>,
    /// Names of all events ever opened, by number.
    pub(crate) names: Vec<(u64, String)>,
    /// The thread that executes the steps, on CPU 0.
    pub(crate) control: TaskId,
    /// A task that has exited.
    pub(crate) ghost: TaskId,
    pub(crate) offline: BTreeSet<VcpuId>,
    pub(crate) cpus: u16,
}

const CAPS: [(&str, u64); 5] = [
    ("no_interrupt", 1),
    ("exclusive", 0x10),
    ("no_exclude", 0x40),
    ("extended_hw_type", 0x100),
    ("itrace", 0x20),
];

impl SimMachine {
    pub(crate) fn new(scenario: &Scenario, designated: bool) -> Result<Self, String> {
        let [packages, dies, cores, threads] = scenario.topology;
        let topology = ScopeTopology {
            packages,
            dies,
            cores,
            threads,
            cluster: 1,
        };
        let policy = if designated {
            ScopePolicy::Designated
        } else {
            ScopePolicy::Linux612
        };
        let mut config = Config::new(topology);
        config.scope_policy = policy;
        let mut sched = Sched::new(config);
        register_builtin(&mut sched)?;
        let control = sched.create_task();
        let ghost = sched.create_task();
        sched
            .exit_task(Nanos(0), ghost)
            .map_err(|e| e.to_string())?;
        sched
            .switch_to(Nanos(0), VcpuId(0), Some(control))
            .map_err(|e| e.to_string())?;
        let mut machine = Self {
            sched,
            now: Nanos(0),
            pmus: Vec::new(),
            tasks: Vec::new(),
            events: Vec::new(),
            names: Vec::new(),
            control,
            ghost,
            offline: BTreeSet::new(),
            cpus: topology.count(),
        };
        for pmu in &scenario.pmus {
            machine.add_pmu(pmu)?;
        }
        for (name, cpu) in &scenario.tasks {
            let id = Some(machine.sched.create_task());
            machine.tasks.push(NamedTask {
                name: name.clone(),
                cpu: VcpuId(*cpu),
                id,
                running: false,
            });
        }
        Ok(machine)
    }

    fn add_pmu(&mut self, v: &Value) -> Result<(), String> {
        let name = text_of(v, "name").ok_or("a PMU needs a name")?;
        let kind = text_of(v, "kind").unwrap_or("hw");
        let class = match kind {
            "sw" => PmuClass::Software,
            "uncore" => PmuClass::Uncore,
            _ => PmuClass::Hardware,
        };
        let scope = match text_of(v, "scope").unwrap_or("none") {
            "none" => Scope::None,
            "core" => Scope::Core,
            "die" => Scope::Die,
            "cluster" => Scope::Cluster,
            "pkg" => Scope::Package,
            "sys" => Scope::System,
            s => return Err(format!("bad scope {s}")),
        };
        let caps = u16::try_from(bits(v.get("caps"), &CAPS, 0)?).unwrap_or(u16::MAX);
        let mux = Nanos(millis(v, "mux_ms", 4.0, 0.0));
        let desc = PmuDesc {
            name: name.into(),
            pmu_type: num(v, "type")
                .and_then(|t| u32::try_from(t).ok())
                .map(PmuType),
            class,
            caps: PmuCaps::from_bits_retain(caps),
            scope,
            mux_interval: mux,
        };
        let id = self
            .sched
            .register_pmu(desc, MockPmu::new(mock_config(v, kind)))
            .map_err(|e| e.to_string())?;
        self.pmus.push(NamedPmu {
            name: name.into(),
            id,
            mux,
        });
        Ok(())
    }

    pub(crate) fn pmu(&self, name: Option<&str>) -> Option<usize> {
        let name = name?;
        self.pmus.iter().position(|p| p.name == name)
    }

    pub(crate) fn task(&self, name: Option<&str>) -> Option<usize> {
        let name = name?;
        self.tasks.iter().position(|t| t.name == name)
    }

    pub(crate) fn event(&self, name: Option<&str>) -> Option<usize> {
        let name = name?;
        self.events.iter().position(|e| e.name == name)
    }

    pub(crate) fn name_of(&self, number: u64) -> &str {
        let found = self.names.iter().rev().find(|(n, _)| *n == number);
        found.map_or("?", |(_, name)| name.as_str())
    }

    /// Lets time pass, with the rotations on the way.
    pub(crate) fn advance(&mut self, span: u64, recorder: &mut Recorder) {
        let target = self.now + Nanos(span);
        while let Some(timer) = self.sched.next_timer().filter(|t| t.at <= target) {
            self.now = self.now.max(timer.at);
            self.sched.fire_timer(self.now, timer.vcpu, timer.pmu);
            recorder.observe(self);
        }
        self.now = target;
    }

    /// The counter of an event, as results show it.
    pub(crate) fn counter(&self, event: EventId, pmu: PmuId, active: bool) -> String {
        let ours = self.pmus.iter().any(|p| p.id == pmu);
        let Some(driver) = self.sched.driver(pmu).filter(|_| active && ours) else {
            return "-".into();
        };
        match (driver.placement(), driver.counter(event)) {
            (MockPlacement::Match, _) => "?".into(),
            (_, Some(c)) if c >= 32 => format!("f{}", c - 32),
            (_, Some(c)) => c.to_string(),
            _ => "-".into(),
        }
    }

    /// Runs all steps, after a look at the operation of each.
    ///
    /// # Errors
    /// A step that cannot be executed: its number and the reason.
    pub(crate) fn run(
        &mut self,
        scenario: &Scenario,
        recorder: &mut Recorder,
    ) -> Result<Vec<StepResult>, String> {
        for (i, step) in scenario.steps.iter().enumerate() {
            op_of(step).map_err(|e| format!("step {i}: {e}"))?;
        }
        let mut steps = Vec::new();
        for (i, step) in scenario.steps.iter().enumerate() {
            steps.push(
                self.step(i, step, scenario, recorder)
                    .map_err(|e| format!("step {i}: {e}"))?,
            );
            recorder.observe(self);
        }
        Ok(steps)
    }
}

/// The PMUs that every kernel has. They come first, in the order of their
/// addresses in the oracle's kernel.
fn register_builtin(sched: &mut Sched) -> Result<(), String> {
    let (cpu_clock, task_clock) = (PmuType(6), PmuType(7));
    let builtin = [
        (
            "software",
            PmuType::SOFTWARE,
            MockKind::Software {
                cpu_clock,
                task_clock,
            },
        ),
        ("task_clock", task_clock, MockKind::Clock { config: 1 }),
        ("cpu_clock", cpu_clock, MockKind::Clock { config: 0 }),
        ("tracepoint", PmuType::TRACEPOINT, MockKind::Refuse),
        ("breakpoint", PmuType::BREAKPOINT, MockKind::Refuse),
        ("kprobe", PmuType(8), MockKind::Refuse),
        ("uprobe", PmuType(9), MockKind::Refuse),
        ("msr", PmuType(10), MockKind::Refuse),
    ];
    for (name, pmu_type, kind) in builtin {
        let mut desc = PmuDesc::new(name, PmuClass::Software);
        desc.pmu_type = Some(pmu_type);
        if name == "software" || name.ends_with("clock") {
            desc.caps = PmuCaps::NO_NMI;
        }
        sched
            .register_pmu(desc, MockPmu::new(MockConfig::unlimited(kind)))
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn mock_config(v: &Value, kind: &str) -> MockConfig {
    let small = |key, default| u32::try_from(num(v, key).unwrap_or(default)).unwrap_or(0);
    let unlimited = num(v, "unlimited").map_or(kind == "sw", |n| n != 0);
    let placement = match text_of(v, "assign") {
        _ if unlimited => MockPlacement::Unlimited,
        Some("match") => MockPlacement::Match,
        _ => MockPlacement::Greedy,
    };
    let listed = v.get("cpus").and_then(Value::as_array);
    MockConfig {
        kind: MockKind::Counters {
            uncore: kind == "uncore",
            generic: flag(v, "generic"),
        },
        counters: small("counters", 4),
        fixed: small("fixed", 0),
        placement,
        txn: num(v, "txn").map_or(kind == "hw", |n| n != 0),
        needs_group: false,
        vcpus: listed.map(|l| {
            l.iter()
                .filter_map(|c| Some(VcpuId(u16::try_from(c.as_u64()?).ok()?)))
                .collect()
        }),
    }
}
