//! Host PMUs: what backs a guest's counters.
//!
//! One trait with the verbs of a Linux PMU driver, and its drivers: `linux`
//! (perf_event_open), [`software`] (a clock), [`sum`] (several as one), [`held`] (one
//! whose stopped events keep their counters) and `sim` (scripted). PMUs whose counters serve more than one vCPU have a trait of their own,
//! [`UncoreHost`], with `linux` and `sim_uncore`. The scripted PMUs are for tests, behind
//! the feature `test-doubles`.

pub mod held;
mod level;
mod pmu;
mod share;
#[cfg(any(test, feature = "test-doubles"))]
pub mod sim;
#[cfg(any(test, feature = "test-doubles"))]
pub mod sim_uncore;
pub mod software;
pub mod sum;
mod uncore;

#[cfg(feature = "host-linux")]
pub mod linux;

pub use level::LevelMemory;
pub use pmu::{
    EventCode, HostEvent, HostEventId, HostOpenError, HostPmu, Level, NoCounter, Privilege,
    Quality, ReadError,
};
pub use share::{CpuTime, CpuTimes, EnergyShare, EqualParts};
pub use uncore::{
    EnergyDomain, RawSelect, ScopeInstance, UncoreCount, UncoreEvent, UncoreEventId, UncoreHost,
};
