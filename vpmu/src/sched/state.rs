//! The states of an event, and the classes that order groups.

/// State of an event; the numeric order matters (R-011, R-012). Linux: `enum perf_event_state`.
///
/// # Examples
/// ```
/// use vpmu::sched::EventState;
///
/// // The order is Linux's, and rules compare by it.
/// assert!(EventState::Error < EventState::Off && EventState::Off < EventState::Inactive);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i8)]
pub enum EventState {
    /// Its owner closed it.
    Dead = -4,
    /// The task it followed is gone.
    Exit = -3,
    /// A pinned group that could not be placed; only enable leaves this state.
    Error = -2,
    /// Disabled by a user.
    Off = -1,
    /// Wants to run, is not on a PMU now.
    Inactive = 0,
    /// On a PMU.
    Active = 1,
}

impl EventState {
    /// Whether the event wants to run.
    #[must_use]
    pub const fn is_enabled(self) -> bool {
        matches!(self, Self::Inactive | Self::Active)
    }
}

/// One of the two sets of groups of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupSet {
    /// Groups that must run.
    Pinned,
    /// Groups that may rotate.
    Flexible,
}

impl GroupSet {
    /// Position in tables of two.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Priority class of a group. Linux: `enum event_type_t` (R-120).
///
/// # Examples
/// ```
/// use vpmu::sched::{EventClass, GroupSet};
///
/// // CPU pinned comes before task flexible (R-120).
/// let first = EventClass { set: GroupSet::Pinned, of_cpu: true };
/// let last = EventClass { set: GroupSet::Flexible, of_cpu: false };
/// assert_ne!(first, last);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventClass {
    /// The set of its context.
    pub set: GroupSet,
    /// In a CPU context.
    pub of_cpu: bool,
}

bitflags::bitflags! {
    /// What of a context is scheduled in. Linux: `ctx->is_active`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Activity: u8 {
        /// Its pinned groups.
        const PINNED = 1;
        /// Its flexible groups.
        const FLEXIBLE = 2;
        /// Its clock.
        const TIME = 4;
        /// All groups.
        const ALL = 3;
    }
}

bitflags::bitflags! {
    /// Capability bits of an event. Linux: `PERF_EV_CAP_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct EventCaps: u8 {
        /// Of a software-class PMU.
        const SOFTWARE = 1;
        /// Can be read on any CPU of its scope.
        const READ_SCOPE = 2;
        /// Only valid as a member of a group (R-019).
        const SIBLING = 4;
    }
}
