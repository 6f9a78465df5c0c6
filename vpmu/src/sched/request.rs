//! What an open asks for.

use super::attr::EventAttr;
use super::ids::{CgroupId, EventId, TaskId};
use crate::ids::VcpuId;

bitflags::bitflags! {
    /// How to open. Linux: `PERF_FLAG_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpenFlags: u64 {
        /// The group is for output only.
        const NO_GROUP = 1 << 0;
        /// Write samples to the group's buffer.
        const OUTPUT = 1 << 1;
        /// The target is a cgroup.
        const CGROUP = 1 << 2;
        /// Close on exec.
        const CLOEXEC = 1 << 3;
    }
}

/// What to follow.
///
/// # Examples
/// ```
/// use vpmu::ids::PmuType;
/// use vpmu::sched::{EventAttr, OpenRequest, Target};
///
/// // A CPU event needs its CPU; a task event may count on any.
/// let request = OpenRequest::new(EventAttr::new(PmuType::HARDWARE, 0), Target::Cpu, None);
/// assert_eq!(request.target, Target::Cpu);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything on the CPU.
    Cpu,
    /// A task.
    Task(TaskId),
    /// The tasks of a cgroup while they are on the CPU; needs [`OpenFlags::CGROUP`].
    Cgroup(CgroupId),
}

/// The arguments of an open.
///
/// # Examples
/// ```
/// use vpmu::ids::{PmuType, VcpuId};
/// use vpmu::sched::{EventAttr, OpenRequest, Target};
///
/// // Cycles of everything on CPU 2.
/// let attr = EventAttr::new(PmuType::HARDWARE, 0);
/// let request = OpenRequest::new(attr, Target::Cpu, Some(VcpuId(2)));
/// assert_eq!(request.group, None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    /// What to count.
    pub attr: EventAttr,
    /// Whom to follow.
    pub target: Target,
    /// The only CPU to count on, if not any.
    pub vcpu: Option<VcpuId>,
    /// The leader of the group to join.
    pub group: Option<EventId>,
    /// How.
    pub flags: OpenFlags,
    /// An in-kernel counter skips the checks of the system call (R-083).
    pub in_kernel: bool,
}

impl OpenRequest {
    /// A lone event on a target.
    #[must_use]
    pub const fn new(attr: EventAttr, target: Target, vcpu: Option<VcpuId>) -> Self {
        Self {
            attr,
            target,
            vcpu,
            group: None,
            flags: OpenFlags::empty(),
            in_kernel: false,
        }
    }

    /// The same, in the group of `leader`.
    #[must_use]
    pub const fn in_group(mut self, leader: EventId) -> Self {
        self.group = Some(leader);
        self
    }

    /// The task that it follows.
    pub(super) const fn task(&self) -> Option<TaskId> {
        match self.target {
            Target::Task(t) => Some(t),
            _ => None,
        }
    }
}
