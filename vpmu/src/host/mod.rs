//! Host PMUs: what backs a guest's counters.
//!
//! One trait with the verbs of a Linux PMU driver, and its drivers: `linux`
//! (perf_event_open), [`software`] (a clock), [`sum`] (several as one) and [`sim`]
//! (scripted, for tests). PMUs whose counters serve more than one vCPU have a trait of
//! their own, [`ScopedHost`], with `linux` and [`sim_scoped`].

mod level;
mod pmu;
mod scoped;
mod share;
pub mod sim;
pub mod sim_scoped;
pub mod software;
pub mod sum;

#[cfg(feature = "host-linux")]
pub mod linux;

pub use level::LevelMemory;
pub use pmu::{
    EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, Level, NoCounter, Privilege,
    Quality, ReadError,
};
pub use scoped::{
    EnergyDomain, RawSelect, ScopeInstance, ScopedCount, ScopedEvent, ScopedEventId, ScopedHost,
};
pub use share::{CpuTime, CpuTimes, EnergyShare, EqualParts};
