//! What an operator can see of a vCPU's PMU.

use core::fmt;

use crate::guest::{Demand, Encoding};
use crate::host::{HostOpenError, Quality};
use crate::ids::Pmc;
use crate::sched::EventState;

use super::Times;
use super::counter::Unbacked;

/// What became of a counter's last demand.
///
/// # Examples
/// ```
/// use vpmu::CounterState;
///
/// assert!(CounterState::Error.is_trouble());
/// assert!(!CounterState::Waiting.is_trouble());
/// assert_eq!(CounterState::Waiting.to_string(), "waiting for its turn");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CounterState {
    /// The guest does not want it to count.
    #[default]
    Off,
    /// A host event counts for it.
    Counting,
    /// Others have the host's counters now; its turn will come.
    Waiting,
    /// Pinned, and the host has no counter for it. It does not count until the
    /// guest enables it again.
    Error,
    /// The guest chose an encoding that no host event stands for. It does not
    /// count.
    NotBacked(Encoding),
    /// The operator does not let a guest count it.
    Denied(Encoding),
    /// The host gave no event. It does not count.
    Refused(HostOpenError),
}

impl CounterState {
    /// Whether the guest wants a count that it does not get.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        matches!(
            self,
            Self::NotBacked(_) | Self::Denied(_) | Self::Refused(_) | Self::Error
        )
    }
}

impl From<Unbacked> for CounterState {
    fn from(why: Unbacked) -> Self {
        match why {
            Unbacked::NotBacked(encoding) => Self::NotBacked(encoding),
            Unbacked::Denied(encoding) => Self::Denied(encoding),
            Unbacked::Refused(error) => Self::Refused(error),
        }
    }
}

/// From the state of the counter's event, if it has one.
impl From<Option<EventState>> for CounterState {
    fn from(state: Option<EventState>) -> Self {
        match state {
            Some(EventState::Active) => Self::Counting,
            Some(EventState::Inactive) => Self::Waiting,
            Some(EventState::Error) => Self::Error,
            _ => Self::Off,
        }
    }
}

impl fmt::Display for CounterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Counting => f.write_str("counting"),
            Self::Waiting => f.write_str("waiting for its turn"),
            Self::Error => f.write_str("the host has no counter for it"),
            Self::NotBacked(encoding) => write!(f, "no host event stands for {encoding}"),
            Self::Denied(encoding) => write!(f, "the filter does not admit {encoding}"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

/// One counter as an operator sees it.
///
/// # Examples
/// ```
/// use vpmu::guest::{ArchPerfmon, ArchPerfmonConfig};
/// use vpmu::host::software::{Khz, SoftwarePmu};
/// use vpmu::ids::MsrIndex;
/// use vpmu::{CounterState, Policy, VcpuPmu};
///
/// let config = ArchPerfmonConfig::new(4, 3, 48, SoftwarePmu::SUPPORTED).unwrap();
/// let host = SoftwarePmu::new(Khz(1_000_000));
/// let mut pmu = VcpuPmu::new(ArchPerfmon::new(config), host, Policy::Flexible);
/// pmu.wrmsr(MsrIndex(0x186), 0x43_003c).unwrap(); // IA32_PERFEVTSEL0: cycles
/// let counting: Vec<_> = pmu
///     .counters()
///     .filter(|counter| counter.state == CounterState::Counting)
///     .collect();
/// assert_eq!(counting.len(), 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterView {
    /// Which.
    pub pmc: Pmc,
    /// What the guest wants counted; none if it wants nothing.
    pub demand: Option<Demand>,
    /// What became of that.
    pub state: CounterState,
    /// How good its count is, if it has an event.
    pub quality: Option<Quality>,
    /// Its event's times.
    pub times: Times,
    /// It has not had a turn, and what the guest reads is estimated from what the same event
    /// counted shortly before.
    pub estimated: bool,
}
