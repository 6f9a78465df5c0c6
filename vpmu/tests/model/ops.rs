//! Random operations, carried out on the scheduler and on the naive model side
//! by side. An operation is six bytes; whatever they are, something happens.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{
    AttrFlags, Config, EventAttr, EventId, EventState, Extent, OpenRequest, PmuClass, PmuDesc,
    PmuId, ReadFormat, ReadOutcome, Scheduler, ScopeTopology, Target, TaskId,
};
use vpmu::units::Nanos;

use super::types::{Ctx, Ev, Naive, St};

pub(crate) const CPUS: usize = 2;
const TASKS: usize = 3;
const MAX_EVENTS: usize = 24;
const MS: u64 = 1_000_000;

/// The shape of the machine under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) counters: [u32; 2],
    pub(crate) interval_ms: [u64; 2],
}

impl Shape {
    pub(crate) fn of(seed: u8) -> Self {
        let s = u32::from(seed);
        Self {
            counters: [1 + s % 4, 1 + s / 4 % 3],
            interval_ms: [1 + u64::from(s / 12 % 4), 1 + u64::from(s / 48)],
        }
    }
}

/// Both, and how they name events.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) real: Scheduler<MockPmu>,
    pub(crate) naive: Naive,
    tasks: Vec<TaskId>,
    ids: Vec<EventId>,
    rates: Vec<u64>,
    types: Vec<PmuId>,
}

impl Pair {
    pub(crate) fn new(shape: Shape, self_check: bool) -> Self {
        let mut config = Config::new(ScopeTopology::flat(CPUS as u16));
        config.self_check = self_check;
        let mut real = Scheduler::new(config);
        let mut types = Vec::new();
        for (i, counters) in shape.counters.iter().enumerate() {
            let mut desc = PmuDesc::new("core", PmuClass::Hardware);
            desc.mux_interval = Nanos(shape.interval_ms[i] * MS);
            types.push(
                real.register_pmu(desc, MockPmu::new(MockConfig::core(*counters)))
                    .unwrap(),
            );
        }
        for _ in 0..2 {
            let soft = MockConfig::unlimited(MockKind::Counters {
                uncore: false,
                generic: false,
            });
            let desc = PmuDesc::new("soft", PmuClass::Software);
            types.push(real.register_pmu(desc, MockPmu::new(soft)).unwrap());
        }
        let tasks = (0..TASKS).map(|_| real.create_task()).collect();
        let room = shape
            .counters
            .iter()
            .map(|c| Some(*c as usize))
            .chain([None, None])
            .collect();
        let interval = shape
            .interval_ms
            .iter()
            .map(|i| i * MS)
            .chain([4 * MS, 4 * MS])
            .collect();
        let naive = Naive::new(CPUS, room, interval);
        Self {
            real,
            naive,
            tasks,
            ids: vec![],
            rates: vec![],
            types,
        }
    }

    fn now(&self) -> Nanos {
        Nanos(self.naive.now)
    }

    fn pick_event(&self, byte: u8) -> Option<usize> {
        let open: Vec<usize> = (0..self.ids.len())
            .filter(|e| self.naive.evs[*e].open)
            .collect();
        open.get(usize::from(byte) % open.len().max(1)).copied()
    }

    /// One operation on both.
    pub(crate) fn step(&mut self, op: [u8; 6]) -> Result<(), String> {
        let event = self.pick_event(op[1]);
        let now = self.now();
        match (op[0] % 16, event) {
            (0..=4, _) | (_, None) => self.open(op),
            (5 | 6, Some(e)) => {
                self.naive.enable(e);
                self.real
                    .enable(now, self.ids[e], Extent::Event)
                    .map_err(|e| e.to_string())?;
            }
            (7, Some(e)) => {
                self.naive.disable(e);
                self.real
                    .disable(now, self.ids[e], Extent::Event)
                    .map_err(|e| e.to_string())?;
            }
            (8 | 9, Some(e)) => self.close(e)?,
            (10, Some(e)) => self.read(e)?,
            (11 | 12, _) => self.switch(op)?,
            _ => self.sleep(u64::from(op[2]) * MS / 16),
        }
        self.compare()
    }

    fn open(&mut self, op: [u8; 6]) {
        let count = self.naive.evs.iter().filter(|e| e.open).count();
        let [_, who, what, bits, place, bound] = op;
        let leader = Some(what / 4)
            .filter(|_| what % 4 == 0)
            .and_then(|b| self.pick_event(b));
        let leader = leader.filter(|l| self.naive.evs[*l].leader == *l);
        let ctx = match usize::from(who) % (CPUS + TASKS) {
            c if c < CPUS => Ctx::Cpu(c),
            t => Ctx::Task(t - CPUS),
        };
        let bound = match ctx {
            Ctx::Cpu(c) => Some(c),
            Ctx::Task(_) => Some(usize::from(bound) % CPUS).filter(|_| bound % 4 == 3),
        };
        let pmu = [0, 0, 3, 1, 2, 0, 1, 0][usize::from(place) % 8];
        let mut e = Ev {
            ctx,
            bound,
            pmu,
            slice: pmu,
            pinned: bits & 3 == 3,
            exclusive: bits & 28 == 28,
            software: pmu >= 2,
            pure: pmu >= 2,
            leader: self.ids.len(),
            state: if bits & 0xe0 == 0xe0 {
                St::Off
            } else {
                St::Inactive
            },
            on: None,
            enabled: 0,
            running: 0,
            index: 0,
            got_on: 0,
            open: true,
        };
        if let Some(l) = leader {
            let v = &self.naive.evs[l];
            (e.ctx, e.bound, e.pinned, e.exclusive, e.leader) = (v.ctx, v.bound, false, false, l);
            if !e.software {
                // Moves of software groups are for the scenarios.
                (e.pmu, e.software, e.pure) = (v.slice, v.slice >= 2, v.slice >= 2);
            }
            e.slice = if v.slice >= 2 { e.pmu } else { v.slice };
        }
        if count < MAX_EVENTS {
            self.open_both(e, leader, u64::from(op[5] % 7) + 1);
        }
    }

