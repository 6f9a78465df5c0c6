//! Why an operation failed. Every error knows its errno.

use core::fmt;

use super::attr::EventAttr;

/// An error number of Linux, by name.
///
/// # Examples
/// ```
/// use vpmu::sched::Errno;
///
/// assert_eq!(Errno::EINVAL.number(), 22);
/// assert_eq!(Errno::EINVAL.to_string(), "EINVAL");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the documentation")]
#[repr(i32)]
pub enum Errno {
    ENOENT = 2,
    ESRCH = 3,
    E2BIG = 7,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ENOTTY = 25,
    ENOSPC = 28,
    ENODATA = 61,
    EOPNOTSUPP = 95,
}

impl Errno {
    /// The name, as in `<errno.h>`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ENOENT => "ENOENT",
            Self::ESRCH => "ESRCH",
            Self::E2BIG => "E2BIG",
            Self::EBADF => "EBADF",
            Self::ECHILD => "ECHILD",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EACCES => "EACCES",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::ENODEV => "ENODEV",
            Self::EINVAL => "EINVAL",
            Self::ENOTTY => "ENOTTY",
            Self::ENOSPC => "ENOSPC",
            Self::ENODATA => "ENODATA",
            Self::EOPNOTSUPP => "EOPNOTSUPP",
        }
    }

    /// The number, as on x86.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an open failed, in the order of the checks (perf-core.md 2.F).
///
/// # Examples
/// ```
/// use vpmu::sched::{Errno, OpenError};
///
/// assert_eq!(OpenError::NoPmu.errno(), Errno::ENOENT);
/// assert_eq!(OpenError::Pmu(Errno::EINVAL).errno(), Errno::EINVAL);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// 1: unknown flag bit.
    #[error("the open flags have an unknown bit")]
    UnknownFlag,
    /// 2: the structure's size is too small or too large.
    #[error("attribute size {0} is not possible; accepted: 0, {min} to 4096", min = EventAttr::SIZE_VER0)]
    AttrSize(u32),
    /// 2: a reserved or contradictory attribute.
    #[error("the attributes contradict the rules: {0}")]
    Attr(&'static str),
    /// 4: the frequency is above the limit, or bit 63 of the period is set.
    #[error("the sample frequency is above the limit, or the sample period has bit 63 set")]
    SampleRange,
    /// 5: a cgroup event needs a cgroup and a CPU.
    #[error("a cgroup event needs a cgroup and a CPU")]
    CgroupNeedsCpu,
    /// 6: the group is not an event.
    #[error("the group leader is not an event")]
    NoLeader,
    /// 6, 24: the leader's task is gone.
    #[error("the group leader's task is gone")]
    LeaderGone,
    /// 7, 22: no such task.
    #[error("there is no such task")]
    NoTask,
    /// 8: leader and sibling must agree on `inherit`.
    #[error("the group leader has another value of inherit")]
    InheritMismatch,
    /// 9: no such CPU, or neither a task nor a CPU.
    #[error("there is no such CPU, or the request names neither a task nor a CPU")]
    NoCpu,
    /// 10: `inherit` with sampled reads needs the thread id.
    #[error("inherit with sampled reads needs the thread id in the sample")]
    InheritSampleRead,
    /// 11: no PMU takes the event.
    #[error("no PMU takes the event")]
    NoPmu,
    /// 11: the PMU refused it.
    #[error("the PMU refuses the event: {0}")]
    Pmu(Errno),
    /// 13: the PMU cannot exclude.
    #[error("the PMU cannot exclude modes or privilege levels")]
    NoExclude,
    /// 14: no CPU of the scope is online.
    #[error("no CPU of the scope is online")]
    NoDesignatedCpu,
    /// 15: a task or cgroup event on an uncore PMU.
    #[error("the PMU counts CPUs, not tasks")]
    TaskOnUncore,
    /// 17: no such cgroup.
    #[error("there is no such cgroup")]
    NoCgroup,
    /// 17: the leader has another cgroup.
    #[error("the group leader has another cgroup")]
    CgroupMismatch,
    /// 18: an exclusive PMU is used by the other kind of event.
    #[error("the PMU is exclusive, and events of the other kind (CPU or task) use it")]
    ExclusiveInUse,
    /// 19: sampling on a PMU without interrupts.
    #[error("the PMU has no interrupt, so it cannot sample")]
    NoInterrupt,
    /// 20: the clock is unknown or not usable in an NMI.
    #[error("the clock is unknown, or not usable in an NMI")]
    Clock,
    /// 23: the CPU is not online.
    #[error("the CPU is offline")]
    CpuOffline,
    /// 24: the group cannot take the event.
    #[error("the group cannot take the event: {0}")]
    Group(GroupMismatch),
    /// 24: output cannot be redirected there.
    #[error("the output cannot go to that event")]
    Output,
    /// 25: a group read would not fit 16 KiB.
    #[error("a read of the group would exceed 16 KiB")]
    TooLarge,
    /// 27: the exclusive PMU already has an event here.
    #[error("the PMU is exclusive, and another event uses it on this CPU")]
    ExclusiveTaken,
}

/// Why a group cannot take an event (check 24).
///
/// # Examples
/// ```
/// use vpmu::sched::error::GroupMismatch;
/// use vpmu::sched::{Errno, OpenError};
///
/// let error = OpenError::Group(GroupMismatch::Cpu);
/// assert_eq!(error.errno(), Errno::EINVAL);
/// assert!(error.to_string().ends_with("its leader is on another CPU"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupMismatch {
    /// The leader is a sibling itself.
    #[error("its leader belongs to a group itself")]
    LeaderIsSibling,
    /// Another clock.
    #[error("its leader has another clock")]
    Clock,
    /// Another CPU.
    #[error("its leader is on another CPU")]
    Cpu,
    /// Another task, or task against CPU.
    #[error("its leader belongs to another task or CPU")]
    Context,
    /// Only leaders are pinned or exclusive.
    #[error("only a leader can be pinned or exclusive")]
    LeaderAttribute,
    /// Hardware events of two PMUs.
    #[error("its leader is on another hardware PMU")]
    Pmu,
}

