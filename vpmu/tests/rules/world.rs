//! A small machine for tests: mock PMUs, one task, and events in one line each.

use vpmu::ids::VcpuId;
use vpmu::sched::mock::{MockConfig, MockKind, MockPmu};
use vpmu::sched::{
    AttrFlags, Config, Errno, EventAttr, EventId, EventState, Extent, OpenError, OpenRequest,
    PmuClass, PmuDesc, PmuDriver, PmuId, ReadFormat, ReadOutcome, ReadValues, Scheduler,
    ScopePolicy, ScopeTopology, Target, TaskId,
};
use vpmu::units::Nanos;

pub(crate) const MS: u64 = 1_000_000;

/// What to open.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) request: OpenRequest,
    pub(crate) pmu: Option<usize>,
}

/// An event on the world's task.
pub(crate) fn task(w: &World<impl PmuDriver>) -> Spec {
    let attr = EventAttr::new(w.s.pmu(w.pmus[0]).unwrap().1, 1);
    Spec {
        request: OpenRequest::new(attr, Target::Task(w.t), None),
        pmu: None,
    }
}

/// An event on a CPU.
pub(crate) fn cpu(w: &World<impl PmuDriver>, cpu: u16) -> Spec {
    let mut spec = task(w);
    spec.request.target = Target::Cpu;
    spec.bound(cpu)
}

impl Spec {
    fn flag(mut self, f: AttrFlags) -> Self {
        self.request.attr.flags |= f;
        self
    }
    pub(crate) fn pinned(self) -> Self {
        self.flag(AttrFlags::PINNED)
    }
    pub(crate) fn exclusive(self) -> Self {
        self.flag(AttrFlags::EXCLUSIVE)
    }
    pub(crate) fn disabled(self) -> Self {
        self.flag(AttrFlags::DISABLED)
    }
    pub(crate) fn inherit(self) -> Self {
        self.flag(AttrFlags::INHERIT)
    }
    pub(crate) fn flags(self, f: AttrFlags) -> Self {
        self.flag(f)
    }
    pub(crate) fn bound(mut self, cpu: u16) -> Self {
        self.request.vcpu = Some(VcpuId(cpu));
        self
    }
    pub(crate) fn of(mut self, t: TaskId) -> Self {
        self.request.target = Target::Task(t);
        self
    }
    pub(crate) fn group(mut self, leader: EventId) -> Self {
        self.request.group = Some(leader);
        self
    }
    pub(crate) fn pmu(mut self, at: usize) -> Self {
        self.pmu = Some(at);
        self
    }
    pub(crate) fn config(mut self, c: u64) -> Self {
        self.request.attr.config = c;
        self
    }
    pub(crate) fn period(mut self, p: u64) -> Self {
        self.request.attr.sample = p;
        self
    }
    pub(crate) fn format(mut self, f: ReadFormat) -> Self {
        self.request.attr.read_format = f;
        self
    }
    pub(crate) fn attr(mut self, f: impl FnOnce(&mut EventAttr)) -> Self {
        f(&mut self.request.attr);
        self
    }
}

/// The machine.
#[derive(Debug)]
pub(crate) struct World<D> {
    pub(crate) s: Scheduler<D>,
    pub(crate) pmus: Vec<PmuId>,
    pub(crate) t: TaskId,
    pub(crate) now: Nanos,
}

impl World<MockPmu> {
    /// Four CPUs, a core PMU with `counters`, a software PMU, and a task on CPU 0.
    pub(crate) fn new(counters: u32) -> Self {
        Self::on(ScopeTopology::flat(4), ScopePolicy::Linux612, counters)
    }

    pub(crate) fn on(topology: ScopeTopology, policy: ScopePolicy, counters: u32) -> Self {
        let mut w = World::empty(topology, policy);
        w.add(
            PmuDesc::new("core", PmuClass::Hardware),
            MockPmu::new(MockConfig::core(counters)),
        );
        w.soft("soft");
        w
    }

    /// Another software PMU; its place.
    pub(crate) fn soft(&mut self, name: &str) -> usize {
        let soft = MockConfig::unlimited(MockKind::Counters {
            uncore: false,
            generic: false,
        });
        self.add(PmuDesc::new(name, PmuClass::Software), MockPmu::new(soft))
    }

    /// Another core PMU; its place.
    pub(crate) fn core(&mut self, name: &str, counters: u32) -> usize {
        self.add(
            PmuDesc::new(name, PmuClass::Hardware),
            MockPmu::new(MockConfig::core(counters)),
        )
    }
}

