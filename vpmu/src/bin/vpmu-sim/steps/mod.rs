//! The steps of a scenario.

mod cpus;
mod events;
mod open;
pub(crate) mod ops;
mod tasks;

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::{Errno, EventState};

use self::ops::{OpKind, op_of};
use crate::machine::SimMachine;
use crate::output::{StepResult, quote};
use crate::scenario::{Scenario, millis, text_of, word};
use crate::timeline::Recorder;

/// The result of a step that is success or an errno; the outer error ends the run.
type Outcome = Result<Result<(), Errno>, String>;

impl SimMachine {
    /// Executes step number `i`.
    ///
    /// # Errors
    /// The step is not one of `docs/scenario.md`. An errno is a result, not an error.
    pub(crate) fn step(
        &mut self,
        i: usize,
        v: &Value,
        scenario: &Scenario,
        recorder: &mut Recorder,
    ) -> Result<StepResult, String> {
        let (op, kind) = op_of(v)?;
        let event = text_of(v, "ev");
        let mut out = StepResult::new(i, op, event);
        let group = text_of(v, "group");
        let missing = if kind == OpKind::Open {
            group.is_some() && self.event(group).is_none()
        } else {
            event.is_some() && self.event(event).is_none()
        };
        if missing {
            out.text("ret", "skip");
        } else {
            let ret = match kind {
                OpKind::Open => {
                    self.open(v, scenario, &mut out)?;
                    None
                }
                OpKind::Read => {
                    self.read(v, &mut out)?;
                    None
                }
                OpKind::CpuMask => {
                    self.cpumask(v, &mut out);
                    None
                }
                OpKind::Event => Some(self.on_event(op, v)?),
                OpKind::Task => Some(self.on_task(op, v)?),
                OpKind::Timer => Some(self.on_timer(op, v, recorder)?),
                OpKind::Cpu => Some(self.on_cpu(op, v)?),
                OpKind::Sleep => {
                    let span = millis(v, "ms", 0.0, 0.5).wrapping_add(word(v, "ns").unwrap_or(0));
                    self.advance(span, recorder);
                    Some(Ok(()))
                }
                OpKind::State => Some(Ok(())),
            };
            // The others have written their result themselves.
            if let Some(ret) = ret {
                out.text("ret", ret.map_or_else(Errno::name, |()| "ok"));
            }
        }
        self.epilogue(&mut out);
        Ok(out)
    }

    /// Clock, states and timers after a step.
    fn epilogue(&self, out: &mut StepResult) {
        out.raw("t", self.now.0);
        out.raw("trace", "{}");
        let mut states = Vec::new();
        for e in &self.events {
            let Ok(view) = self.sched.view(e.id) else {
                continue;
            };
            let state = match view.state {
                EventState::Active => "active",
                EventState::Inactive => "inactive",
                EventState::Off => "off",
                EventState::Error => "error",
                EventState::Exit => "exit",
                EventState::Dead => "dead",
            };
            let cpu = |c: Option<VcpuId>| c.map_or(-1, |c| i32::from(c.0));
            let counter = self.counter(e.id, view.pmu, view.state == EventState::Active);
            let mut text = format!(
                "{}:[\"{state}\",{},{},{}",
                quote(&e.name),
                cpu(view.vcpu),
                cpu(view.oncpu),
                quote(&counter)
            );
            if view.leader != e.id {
                let leader = self.sched.view(view.leader).map_or(0, |l| l.id);
                text.push(',');
                text.push_str(&quote(self.name_of(leader)));
            }
            text.push(']');
            states.push(text);
        }
        out.raw("state", format!("{{{}}}", states.join(",")));
        let mut timers = Vec::new();
        for t in self.sched.armed_timers() {
            if let Some(p) = self.pmus.iter().find(|p| p.id == t.pmu) {
                timers.push(format!("\"{}@{}\":{}", p.name, t.vcpu.0, t.at.0));
            }
        }
        out.raw("mux", format!("{{{}}}", timers.join(",")));
    }
}
