//! The driver contract.

use alloc::boxed::Box;
use core::fmt;

use super::level::LevelMemory;
use crate::ids::{MonitorId, Pmc};
use crate::units::{Count, Nanos};
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use crate::x86::standard::StandardEvent;

/// A host event of one vCPU. The caller numbers them, below
/// [`HostEventId::COUNT`]: the guest's counters by [`Pmc::slot`], then the
/// monitors.
///
/// # Examples
/// ```
/// use vpmu::host::HostEventId;
/// use vpmu::ids::{MonitorId, Pmc};
///
/// let of_counter = HostEventId::from(Pmc::gp(0).unwrap());
/// let of_monitor = HostEventId::from(MonitorId::new(0).unwrap());
/// assert_ne!(of_counter, of_monitor);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostEventId(pub usize);

impl HostEventId {
    /// The most that a vCPU has.
    pub const COUNT: usize = Pmc::SLOTS + MonitorId::MAX as usize;
}

impl From<Pmc> for HostEventId {
    fn from(pmc: Pmc) -> Self {
        Self(pmc.slot())
    }
}

impl From<MonitorId> for HostEventId {
    fn from(monitor: MonitorId) -> Self {
        Self(Pmc::SLOTS + monitor.index())
    }
}

/// The guest privilege levels in which an event counts.
///
/// # Examples
/// ```
/// use vpmu::host::Privilege;
///
/// let user_only = Privilege { user: true, kernel: false };
/// assert!(!user_only.kernel);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Levels 1 to 3.
    pub user: bool,
    /// Level 0.
    pub kernel: bool,
}

/// The privilege level that a guest was found at.
///
/// # Examples
/// ```
/// use vpmu::host::Level;
///
/// let at_the_exit = |cpl: u8| if cpl == 3 { Level::User } else { Level::Kernel };
/// assert_eq!(at_the_exit(0), Level::Kernel);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 1 to 3.
    User,
    /// 0.
    Kernel,
}

/// How good a count is.
///
/// # Examples
/// ```
/// use vpmu::host::Quality;
///
/// let is_estimate = |quality| quality != Quality::Counted;
/// assert!(is_estimate(Quality::Clock) && is_estimate(Quality::SampledClock));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// A hardware counter's.
    Counted,
    /// Derived from the time that the guest ran.
    Clock,
    /// The same, and shared out between privilege levels by samples.
    SampledClock,
}

/// The code of an event: which event it is, without where it counts.
///
/// # Examples
/// ```
/// use vpmu::host::EventCode;
/// use vpmu::x86::event::{ArchEvent, RawEvent};
///
/// let raw = EventCode::Raw(RawEvent::of_event_sel(0x01c2));
/// assert_ne!(raw, ArchEvent::Cycles.into());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCode {
    /// One that means the same on every CPU.
    Architectural(ArchEvent),
    /// One of the generic tables of drivers, which hosts have under the same name.
    Standard(StandardEvent),
    /// One that means something on CPUs of one vendor, or one family, only.
    Raw(RawEvent),
}

impl From<ArchEvent> for EventCode {
    fn from(event: ArchEvent) -> Self {
        Self::Architectural(event)
    }
}

impl From<StandardEvent> for EventCode {
    fn from(event: StandardEvent) -> Self {
        Self::Standard(event)
    }
}

impl From<RawEvent> for EventCode {
    fn from(event: RawEvent) -> Self {
        Self::Raw(event)
    }
}

impl fmt::Display for EventCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architectural(event) => f.write_str(event.name()),
            Self::Standard(event) => event.fmt(f),
            Self::Raw(event) => event.fmt(f),
        }
    }
}

/// An event that a host counts for a guest. The guest's counters are turned into
/// it by the guest model, and the host opens it.
///
/// # Examples
/// ```
/// use vpmu::host::{HostEvent, Privilege};
/// use vpmu::x86::event::ArchEvent;
///
/// let cycles_in_user_mode = HostEvent {
///     code: ArchEvent::Cycles.into(),
///     privilege: Privilege { user: true, kernel: false },
/// };
/// assert!(cycles_in_user_mode.privilege.user);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostEvent {
    /// Which event.
    pub code: EventCode,
    /// The privilege levels in which it counts.
    pub privilege: Privilege,
}

