//! The Linux perf event scheduler, rule for rule, as a pure library.
//!
//! The rules are numbered (R-001 …) in `docs/perf-core.md`; `vpmu/RULES.md`
//! lists where each one lives and which test holds it. There is no clock, no
//! thread and no I/O in here: the caller says what time it is, which task runs
//! where, and lets the rotation timers expire.
//!
//! ```text
//!  open/close/enable/…   switch_to   fire_timer   offline/online
//!          └───────────────┬──────────────┴────────────┘
//!                     Scheduler<D>
//!   registry ─ open ─ install ─▶ resched ─▶ sched_out ─▶ sched_in ─▶ commit
//!                                  (classes, R-120)  (passes, R-124)   │ difference only
//!                                                                      ▼
//!                                                              D: PmuDriver
//! ```
//!
//! **Cost.** Taking a group off and putting it on again only moves
//! reservations; [`PmuDriver::start`] and [`PmuDriver::stop`] are called for
//! the difference at the end of each operation. A pass walks only groups that
//! want to run and leaves at the first refusal. Nothing in a reschedule
//! allocates.

mod arena;
pub mod attr;
mod cgroup;
mod clock;
mod commit;
pub mod constraints;
mod context;
mod control;
mod cpu;
pub mod driver;
pub mod error;
mod event;
mod find_pmu;
mod groups;
mod hotplug;
mod ids;
mod inherit;
mod install;
mod invariants;
mod lifetime;
mod lists;
mod migrate;
#[cfg(any(test, feature = "test-doubles"))]
pub mod mock;
mod open;
mod open_attr;
mod overflow;
mod query;
mod rated;
mod read;
mod registry;
mod request;
mod resched;
mod rotate;
mod sched_in;
mod sched_out;
pub mod scope;
pub mod solver;
mod state;
mod switch;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

pub use attr::{AttrFlags, ClockId, EventAttr, ReadFormat};
pub use control::Extent;
pub use driver::PmuDriver;
pub use error::{Errno, EventError, OpenError, RegisterError, TaskError};
pub use groups::{GroupKey, RunKey};
pub use ids::{CgroupId, ContextId, EventId, PmuId, PmuType, TaskId};
pub use overflow::{Overflow, next_period};
pub use query::{EventTimes, EventView};
pub use read::{ReadOutcome, ReadValue, ReadValues};
pub use registry::{PmuCaps, PmuClass, PmuDesc};
pub use request::{OpenFlags, OpenRequest, Target};
pub use rotate::TimerExpiry;
pub use scope::{Scope, ScopePolicy, ScopeTopology};
pub use state::{EventClass, EventState, GroupSet};

use crate::ids::VcpuId;
use crate::units::Nanos;
use arena::Arena;
use context::{EventContext, Owner};
use cpu::{CpuRecord, Task};
use event::PerfEvent;

/// What a scheduler is built with.
///
/// # Examples
/// ```
/// use vpmu::sched::{Config, ScopePolicy, ScopeTopology};
///
/// let mut config = Config::new(ScopeTopology::flat(4));
/// config.scope_policy = ScopePolicy::Linux612; // as the released kernel
/// assert_eq!(config.hz, 250);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The CPUs and how they share caches and packages.
    pub topology: ScopeTopology,
    /// What a hot-unplug does to events of PMUs with a scope (R-247).
    pub scope_policy: ScopePolicy,
    /// Ticks a second.
    pub hz: u32,
    /// Most samples a second. Linux: `perf_event_max_sample_rate`.
    pub max_sample_rate: u64,
    /// Check the scheduler's own consistency after every operation; debug
    /// builds only, and O(events).
    pub self_check: bool,
}

impl Config {
    /// The settings of a stock kernel for `topology`, with the product's scope policy.
    #[must_use]
    pub const fn new(topology: ScopeTopology) -> Self {
        Self {
            topology,
            scope_policy: ScopePolicy::Designated,
            hz: 250,
            max_sample_rate: 100_000,
            self_check: true,
        }
    }
}

