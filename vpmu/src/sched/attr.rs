//! What to count: the attributes of an event.

use super::ids::PmuType;

bitflags::bitflags! {
    /// Attribute bits. Linux: the bit fields of `struct perf_event_attr`.
    ///
    /// # Examples
    /// ```
    /// use vpmu::sched::AttrFlags;
    ///
    /// let flags = AttrFlags::PINNED | AttrFlags::DISABLED;
    /// assert!(flags.contains(AttrFlags::DISABLED));
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AttrFlags: u32 {
        /// Opened OFF; an enable is needed.
        const DISABLED = 1 << 0;
        /// Children of the task count too.
        const INHERIT = 1 << 1;
        /// Must be on its PMU; goes to ERROR where it does not fit.
        const PINNED = 1 << 2;
        /// Alone on its PMU.
        const EXCLUSIVE = 1 << 3;
        /// Not in user mode.
        const EXCLUDE_USER = 1 << 4;
        /// Not in the kernel.
        const EXCLUDE_KERNEL = 1 << 5;
        /// Not in the hypervisor.
        const EXCLUDE_HV = 1 << 6;
        /// Not when idle.
        const EXCLUDE_IDLE = 1 << 7;
        /// Not in the host.
        const EXCLUDE_HOST = 1 << 8;
        /// Not in guests.
        const EXCLUDE_GUEST = 1 << 9;
        /// `sample` is a frequency in Hz, not a period.
        const FREQ = 1 << 10;
        /// Counts are swapped with the context at a clone switch.
        const INHERIT_STAT = 1 << 11;
        /// Inherited by threads only.
        const INHERIT_THREAD = 1 << 12;
        /// Enabled by exec.
        const ENABLE_ON_EXEC = 1 << 13;
        /// Removed by exec.
        const REMOVE_ON_EXEC = 1 << 14;
        /// Sends SIGTRAP on overflow.
        const SIGTRAP = 1 << 15;
    }
}

impl AttrFlags {
    /// Every bit that a PMU with `NO_EXCLUDE` refuses.
    pub const ANY_EXCLUDE: Self = Self::EXCLUDE_USER
        .union(Self::EXCLUDE_KERNEL)
        .union(Self::EXCLUDE_HV)
        .union(Self::EXCLUDE_IDLE)
        .union(Self::EXCLUDE_HOST)
        .union(Self::EXCLUDE_GUEST);
}

bitflags::bitflags! {
    /// What a read returns. Linux: `PERF_FORMAT_*`.
    ///
    /// # Examples
    /// ```
    /// use vpmu::sched::ReadFormat;
    ///
    /// let times = ReadFormat::TOTAL_TIME_ENABLED | ReadFormat::TOTAL_TIME_RUNNING;
    /// assert_eq!(times.bits(), 0b11);
    /// ```
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ReadFormat: u64 {
        /// Time enabled, in ns.
        const TOTAL_TIME_ENABLED = 1 << 0;
        /// Time running, in ns.
        const TOTAL_TIME_RUNNING = 1 << 1;
        /// The id of each value.
        const ID = 1 << 2;
        /// All members of the group.
        const GROUP = 1 << 3;
        /// Lost samples of each value.
        const LOST = 1 << 4;
    }
}

/// Bits of `sample_type` that scheduling looks at. Linux: `PERF_SAMPLE_*`.
pub mod sample_type {
    /// Process and thread ids.
    pub const TID: u64 = 1 << 1;
    /// Counter values.
    pub const READ: u64 = 1 << 4;
    /// Branch stacks.
    pub const BRANCH_STACK: u64 = 1 << 11;
    /// User registers.
    pub const REGS_USER: u64 = 1 << 12;
    /// Weight, as one number.
    pub const WEIGHT: u64 = 1 << 14;
    /// Registers at the interrupt.
    pub const REGS_INTR: u64 = 1 << 18;
    /// Weight, as a structure.
    pub const WEIGHT_STRUCT: u64 = 1 << 24;
    /// The first bit that is not defined.
    pub const MAX: u64 = 1 << 25;
}

/// Clock of an event's time stamps. Linux: `attr.clockid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockId(pub i32);

/// What to count, as `perf_event_open` takes it.
///
/// Linux: `struct perf_event_attr`.
///
/// # Examples
/// ```
/// use vpmu::ids::PmuType;
/// use vpmu::sched::{AttrFlags, EventAttr};
///
/// let attr = EventAttr::new(PmuType::HARDWARE, 0).with(AttrFlags::PINNED);
/// assert!(attr.has(AttrFlags::PINNED) && !attr.is_sampling());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventAttr {
    /// Which PMU, by type.
    pub pmu_type: PmuType,
    /// Size of the structure in bytes that the caller filled; 0 means 64.
    pub size: u32,
    /// What to count; the upper 32 bits choose the PMU of generic events.
    pub config: u64,
    /// More of it; the scheduler does not look at it.
    pub config1: u64,
    /// Sample period in events, or frequency in Hz with [`AttrFlags::FREQ`]; 0: counting only.
    pub sample: u64,
    /// Contents of samples: [`sample_type`] bits.
    pub sample_type: u64,
    /// Registers in samples.
    pub sample_regs: u64,
    /// Branches in samples.
    pub branch_sample_type: u64,
    /// What reads return; unknown bits are refused.
    pub read_format: ReadFormat,
    /// The attribute bits.
    pub flags: AttrFlags,
    /// Clock of time stamps, if not the default one.
    pub clock: Option<ClockId>,
}

impl EventAttr {
    /// The size of the structure that this library knows, in bytes.
    pub const SIZE: u32 = 136;
    /// The smallest size that has ever been valid, in bytes.
    pub const SIZE_VER0: u32 = 64;

    /// A counting event of `pmu_type`, enabled, with no other attribute.
    #[must_use]
    pub const fn new(pmu_type: PmuType, config: u64) -> Self {
        Self {
            pmu_type,
            size: Self::SIZE,
            config,
            config1: 0,
            sample: 0,
            sample_type: 0,
            sample_regs: 0,
            branch_sample_type: 0,
            read_format: ReadFormat::empty(),
            flags: AttrFlags::empty(),
            clock: None,
        }
    }

    /// The same with `flags` in addition.
    #[must_use]
    pub const fn with(mut self, flags: AttrFlags) -> Self {
        self.flags = self.flags.union(flags);
        self
    }

    /// What the kernel sees of a structure of [`EventAttr::size`] bytes: fields
    /// behind its end are 0, among them the clock, which then is `REALTIME`.
    ///
    /// Linux: `perf_copy_attr`.
    #[must_use]
    pub const fn as_copied(mut self) -> Self {
        let size = if self.size == 0 {
            Self::SIZE_VER0
        } else {
            self.size
        };
        if size < 80 {
            self.branch_sample_type = 0;
        }
        if size < 88 {
            self.sample_regs = 0;
        }
        if size < 96 && self.clock.is_some() {
            self.clock = Some(ClockId(0));
        }
        self
    }

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(&self, flags: AttrFlags) -> bool {
        self.flags.contains(flags)
    }

    /// Linux: `is_sampling_event`.
    #[must_use]
    pub const fn is_sampling(&self) -> bool {
        self.sample != 0
    }

    /// Frequency mode with a frequency.
    #[must_use]
    pub const fn is_freq(&self) -> bool {
        self.has(AttrFlags::FREQ) && self.sample != 0
    }

    /// Linux: `has_inherit_and_sample_read`.
    #[must_use]
    pub const fn inherits_sample_read(&self) -> bool {
        self.has(AttrFlags::INHERIT) && self.sample_type & sample_type::READ != 0
    }
}
