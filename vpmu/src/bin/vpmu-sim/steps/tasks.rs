//! Steps on tasks: run, stop, switch, move, fork, exit.

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::{Errno, TaskError};

use super::Outcome;
use crate::machine::{NamedTask, SimMachine};
use crate::scenario::{num, text_of};

impl SimMachine {
    pub(super) fn on_task(&mut self, op: &str, v: &Value) -> Outcome {
        let now = self.now;
        if op == "switch" {
            let (a, b) = (self.task(text_of(v, "from")), self.task(text_of(v, "to")));
            let (Some(a), Some(b)) = (a, b) else {
                return Err("switch: bad tasks".into());
            };
            if !self.tasks[a].running
                || self.tasks[b].running
                || self.tasks[a].cpu != self.tasks[b].cpu
            {
                return Err("switch: bad tasks".into());
            }
            let result = self
                .sched
                .switch_to(now, self.tasks[a].cpu, self.tasks[b].id);
            self.tasks[a].running = false;
            self.tasks[b].running = true;
            return Ok(result.map_err(TaskError::errno));
        }
        let Some(at) = self.task(text_of(v, "task")) else {
            return Err(format!("{op}: bad task"));
        };
        let (cpu, id, running) = (
            self.tasks[at].cpu,
            self.tasks[at].id,
            self.tasks[at].running,
        );
        match op {
            "run" => {
                if id.is_none() || self.busy(cpu, at) || self.offline.contains(&cpu) {
                    return Err("run: the task is gone, or its cpu is busy or offline".into());
                }
                self.tasks[at].running = true;
                Ok(self.sched.switch_to(now, cpu, id).map_err(TaskError::errno))
            }
            "stop" if !running => Ok(Ok(())),
            "stop" => {
                self.tasks[at].running = false;
                Ok(self
                    .sched
                    .switch_to(now, cpu, None)
                    .map_err(TaskError::errno))
            }
            "move" => self.move_task(v, at),
            "fork" => self.fork(v, at),
            _ => {
                if self.busy(cpu, at) || self.offline.contains(&cpu) {
                    return Err("exit: bad task or cpu busy".into());
                }
                let Some(id) = id else { return Ok(Ok(())) };
                if !running {
                    self.sched
                        .switch_to(now, cpu, Some(id))
                        .map_err(|e| e.to_string())?;
                }
                (self.tasks[at].running, self.tasks[at].id) = (false, None);
                Ok(self.sched.exit_task(now, id).map_err(TaskError::errno))
            }
        }
    }

    fn busy(&self, cpu: VcpuId, but: usize) -> bool {
        self.tasks
            .iter()
            .enumerate()
            .any(|(i, t)| i != but && t.running && t.cpu == cpu)
    }

    fn move_task(&mut self, v: &Value, at: usize) -> Outcome {
        let cpu = num(v, "cpu")
            .and_then(|c| u16::try_from(c).ok())
            .filter(|c| (1..self.cpus).contains(c));
        let Some(cpu) = cpu.map(VcpuId).filter(|c| !self.offline.contains(c)) else {
            return Err("move: the cpu is reserved or offline".into());
        };
        let (old, running) = (self.tasks[at].cpu, self.tasks[at].running);
        if running && self.busy(cpu, at) {
            return Err("move: cpu busy".into());
        }
        if self.tasks[at].id.is_none() {
            return Ok(Err(Errno::ESRCH));
        }
        self.tasks[at].cpu = cpu;
        if running && cpu != old {
            self.sched
                .switch_to(self.now, old, None)
                .map_err(|e| e.to_string())?;
            self.sched
                .switch_to(self.now, cpu, self.tasks[at].id)
                .map_err(|e| e.to_string())?;
        }
        Ok(Ok(()))
    }

    /// Inheritance, then a switch to the child, which blocks, and back.
    fn fork(&mut self, v: &Value, at: usize) -> Outcome {
        let name = text_of(v, "child").unwrap_or("?");
        let (cpu, Some(parent), true) = (
            self.tasks[at].cpu,
            self.tasks[at].id,
            self.tasks[at].running,
        ) else {
            return Err("fork: task must be running".into());
        };
        if self.task(Some(name)).is_some() {
            return Err("fork: bad child".into());
        }
        let child = match self.sched.fork(self.now, parent) {
            Ok(c) => c,
            Err(e) => return Ok(Err(e.errno())),
        };
        self.tasks.push(NamedTask {
            name: name.into(),
            cpu,
            id: Some(child),
            running: false,
        });
        self.sched
            .switch_to(self.now, cpu, Some(child))
            .map_err(|e| e.to_string())?;
        Ok(self
            .sched
            .switch_to(self.now, cpu, Some(parent))
            .map_err(TaskError::errno))
    }
}