/// The scheduler of a machine: its CPUs, tasks, PMUs and events.
///
/// Linux: `kernel/events/core.c`.
///
/// # Examples
/// ```
/// use vpmu::ids::VcpuId;
/// use vpmu::sched::constraints::{X86Model, X86Pmu};
/// use vpmu::sched::solver::Constraint;
/// use vpmu::sched::{
///     Config, EventAttr, EventState, OpenRequest, PmuClass, PmuDesc, Scheduler, ScopeTopology, Target,
/// };
/// use vpmu::units::Nanos;
///
/// // Two counters, each of which counts any event, once a nanosecond.
/// let two = X86Model {
///     gp: 2,
///     fixed: 0,
///     decode: |_| Some((Constraint::of(0b11), 1)),
/// };
/// let mut s = Scheduler::new(Config::new(ScopeTopology::flat(1)));
/// let pmu = s.register_pmu(PmuDesc::new("cpu", PmuClass::Hardware), X86Pmu::new(two))?;
/// let (_, pmu_type) = s.pmu(pmu).unwrap();
/// let (start, cpu) = (Nanos(0), VcpuId(0));
/// let task = s.create_task();
/// s.switch_to(start, cpu, Some(task))?;
///
/// // Three events of a task: one waits.
/// let request = OpenRequest::new(EventAttr::new(pmu_type, 0), Target::Task(task), None);
/// let mut events = Vec::new();
/// for _ in 0..3 {
///     events.push(s.open(start, &request)?);
/// }
/// assert_eq!(s.state(events[2]), Some(EventState::Inactive));
///
/// // The scheduler has no clock: the caller says when a timer expires.
/// let timer = s.next_timer().unwrap();
/// assert_eq!(timer.at, Nanos(4_000_000));
/// s.fire_timer(timer.at, timer.vcpu, timer.pmu);
/// assert_eq!(s.state(events[2]), Some(EventState::Active), "its turn has come");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Scheduler<D> {
    config: Config,
    now: Nanos,
    events: Arena<EventId, PerfEvent>,
    contexts: Arena<ContextId, EventContext>,
    tasks: Arena<TaskId, Task>,
    cpus: Vec<CpuRecord>,
    pmus: Vec<registry::RegisteredPmu<D>>,
    /// Type to PMU.
    types: BTreeMap<PmuType, PmuId>,
    masks: scope::ScopeMasks,
    timers: BTreeSet<(Nanos, VcpuId, PmuId)>,
    cgroups: cgroup::Cgroups,
    next_event_id: u64,
    /// Events that were taken in or out since the last commit.
    touched: Vec<EventId>,
    /// Slots whose PMU was touched since the last commit.
    touched_pmus: Vec<(VcpuId, PmuId)>,
    /// Scratch of a pass, kept so that a pass does not allocate.
    heads: Vec<sched_in::RunHead>,
}

impl<D: PmuDriver> Scheduler<D> {
    /// A machine with all CPUs online, no PMU and no task.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut contexts = Arena::new();
        let mut masks = scope::ScopeMasks::default();
        let mut cpus = Vec::new();
        for vcpu in config.topology.vcpus() {
            cpus.push(CpuRecord {
                ctx: contexts.insert(EventContext::new(Owner::Cpu(vcpu))),
                task_ctx: None,
                current: None,
                up: true,
                online: true,
                cgroup: None,
                pmus: Vec::new(),
                throttled: 0,
                ticks: 0,
                last_tick: Nanos(0),
            });
        }
        for vcpu in config.topology.vcpus() {
            masks.online(&config.topology, vcpu, |c| c <= vcpu);
        }
        Self {
            config,
            now: Nanos(0),
            events: Arena::new(),
            contexts,
            tasks: Arena::new(),
            cpus,
            pmus: Vec::new(),
            types: BTreeMap::new(),
            masks,
            timers: BTreeSet::new(),
            cgroups: cgroup::Cgroups::default(),
            next_event_id: 0,
            touched: Vec::new(),
            touched_pmus: Vec::new(),
            heads: Vec::new(),
        }
    }

    /// Sets the clock for the operation that begins; it never runs backwards.
    fn at(&mut self, now: Nanos) {
        self.now = self.now.max(now);
    }

    fn cpu(&self, vcpu: VcpuId) -> &CpuRecord {
        &self.cpus[usize::from(vcpu.0)]
    }

    fn cpu_mut(&mut self, vcpu: VcpuId) -> &mut CpuRecord {
        &mut self.cpus[usize::from(vcpu.0)]
    }

    fn has_cpu(&self, vcpu: VcpuId) -> bool {
        usize::from(vcpu.0) < self.cpus.len()
    }

    fn is_up(&self, vcpu: VcpuId) -> bool {
        self.cpus.get(usize::from(vcpu.0)).is_some_and(|c| c.up)
    }
}