impl<D: PmuDriver> World<D> {
    pub(crate) fn empty(topology: ScopeTopology, policy: ScopePolicy) -> Self {
        let mut config = Config::new(topology);
        config.scope_policy = policy;
        let mut s = Scheduler::new(config);
        let t = s.create_task();
        s.switch_to(Nanos(0), VcpuId(0), Some(t)).unwrap();
        Self {
            s,
            pmus: vec![],
            t,
            now: Nanos(0),
        }
    }

    pub(crate) fn add(&mut self, desc: PmuDesc, driver: D) -> usize {
        self.pmus.push(self.s.register_pmu(desc, driver).unwrap());
        self.pmus.len() - 1
    }

    pub(crate) fn try_open(&mut self, spec: Spec) -> Result<EventId, OpenError> {
        let mut request = spec.request;
        if let Some(p) = spec.pmu {
            request.attr.pmu_type = self.s.pmu(self.pmus[p]).unwrap().1;
        }
        self.s.open(self.now, &request)
    }

    pub(crate) fn open(&mut self, spec: Spec) -> EventId {
        self.try_open(spec).unwrap()
    }

    pub(crate) fn refused(&mut self, spec: Spec) -> OpenError {
        self.try_open(spec).unwrap_err()
    }

    /// The PMU that takes an event.
    pub(crate) fn taken_by(&mut self, spec: Spec) -> PmuId {
        let e = self.open(spec);
        self.s.view(e).unwrap().pmu
    }

    pub(crate) fn errno(&mut self, spec: Spec) -> Errno {
        self.try_open(spec).unwrap_err().errno()
    }

    /// `n` events of one kind.
    pub(crate) fn opens(&mut self, n: usize, spec: &Spec) -> Vec<EventId> {
        (0..n).map(|_| self.open(spec.clone())).collect()
    }

    /// A group of `n`.
    pub(crate) fn group(&mut self, n: usize, spec: &Spec) -> Vec<EventId> {
        let mut all = vec![self.open(spec.clone())];
        let mut member = spec.clone().group(all[0]);
        member.request.attr.flags -= AttrFlags::PINNED | AttrFlags::EXCLUSIVE;
        for _ in 1..n {
            all.push(self.open(member.clone()));
        }
        all
    }

    /// Lets time pass until `ms`, with rotations.
    pub(crate) fn until(&mut self, ms: u64) {
        let end = Nanos(ms * MS);
        while let Some(t) = self.s.next_timer().filter(|t| t.at <= end) {
            self.s.fire_timer(t.at, t.vcpu, t.pmu);
        }
        self.now = end;
    }

    pub(crate) fn enable(&mut self, e: EventId) {
        self.s.enable(self.now, e, Extent::Event).unwrap();
    }

    pub(crate) fn disable(&mut self, e: EventId) {
        self.s.disable(self.now, e, Extent::Event).unwrap();
    }

    pub(crate) fn close(&mut self, e: EventId) {
        self.s.close(self.now, e).unwrap();
    }

    pub(crate) fn run(&mut self, cpu: u16, t: Option<TaskId>) {
        self.s.switch_to(self.now, VcpuId(cpu), t).unwrap();
    }

    pub(crate) fn state(&self, e: EventId) -> EventState {
        self.s.state(e).unwrap()
    }

    /// One letter an event: A I E O X.
    pub(crate) fn states(&self, events: &[EventId]) -> String {
        let letter = |e: &EventId| match self.state(*e) {
            EventState::Active => 'A',
            EventState::Inactive => 'I',
            EventState::Error => 'E',
            EventState::Off => 'O',
            EventState::Exit => 'X',
            EventState::Dead => 'D',
        };
        events.iter().map(letter).collect()
    }

    /// States in `n` windows of 4 ms that begin now.
    pub(crate) fn windows(&mut self, n: u64, events: &[EventId]) -> Vec<String> {
        let from = self.now.0 / MS;
        let mut all = vec![];
        for i in 0..n {
            self.until(from + 4 * i);
            all.push(self.states(events));
        }
        all
    }

    /// Enabled and running time in ms.
    pub(crate) fn times(&self, e: EventId) -> (u64, u64) {
        let (enabled, running) = self.s.times(self.now, e).unwrap();
        (enabled.0 / MS, running.0 / MS)
    }

    pub(crate) fn read(&mut self, e: EventId) -> ReadValues {
        match self.s.read(self.now, e, 1 << 14).unwrap() {
            ReadOutcome::Values(v) => v,
            ReadOutcome::EndOfFile => panic!("end of file"),
        }
    }

    pub(crate) fn is_eof(&mut self, e: EventId) -> bool {
        self.s.read(self.now, e, 0) == Ok(ReadOutcome::EndOfFile)
    }
}
