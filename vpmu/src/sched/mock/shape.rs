//! What a simulated PMU looks like.

use alloc::collections::BTreeSet;

use crate::ids::VcpuId;
use crate::sched::PmuType;

/// How counters are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MockPlacement {
    /// The first free allowed counter; events never move.
    Greedy,
    /// Whatever makes all fit; counters have no numbers.
    Match,
    /// There is always room.
    Unlimited,
}

/// What a mock PMU counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MockKind {
    /// Events with a rate; `uncore` ones only on CPUs and without sampling.
    Counters {
        /// Refuses tasks and sampling.
        uncore: bool,
        /// Also takes generic hardware and cache events.
        generic: bool,
    },
    /// Software events; the two clocks are forwarded to PMUs of their own.
    Software {
        /// The type of the CPU clock's PMU.
        cpu_clock: PmuType,
        /// The type of the task clock's PMU.
        task_clock: PmuType,
    },
    /// One of the two clocks: counts nanoseconds of running time.
    Clock {
        /// The software event it stands for.
        config: u64,
    },
    /// Knows no event at all: a tracepoint or breakpoint PMU.
    Refuse,
}

/// The shape of a mock PMU.
#[derive(Clone, Debug)]
pub struct MockConfig {
    /// What it counts.
    pub kind: MockKind,
    /// General purpose counters a CPU, up to 32.
    pub counters: u32,
    /// Fixed counters a CPU, up to 4.
    pub fixed: u32,
    /// How counters are chosen.
    pub placement: MockPlacement,
    /// Has transactions; else the core's default.
    pub txn: bool,
    /// Its events are only valid as members of a group.
    pub needs_group: bool,
    /// The CPUs that have it; all if none are listed.
    pub vcpus: Option<BTreeSet<VcpuId>>,
}

impl MockConfig {
    /// A core PMU with `counters` interchangeable counters.
    #[must_use]
    pub const fn core(counters: u32) -> Self {
        Self {
            kind: MockKind::Counters {
                uncore: false,
                generic: false,
            },
            counters,
            fixed: 0,
            placement: MockPlacement::Greedy,
            txn: true,
            needs_group: false,
            vcpus: None,
        }
    }

    /// A PMU that always has room.
    #[must_use]
    pub const fn unlimited(kind: MockKind) -> Self {
        Self {
            kind,
            counters: 0,
            fixed: 0,
            placement: MockPlacement::Unlimited,
            txn: false,
            needs_group: false,
            vcpus: None,
        }
    }
}
