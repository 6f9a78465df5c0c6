//! The steps of a scenario.

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::{
    AttrFlags, CgroupId, ClockId, Errno, EventAttr, EventId, EventState, Extent, OpenFlags,
    OpenRequest, PmuType, ReadFormat, ReadOutcome, ReadValues, Target, TaskError,
};
use vpmu::units::Nanos;

use crate::machine::{Machine, NamedEvent, NamedTask};
use crate::output::{Step, cpu_list, quote};
use crate::scenario::{Scenario, bits, flag, millis, num, text_of, word};
use crate::timeline::Recorder;

type Outcome = Result<Result<(), Errno>, String>;

/// The size of the buffer that the oracle reads into.
const READ_SIZE: i64 = (2 + 4 * 128) * 8;

const FORMATS: [(&str, u64); 5] = [
    ("enabled", 1),
    ("running", 2),
    ("id", 4),
    ("group", 8),
    ("lost", 16),
];
const FLAGS: [(&str, u64); 4] = [
    ("no_group", 1),
    ("output", 2),
    ("cgroup", 4),
    ("cloexec", 8),
];
const ATTRS: [(&str, AttrFlags); 9] = [
    ("disabled", AttrFlags::DISABLED),
    ("pinned", AttrFlags::PINNED),
    ("exclusive", AttrFlags::EXCLUSIVE),
    ("inherit", AttrFlags::INHERIT),
    ("exclude_user", AttrFlags::EXCLUDE_USER),
    ("exclude_kernel", AttrFlags::EXCLUDE_KERNEL),
    ("exclude_hv", AttrFlags::EXCLUDE_HV),
    ("remove_on_exec", AttrFlags::REMOVE_ON_EXEC),
    ("enable_on_exec", AttrFlags::ENABLE_ON_EXEC),
];

impl Machine {
    pub(crate) fn step(
        &mut self,
        i: usize,
        v: &Value,
        scenario: &Scenario,
        recorder: &mut Recorder,
    ) -> Result<Step, String> {
        let op = text_of(v, "op").unwrap_or("?");
        let event = text_of(v, "ev");
        let mut out = Step::new(i, op, event);
        let group = text_of(v, "group");
        let missing = if op == "open" {
            group.is_some() && self.event(group).is_none()
        } else {
            event.is_some() && self.event(event).is_none()
        };
        if missing {
            out.text("ret", "skip");
        } else {
            match op {
                "open" => self.open(v, scenario, &mut out)?,
                "read" => self.read(v, &mut out)?,
                "cpumask" => self.cpumask(v, &mut out),
                _ => {
                    let ret = self.plain(op, v, recorder)?;
                    out.text("ret", ret.map_or_else(Errno::name, |()| "ok"));
                }
            }
        }
        self.epilogue(&mut out);
        Ok(out)
    }