impl OpenError {
    /// The error number that `perf_event_open` returns.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::AttrSize(_) | Self::TooLarge => Errno::E2BIG,
            Self::NoLeader | Self::NoCgroup => Errno::EBADF,
            Self::LeaderGone | Self::NoDesignatedCpu | Self::CpuOffline => Errno::ENODEV,
            Self::NoTask => Errno::ESRCH,
            Self::NoPmu => Errno::ENOENT,
            Self::Pmu(e) => e,
            Self::ExclusiveInUse | Self::ExclusiveTaken => Errno::EBUSY,
            Self::NoInterrupt => Errno::EOPNOTSUPP,
            Self::UnknownFlag
            | Self::Attr(_)
            | Self::SampleRange
            | Self::CgroupNeedsCpu
            | Self::InheritMismatch
            | Self::NoCpu
            | Self::InheritSampleRead
            | Self::NoExclude
            | Self::TaskOnUncore
            | Self::CgroupMismatch
            | Self::Clock
            | Self::Group(_)
            | Self::Output => Errno::EINVAL,
        }
    }
}

/// Why a request on an event failed.
///
/// # Examples
/// ```
/// use vpmu::sched::{Errno, EventError};
///
/// let error = EventError::NoSpace { need: 32, have: 16 };
/// assert_eq!(error.errno(), Errno::ENOSPC);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// There is no such event.
    #[error("there is no such event")]
    NoEvent,
    /// Only sampling events have a period or a budget.
    #[error("the event does not sample")]
    NotSampling,
    /// A budget cannot be shared by children.
    #[error("an inherited event cannot have a budget")]
    Inherited,
    /// The period is 0, too large, or refused by the PMU.
    #[error("the period is 0, too large, or refused by the PMU")]
    Period,
    /// The event is not on a CPU.
    #[error("the event is not on a CPU")]
    NotActive,
    /// The reader's buffer is too small.
    #[error("a buffer of {have} bytes is too small for the {need} bytes of the read")]
    NoSpace {
        /// Bytes that the read returns.
        need: usize,
        /// Bytes that the caller offers.
        have: usize,
    },
    /// A child's group is not like its parent's any more.
    #[error("an inherited group has other members than its parent")]
    ChildShape,
    /// An in-kernel read from the wrong task or CPU.
    #[error("the event belongs to another task or CPU")]
    Foreign,
    /// An in-kernel read of a pinned event that is not on this CPU.
    #[error("the pinned event is not on this CPU")]
    PinnedElsewhere,
    /// An in-kernel read of an inherited event.
    #[error("an inherited event cannot be read locally")]
    InheritedRead,
}

impl EventError {
    /// The error number of the system call.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoEvent => Errno::EBADF,
            Self::NotSampling | Self::Inherited | Self::Period | Self::Foreign => Errno::EINVAL,
            Self::NotActive => Errno::EAGAIN,
            Self::NoSpace { .. } => Errno::ENOSPC,
            Self::ChildShape => Errno::ECHILD,
            Self::PinnedElsewhere => Errno::EBUSY,
            Self::InheritedRead => Errno::EOPNOTSUPP,
        }
    }
}

/// Why a PMU could not be registered or changed.
///
/// # Examples
/// ```
/// use vpmu::sched::{Errno, RegisterError};
///
/// assert_eq!(RegisterError::Busy.errno(), Errno::EBUSY);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A PMU needs a name.
    #[error("the PMU has no name")]
    NoName,
    /// There are as many PMUs as ids.
    #[error("no id is free for another PMU")]
    TooMany,
    /// There is no such PMU.
    #[error("there is no such PMU")]
    NoPmu,
    /// It still has events.
    #[error("the PMU still has events")]
    Busy,
    /// The multiplexing interval is below 1 ms.
    #[error("the multiplexing interval is below 1 ms")]
    MuxInterval,
}

impl RegisterError {
    /// The error number of the kernel.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoName | Self::MuxInterval => Errno::EINVAL,
            Self::TooMany => Errno::ENOMEM,
            Self::NoPmu => Errno::ENOENT,
            Self::Busy => Errno::EBUSY,
        }
    }
}

/// Why a task or CPU could not be switched, forked or taken away.
///
/// # Examples
/// ```
/// use vpmu::sched::{Errno, TaskError};
///
/// assert_eq!(TaskError::NoTask.errno(), Errno::ESRCH);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// There is no such task, or it has exited.
    #[error("there is no such task")]
    NoTask,
    /// The task runs on another CPU.
    #[error("the task runs on another CPU")]
    RunsElsewhere,
    /// There is no such CPU, or it is not in the state asked for.
    #[error("there is no such CPU, or it is offline")]
    NoCpu,
    /// A task runs on the CPU.
    #[error("a task runs on the CPU")]
    CpuBusy,
    /// An event could not be inherited.
    #[error("an event could not be inherited")]
    Inherit,
}

impl TaskError {
    /// The error number closest to it.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::NoTask => Errno::ESRCH,
            Self::NoCpu => Errno::ENODEV,
            Self::RunsElsewhere | Self::CpuBusy => Errno::EBUSY,
            Self::Inherit => Errno::EINVAL,
        }
    }
}
