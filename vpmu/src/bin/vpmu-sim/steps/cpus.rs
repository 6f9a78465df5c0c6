//! Steps on CPUs and their timers.

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::{Errno, RegisterError, TaskError};
use vpmu::units::Nanos;

use super::Outcome;
use crate::machine::SimMachine;
use crate::output::{StepResult, cpu_list};
use crate::scenario::{millis, num, text_of};
use crate::timeline::Recorder;

impl SimMachine {
    pub(super) fn on_timer(&mut self, op: &str, v: &Value, recorder: &mut Recorder) -> Outcome {
        let Some(at) = self.pmu(text_of(v, "pmu")) else {
            return Err(format!("{op}: bad pmu"));
        };
        let pmu = self.pmus[at].id;
        if op == "set_mux" {
            let interval = Nanos(millis(v, "ms", 0.0, 0.0));
            if interval.0 >= 1_000_000 && interval != self.pmus[at].mux {
                for cpu in 0..self.cpus {
                    self.sched.set_mux_interval_of(VcpuId(cpu), pmu, interval);
                }
                self.pmus[at].mux = interval;
            }
            let result = self.sched.set_mux_interval(self.now, pmu, interval);
            return Ok(result.map_err(RegisterError::errno));
        }
        let Some(cpu) = u16::try_from(num(v, "cpu").unwrap_or(0))
            .ok()
            .filter(|c| *c < self.cpus)
        else {
            return Ok(Err(Errno::EINVAL));
        };
        let vcpu = VcpuId(cpu);
        if op == "rotate" {
            self.sched.fire_timer(self.now, vcpu, pmu);
            return Ok(Ok(()));
        }
        for _ in 0..num(v, "n").unwrap_or(1) {
            let timer = self
                .sched
                .armed_timers()
                .find(|t| t.pmu == pmu && t.vcpu == vcpu);
            let Some(timer) = timer else {
                return Ok(Err(Errno::ENODATA));
            };
            self.advance(timer.at.since(self.now).0, recorder);
        }
        Ok(Ok(()))
    }

    pub(super) fn on_cpu(&mut self, op: &str, v: &Value) -> Outcome {
        let cpu = num(v, "cpu")
            .and_then(|c| u16::try_from(c).ok())
            .filter(|c| *c < self.cpus);
        let now = self.now;
        if let "perf_exit_cpu" | "perf_init_cpu" = op {
            let Some(cpu) = cpu.map(VcpuId) else {
                return Ok(Err(Errno::EINVAL));
            };
            let call = if op == "perf_exit_cpu" {
                self.sched.exit_cpu(now, cpu)
            } else {
                self.sched.init_cpu(now, cpu)
            };
            return Ok(call.map_err(TaskError::errno));
        }
        if self.tasks.iter().any(|t| t.running) {
            return Err("scenario error: hotplug with running tasks".into());
        }
        let Some(cpu) = cpu.filter(|c| *c != 0).map(VcpuId) else {
            return Ok(Err(Errno::ENOENT));
        };
        let online = op == "online";
        if online != self.offline.contains(&cpu) {
            return Ok(Ok(()));
        }
        if online {
            self.offline.remove(&cpu);
            return Ok(self.sched.online(now, cpu).map_err(TaskError::errno));
        }
        self.offline.insert(cpu);
        Ok(self.sched.offline(now, cpu).map_err(TaskError::errno))
    }

    pub(super) fn cpumask(&self, v: &Value, out: &mut StepResult) {
        let pmu = self.pmu(text_of(v, "pmu"));
        let mask = pmu.and_then(|p| self.sched.cpumask(self.pmus[p].id));
        match mask {
            None => out.text("ret", "ENOENT"),
            Some(cpus) => {
                out.text("ret", "ok");
                out.text("cpumask", &cpu_list(cpus.map(|c| c.0)));
            }
        }
    }
}
