//! Names of the scheduler's objects: small copyable numbers, one type each.

use core::fmt;

pub use crate::ids::PmuType;

macro_rules! arena_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// An id is an index with a generation: the id of an object that is
        /// gone never names its successor.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            pub(crate) index: u32,
            pub(crate) generation: u32,
        }

        impl super::arena::ArenaId for $name {
            fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
            fn index(self) -> u32 {
                self.index
            }
            fn generation(self) -> u32 {
                self.generation
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}.{})"), self.index, self.generation)
            }
        }
    };
}

arena_id! {
    /// An event. Linux: `struct perf_event *`.
    EventId
}
arena_id! {
    /// A context: the events of one CPU or of one task. Linux: `struct perf_event_context *`.
    ContextId
}
arena_id! {
    /// A task that events may follow. Linux: `struct task_struct *`.
    TaskId
}

impl EventId {
    /// Names no event.
    pub const NONE: Self = Self {
        index: u32::MAX,
        generation: u32::MAX,
    };

    /// A small number that no other living event has: drivers may keep their
    /// own state of events in a table by it.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.index as usize
    }
}

/// A registered PMU, numbered in order of registration. Linux: `struct pmu *`.
///
/// # Examples
/// ```
/// use vpmu::sched::PmuId;
///
/// assert!(PmuId(0) < PmuId(1), "PMUs are numbered in the order of registration");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PmuId(pub u16);

impl PmuId {
    /// The position in tables that have one entry a PMU.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A cgroup; the root is the one that tasks start in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u32);

impl CgroupId {
    /// The cgroup of idle CPUs and of new tasks.
    pub const ROOT: Self = Self(0);
}