    fn open_both(&mut self, e: Ev, leader: Option<usize>, rate: u64) {
        let mut attr = EventAttr::new(self.real.pmu(self.types[e.pmu]).unwrap().1, rate);
        attr.read_format = ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING;
        attr.flags.set(AttrFlags::PINNED, e.pinned);
        attr.flags.set(AttrFlags::EXCLUSIVE, e.exclusive);
        attr.flags.set(AttrFlags::DISABLED, e.state == St::Off);
        let target = match e.ctx {
            Ctx::Cpu(_) => Target::Cpu,
            Ctx::Task(t) => Target::Task(self.tasks[t]),
        };
        let mut request = OpenRequest::new(attr, target, e.bound.map(|c| VcpuId(c as u16)));
        request.group = leader.map(|l| self.ids[l]);
        // A group that could never fit is refused by the PMU; the model has no opens that fail.
        if let Ok(id) = self.real.open(self.now(), &request) {
            self.naive.open(e);
            self.ids.push(id);
            self.rates.push(rate);
        }
    }

    fn close(&mut self, e: usize) -> Result<(), String> {
        // R-049 counts time that passed before, which a model without stamps cannot.
        if self.naive.evs[e].state <= St::Off && !self.naive.siblings(e).is_empty() {
            return Ok(());
        }
        self.naive.close(e);
        self.real
            .close(self.now(), self.ids[e])
            .map_err(|e| e.to_string())
    }

    fn switch(&mut self, op: [u8; 6]) -> Result<(), String> {
        let cpu = usize::from(op[1]) % CPUS;
        let next = Some(usize::from(op[2]) % (TASKS + 1)).filter(|t| *t < TASKS);
        if next.is_some_and(|t| self.naive.place(Ctx::Task(t)).is_some()) {
            return Ok(());
        }
        self.naive.switch(cpu, next);
        let task = next.map(|t| self.tasks[t]);
        self.real
            .switch_to(self.now(), VcpuId(cpu as u16), task)
            .map_err(|e| e.to_string())
    }

    fn sleep(&mut self, span: u64) {
        let end = Nanos(self.naive.now + span);
        self.naive.sleep(span);
        while let Some(t) = self.real.next_timer().filter(|t| t.at <= end) {
            self.real.fire_timer(t.at, t.vcpu, t.pmu);
        }
    }

    /// Reads an event: the count is its rate times its running time.
    fn read(&mut self, e: usize) -> Result<(), String> {
        let outcome = self
            .real
            .read(self.now(), self.ids[e], 4096)
            .map_err(|e| e.to_string())?;
        let v = &self.naive.evs[e];
        match outcome {
            ReadOutcome::EndOfFile if v.state == St::Error => Ok(()),
            ReadOutcome::Values(r)
                if (r.enabled.0, r.running.0) == (v.enabled, v.running)
                    && r.values[0].count.0 == v.running * self.rates[e] =>
            {
                Ok(())
            }
            other => Err(format!("event {e}: model {v:?}, read {other:?}")),
        }
    }

    /// States and times of all events.
    fn compare(&self) -> Result<(), String> {
        for (e, v) in self.naive.evs.iter().enumerate().filter(|(_, v)| v.open) {
            let id = self.ids[e];
            let view = self.real.view(id).map_err(|e| e.to_string())?;
            let state = match v.state {
                St::Error => EventState::Error,
                St::Off => EventState::Off,
                St::Inactive => EventState::Inactive,
                St::Active => EventState::Active,
            };
            let times = self.real.times(self.now(), id).map_err(|e| e.to_string())?;
            let on = view.oncpu.map(|c| usize::from(c.0));
            if view.state != state || on != v.on || (times.0.0, times.1.0) != (v.enabled, v.running)
            {
                return Err(format!(
                    "event {e} at {}: model {v:?}, real {view:?} {times:?}",
                    self.naive.now
                ));
            }
        }
        Ok(())
    }

    /// The states of all open events, in the model.
    pub(crate) fn describe(&self) -> String {
        let open = self.naive.evs.iter().enumerate().filter(|(_, v)| v.open);
        let one = open.map(|(e, v)| {
            let marks = [(v.pinned, 'P'), (v.exclusive, 'X'), (v.software, 'S')];
            let marks: String = marks.iter().filter(|m| m.0).map(|m| m.1).collect();
            format!(
                "{e}{marks}/{}:{:?}@{:?} pmu{} {:?}",
                v.leader, v.ctx, v.bound, v.pmu, v.state
            )
        });
        format!(
            "t={} run={:?} {}",
            self.naive.now,
            self.naive.current,
            one.collect::<Vec<_>>().join(" | ")
        )
    }
}
