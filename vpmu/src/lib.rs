//! A virtual PMU: guest PMU models backed by host perf events.
#![cfg_attr(not(feature = "host-linux"), no_std)]

extern crate alloc;

pub mod ids;
pub mod sched;
pub mod units;