/// Why [`HostPmu::open`] made no event.
///
/// # Examples
/// ```
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::host::{HostEvent, HostEventId, HostOpenError, HostPmu, Privilege};
/// use vpmu::x86::event::ArchEvent;
///
/// let mut clock = SoftwarePmu::new(Khz(2_000_000));
/// let instructions = HostEvent {
///     code: ArchEvent::Instructions.into(),
///     privilege: Privilege { user: true, kernel: true },
/// };
/// let refused = clock.open(HostEventId(0), &instructions);
/// assert_eq!(refused, Err(HostOpenError::Unsupported), "a clock counts cycles only");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostOpenError {
    /// This PMU cannot count the event, now or ever.
    #[error("the host PMU does not count this event")]
    Unsupported,
    /// The host refused, with this errno.
    #[error("perf_event_open failed with errno {0}")]
    Host(i32),
}

/// The host has no counter for the event now.
///
/// # Examples
/// ```
/// use vpmu::host::NoCounter;
///
/// assert_eq!(NoCounter.to_string(), "no host counter is free");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no host counter is free")]
pub struct NoCounter;

/// Why [`HostPmu::read`] gave no count.
///
/// # Examples
/// ```
/// use vpmu::host::ReadError;
///
/// /// Whether a later read of the same event can succeed.
/// fn is_final(error: ReadError) -> bool {
///     error == ReadError::Lost
/// }
/// assert!(is_final(ReadError::Lost) && !is_final(ReadError::Host(4)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The host took the counter away: its event is in the error state.
    #[error("the host took the counter away from the event")]
    Lost,
    /// The host refused, with this errno.
    #[error("reading the host event failed with errno {0}")]
    Host(i32),
}

/// A host PMU, as one vCPU thread uses it.
///
/// An event is opened once and then started and stopped at will: it holds a
/// counter only while it runs, and keeps its count in between. Which events may
/// run at once is the scheduler's decision ([`crate::sched`]); whether the host
/// has counters for them is only known by trying. Counts are of
/// guest execution alone.
///
/// # Examples
/// ```
/// // Endless counters; each event occurs once a nanosecond of guest time.
/// use vpmu::host::{HostEvent, HostEventId, HostOpenError, HostPmu, NoCounter, ReadError};
/// use vpmu::units::{Count, Nanos};
/// use vpmu::x86::event::ArchEventSet;
///
/// #[derive(Debug, Default)]
/// struct Endless {
///     counts: [u64; HostEventId::COUNT],
///     running: [bool; HostEventId::COUNT],
/// }
///
/// impl HostPmu for Endless {
///     fn supported(&self) -> ArchEventSet {
///         ArchEventSet::ALL
///     }
///     fn open(&mut self, id: HostEventId, _: &HostEvent) -> Result<(), HostOpenError> {
///         self.counts[id.0] = 0;
///         Ok(())
///     }
///     fn close(&mut self, id: HostEventId) {
///         self.running[id.0] = false;
///     }
///     fn start(&mut self, id: HostEventId, _: Count) -> Result<(), NoCounter> {
///         self.running[id.0] = true;
///         Ok(())
///     }
///     fn stop(&mut self, id: HostEventId) {
///         self.running[id.0] = false;
///     }
///     fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
///         Ok(Count(self.counts[id.0]))
///     }
///     fn guest_ran(&mut self, span: Nanos) {
///         let running = self.counts.iter_mut().zip(self.running);
///         running.filter(|(_, on)| *on).for_each(|(count, _)| *count += span.0);
///     }
/// }
/// ```
pub trait HostPmu: fmt::Debug {
    /// The architectural events that this PMU counts.
    fn supported(&self) -> ArchEventSet;

    /// Makes an event for `attr`, stopped, with a count of 0. `id` must be free.
    ///
    /// # Errors
    /// [`HostOpenError`]; nothing is open then.
    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError>;

