//! What happened to designated vCPUs and to the events that follow them.

use alloc::collections::VecDeque;

use super::model::UncorePmu;
use crate::host::ScopeInstance;
use crate::ids::VcpuId;
use crate::units::{Count, Nanos};

/// How many entries are kept; older ones give way.
pub const LOG_LEN: usize = 256;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number, from 0; a gap means that entries gave way.
    pub number: u64,
    /// When, by the clock of the caller.
    pub at: Nanos,
    /// To which PMU.
    pub pmu: UncorePmu,
    /// To which instance.
    pub instance: ScopeInstance,
    /// What.
    pub change: Change,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another vCPU is designated, or none.
    Designated {
        /// The one that was.
        from: Option<VcpuId>,
        /// The one that is.
        to: Option<VcpuId>,
    },
    /// A counter's event moved.
    Moved {
        /// Which counter, or which energy domain by its place in
        /// [`EnergyDomain::ALL`](crate::host::EnergyDomain::ALL).
        counter: u8,
        /// From this vCPU.
        from: VcpuId,
        /// To this one.
        to: VcpuId,
        /// With this count in all, in the PMU's unit.
        count: Count,
    },
    /// A counter's event went off with the last vCPU of its scope.
    Off {
        /// Which counter, as in [`Change::Moved`].
        counter: u8,
        /// The vCPU that left.
        from: VcpuId,
        /// With this count in all, in the PMU's unit.
        count: Count,
    },
    /// A counter that the guest had left enabled counts again, as its scope has a
    /// vCPU again.
    Resumed {
        /// Which counter, as in [`Change::Moved`].
        counter: u8,
        /// On this vCPU.
        to: VcpuId,
    },
}

/// The newest entries.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<LogEntry>,
    next: u64,
}

impl Log {
    pub(super) fn note(
        &mut self,
        at: Nanos,
        (pmu, instance): (UncorePmu, ScopeInstance),
        change: Change,
    ) {
        if self.entries.len() == LOG_LEN {
            self.entries.pop_front();
        }
        self.entries.push_back(LogEntry {
            number: self.next,
            at,
            pmu,
            instance,
            change,
        });
        self.next += 1;
    }

    /// Oldest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &LogEntry> {
        self.entries.iter()
    }
}