    /// Clock, states and timers after a step.
    fn epilogue(&self, out: &mut Step) {
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

    fn attr(&self, v: &Value, scenario: &Scenario) -> Result<EventAttr, String> {
        let mut attr = EventAttr::new(PmuType(0), 0);
        if let Some(name) = text_of(v, "pmu") {
            let pmu = self
                .pmu(Some(name))
                .ok_or_else(|| format!("no pmu {name}"))?;
            attr.pmu_type = self.type_of(pmu);
            attr.config = word(v, "rate").unwrap_or(1) & 0xffff;
            attr.config |= (word(v, "mask").unwrap_or(0) & 0xff) << 16;
            if let Some(fixed) = word(v, "fixed") {
                attr.config |= fixed.wrapping_add(1) << 24;
            }
            attr.config |= u64::from(flag(v, "fixgp")) << 28;
        }
        if let Some(t) = text_of(v, "type") {
            attr.pmu_type = match t {
                "hardware" => PmuType::HARDWARE,
                "hw_cache" => PmuType::HW_CACHE,
                "software" => PmuType::SOFTWARE,
                "raw" => PmuType::RAW,
                _ => return Err(format!("bad type {t}")),
            };
        } else if let Some(t) = num(v, "type") {
            attr.pmu_type = PmuType(u32::try_from(t).unwrap_or(u32::MAX));
        }
        if let Some(config) = word(v, "config") {
            attr.config = config;
        }
        match v.get("ext") {
            Some(Value::String(name)) => {
                attr.config |= self
                    .pmu(Some(name))
                    .map_or(0, |p| u64::from(self.type_of(p).0) << 32);
            }
            Some(_) => attr.config |= word(v, "ext").unwrap_or(0) << 32,
            None => {}
        }
        attr.size = num(v, "attr_size").map_or(attr.size, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let format = bits(v.get("format").or(scenario.format.as_ref()), &FORMATS, 7)?;
        attr.read_format = ReadFormat::from_bits_retain(format);
        attr.sample = word(v, "period").unwrap_or(0);
        attr.sample_type = word(v, "sample_type").unwrap_or(0);
        attr.clock = num(v, "clockid").map(|c| ClockId(i32::try_from(c).unwrap_or(i32::MAX)));
        for (name, bit) in ATTRS {
            attr.flags.set(bit, flag(v, name));
        }
        let software = attr.pmu_type == PmuType::SOFTWARE;
        if flag(v, "freq") || (software && attr.sample != 0) {
            return Err("freq mode and sampling software events run on the real clock".into());
        }
        if software && matches!(attr.config, 2..=8 | 10 | 11) {
            return Err("software events that count real things are not reproducible".into());
        }
        Ok(attr)
    }

    fn type_of(&self, pmu: usize) -> PmuType {
        self.sched
            .pmu(self.pmus[pmu].id)
            .map_or(PmuType(u32::MAX), |p| p.1)
    }

    fn target(&self, v: &Value, flags: u64) -> Result<Target, String> {
        let mut target = match text_of(v, "task") {
            None => Target::Cpu,
            Some(name) => {
                let task = self
                    .task(Some(name))
                    .ok_or_else(|| format!("no task {name}"))?;
                Target::Task(self.tasks[task].id.unwrap_or(self.ghost))
            }
        };
        match num(v, "pid") {
            None => {}
            Some(-1) => target = Target::Cpu,
            Some(0) => target = Target::Task(self.control),
            Some(_) => target = Target::Task(self.ghost),
        }
        if flags & 4 != 0 && target != Target::Cpu {
            // No file of the oracle is a cgroup.
            target = Target::Cgroup(CgroupId(u32::MAX));
        }
        Ok(target)
    }

    fn open(&mut self, v: &Value, scenario: &Scenario, out: &mut Step) -> Result<(), String> {
        let name = text_of(v, "ev").unwrap_or("?");
        let attr = self.attr(v, scenario)?;
        let flags = bits(v.get("flags"), &FLAGS, 0)?;
        let vcpu = match num(v, "cpu").unwrap_or(-1) {
            -1 => None,
            n => Some(VcpuId(u16::try_from(n).unwrap_or(u16::MAX))),
        };
        let mut group = self.event(text_of(v, "group")).map(|e| self.events[e].id);
        match num(v, "group_fd") {
            None => {}
            Some(-1) => group = None,
            Some(_) => group = Some(EventId::NONE),
        }
        if self.event(Some(name)).is_some() {
            return Err(format!("event {name} already open"));
        }
        let target = self.target(v, flags)?;
        let flags = OpenFlags::from_bits_retain(flags);
        let request = OpenRequest {
            attr,
            target,
            vcpu,
            group,
            flags,
            in_kernel: false,
        };
        match self.sched.open(self.now, &request) {
            Err(e) => out.text("ret", e.errno().name()),
            Ok(id) => {
                out.text("ret", "ok");
                let view = self.sched.view(id).map_err(|e| e.to_string())?;
                out.text("pmu", &self.sched.pmu_name(view.pmu).unwrap_or_default());
                self.names.push((view.id, name.into()));
                let format = attr.read_format.bits();
                self.events.push(NamedEvent {
                    name: name.into(),
                    id,
                    format,
                });
            }
        }
        Ok(())
    }

    fn read(&mut self, v: &Value, out: &mut Step) -> Result<(), String> {
        let Some(at) = self.event(text_of(v, "ev")) else {
            return Err("read: no event".into());
        };
        let event = self.events[at].clone();
        let size = usize::try_from(num(v, "size").unwrap_or(READ_SIZE)).unwrap_or(0);
        match self.sched.read(self.now, event.id, size) {
            Err(e) => out.text("ret", e.errno().name()),
            Ok(ReadOutcome::EndOfFile) => out.text("ret", "EOF"),
            Ok(ReadOutcome::Values(values)) => {
                out.text("ret", "ok");
                self.values(&event, &values, out);
            }
        }
        Ok(())
    }

    fn values(&self, event: &NamedEvent, values: &ReadValues, out: &mut Step) {
        if event.format & 8 != 0 {
            out.raw("nr", values.values.len());
        }
        if event.format & 1 != 0 {
            out.raw("enabled", values.enabled.0);
        }
        if event.format & 2 != 0 {
            out.raw("running", values.running.0);
        }
        let list = values.values.iter().map(|v| {
            let name = if event.format & 4 != 0 {
                self.name_of(v.id)
            } else {
                "?"
            };
            let lost = if event.format & 16 != 0 {
                format!(",{}", v.lost)
            } else {
                String::new()
            };
            format!("[{},{}{lost}]", quote(name), v.count.0)
        });
        let list: Vec<String> = list.collect();
        out.raw("values", format!("[{}]", list.join(",")));
    }

    fn cpumask(&self, v: &Value, out: &mut Step) {
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

    /// Steps whose only result is success or an errno.
    fn plain(&mut self, op: &str, v: &Value, recorder: &mut Recorder) -> Outcome {
        if let Some(at) = self.event(text_of(v, "ev")) {
            return self.on_event(op, v, at);
        }
        match op {
            "run" | "stop" | "switch" | "move" | "fork" | "exit" => self.on_task(op, v),
            "sleep" => {
                let span = millis(v, "ms", 0.0, 0.5).wrapping_add(word(v, "ns").unwrap_or(0));
                self.advance(span, recorder);
                Ok(Ok(()))
            }
            "rotate" | "rotations" | "set_mux" => self.on_timer(op, v, recorder),
            "offline" | "online" | "perf_exit_cpu" | "perf_init_cpu" => self.on_cpu(op, v),
            "state" => Ok(Ok(())),
            _ => Err(format!("unknown op {op}")),
        }
    }

    fn on_event(&mut self, op: &str, v: &Value, at: usize) -> Outcome {
        let (now, id) = (self.now, self.events[at].id);
        let extent = if flag(v, "group") {
            Extent::Group
        } else {
            Extent::Event
        };
        let n = i32::try_from(num(v, "n").unwrap_or(1)).unwrap_or(i32::MAX);
        let result = match op {
            "close" => {
                self.events.remove(at);
                self.sched.close(now, id)
            }
            "enable" => self.sched.enable(now, id, extent),
            "disable" => self.sched.disable(now, id, extent),
            "reset" => self.sched.reset(now, id, extent),
            "refresh" => self.sched.refresh_budget(now, id, n),
            "period" => self
                .sched
                .set_period(now, id, word(v, "value").unwrap_or(0)),
            "overflow" => return Ok(self.overflow(id, n)),
            "ioctl" => return Ok(self.ioctl(v, id)),
            "state" => Ok(()),
            _ => return Err(format!("unknown op {op}")),
        };
        Ok(result.map_err(vpmu::sched::EventError::errno))
    }

    fn overflow(&mut self, id: EventId, n: i32) -> Result<(), Errno> {
        for _ in 0..n {
            let mock = self
                .sched
                .view(id)
                .is_ok_and(|v| self.pmus.iter().any(|p| p.id == v.pmu));
            if !mock {
                return Err(Errno::EAGAIN);
            }
            let _ = self
                .sched
                .overflow(self.now, id)
                .map_err(vpmu::sched::EventError::errno)?;
        }
        Ok(())
    }

    fn ioctl(&mut self, v: &Value, id: EventId) -> Result<(), Errno> {
        let arg = num(v, "arg").unwrap_or(0);
        let extent = if arg & 1 != 0 {
            Extent::Group
        } else {
            Extent::Event
        };
        let n = i32::try_from(arg).unwrap_or(i32::MAX);
        let now = self.now;
        let result = match num(v, "cmd").unwrap_or(0) {
            0x2400 => self.sched.enable(now, id, extent),
            0x2401 => self.sched.disable(now, id, extent),
            0x2402 => self.sched.refresh_budget(now, id, n),
            0x2403 => self.sched.reset(now, id, extent),
            // SET_OUTPUT: nowhere, or to no event. PAUSE_OUTPUT: there is no buffer.
            0x2405 => return if arg == -1 { Ok(()) } else { Err(Errno::EBADF) },
            0x4004_2409 => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOTTY),
        };
        result.map_err(vpmu::sched::EventError::errno)
    }

    fn busy(&self, cpu: VcpuId, but: usize) -> bool {
        self.tasks
            .iter()
            .enumerate()
            .any(|(i, t)| i != but && t.running && t.cpu == cpu)
    }

    fn on_task(&mut self, op: &str, v: &Value) -> Outcome {
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

    fn on_timer(&mut self, op: &str, v: &Value, recorder: &mut Recorder) -> Outcome {
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
            return Ok(result.map_err(vpmu::sched::PmuError::errno));
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

    fn on_cpu(&mut self, op: &str, v: &Value) -> Outcome {
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
}
