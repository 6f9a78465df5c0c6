//! Host PMUs: what backs a guest's counters.
//!
//! One trait with the verbs of a Linux PMU driver, and its drivers: `linux`
//! (perf_event_open), [`software`] (a clock), [`sum`] (several as one) and [`sim`]
//! (scripted, for tests).

mod level;
mod pmu;
pub mod sim;
pub mod software;
pub mod sum;

#[cfg(feature = "host-linux")]
pub mod linux;

pub use pmu::{
    EventAttr, HostEvent, HostEventId, HostPmu, Level, NoCounter, OpenError, Privilege, Quality,
    ReadError,
};
