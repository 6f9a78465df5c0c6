//! Host PMUs of a Linux host, by perf_event_open(2).
//!
//! A vCPU thread owns its [`LinuxPmu`]: events count that thread in guest mode
//! (`exclude_host`) and signal it at an overflow. They are pinned, so that the
//! host kernel never multiplexes below the guest: an event that the host takes
//! away reads as lost and not as a smaller count. [`uncore`] has the events of
//! CPUs that whole VMs share.

mod driver;
mod event;
pub mod probe;
mod switches;
mod sys;
pub mod sysfs;
pub mod uncore;

pub use driver::{LinuxPmu, OverflowSignal};
pub use event::PerfOpenError;
pub use switches::Switches;
pub use sysfs::EventSource;
