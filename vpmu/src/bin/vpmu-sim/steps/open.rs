//! Opening an event: attributes, target, result.

use serde_json::Value;
use vpmu::ids::VcpuId;
use vpmu::sched::{
    AttrFlags, CgroupId, ClockId, EventAttr, EventId, OpenFlags, OpenRequest, PmuType, ReadFormat,
    Target,
};

use crate::machine::{NamedEvent, SimMachine};
use crate::output::StepResult;
use crate::scenario::{Scenario, bits, flag, num, text_of, word};

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

impl SimMachine {
    pub(super) fn open(
        &mut self,
        v: &Value,
        scenario: &Scenario,
        out: &mut StepResult,
    ) -> Result<(), String> {
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
}