    /// Stops and forgets; `id` is free afterwards. No-op on a free one.
    fn close(&mut self, id: HostEventId);

    /// Lets the event count, and has the vCPU leave the guest soon after `left`
    /// more events. On a running event: sets the distance anew; where it gets longer, the
    /// vCPU may leave the guest once more before.
    ///
    /// Success does not mean that the host has a counter: [`HostPmu::read`]
    /// tells. Where it has too few, any running event may be the one without.
    ///
    /// # Errors
    /// [`NoCounter`]: it does not count, and should be stopped.
    ///
    /// Linux: `add` with `PERF_EF_START`; `start` with `PERF_EF_RELOAD`.
    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter>;

    /// Gives the counter back: the count does not move until the next `start`.
    ///
    /// Linux: `del`.
    fn stop(&mut self, id: HostEventId);

    /// The count since `open`.
    ///
    /// # Errors
    /// [`ReadError`] if the host has no count to give: never a made-up one.
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError>;

    /// Gives back the counters that stopped events keep, for a PMU that lets them
    /// ([`Held`](super::held::Held)). To be called now and then, and when the guest has
    /// no use for its counters.
    fn give_back(&mut self) {}

    /// Whether a running event may be without a counter.
    fn can_lose(&self) -> bool {
        false
    }

    /// Tells a PMU that counts time how much of it the guest ran. PMUs that
    /// count by themselves ignore it.
    fn guest_ran(&mut self, span: Nanos) {
        let _ = span;
    }

    /// Whether the next asynchronous exit should tell the guest's privilege level.
    fn wants_level(&self) -> bool {
        false
    }

    /// An asynchronous exit, which the guest did not cause, found it at `level`.
    fn guest_was_at(&mut self, level: Level) {
        let _ = level;
    }

    /// What a PMU that samples levels has learnt of the guest, for
    /// [`HostPmu::set_level_memory`] of one that goes on with it.
    fn level_memory(&self) -> Option<LevelMemory> {
        None
    }

    /// The guest is one that another PMU has sampled. Before any event is open.
    fn set_level_memory(&mut self, memory: LevelMemory) {
        let _ = memory;
    }

    /// Guest time from now until the vCPU should leave the guest, for PMUs that
    /// have no interrupt of their own; `None` if nothing is due.
    fn next_exit(&self) -> Option<Nanos> {
        None
    }

    /// How good a count of `attr` is.
    fn quality(&self, attr: &HostEvent) -> Quality {
        let _ = attr;
        Quality::Counted
    }
}

impl<P: HostPmu + ?Sized> HostPmu for Box<P> {
    fn supported(&self) -> ArchEventSet {
        (**self).supported()
    }
    fn open(&mut self, id: HostEventId, attr: &HostEvent) -> Result<(), HostOpenError> {
        (**self).open(id, attr)
    }
    fn close(&mut self, id: HostEventId) {
        (**self).close(id);
    }
    fn start(&mut self, id: HostEventId, left: Count) -> Result<(), NoCounter> {
        (**self).start(id, left)
    }
    fn stop(&mut self, id: HostEventId) {
        (**self).stop(id);
    }
    fn read(&mut self, id: HostEventId) -> Result<Count, ReadError> {
        (**self).read(id)
    }
    fn give_back(&mut self) {
        (**self).give_back();
    }
    fn can_lose(&self) -> bool {
        (**self).can_lose()
    }
    fn guest_ran(&mut self, span: Nanos) {
        (**self).guest_ran(span);
    }
    fn wants_level(&self) -> bool {
        (**self).wants_level()
    }
    fn guest_was_at(&mut self, level: Level) {
        (**self).guest_was_at(level);
    }
    fn level_memory(&self) -> Option<LevelMemory> {
        (**self).level_memory()
    }
    fn set_level_memory(&mut self, memory: LevelMemory) {
        (**self).set_level_memory(memory);
    }
    fn next_exit(&self) -> Option<Nanos> {
        (**self).next_exit()
    }
    fn quality(&self, attr: &HostEvent) -> Quality {
        (**self).quality(attr)
    }
}
