//! The runtime of the bare-metal payloads: entry, traps, serial line, local APIC,
//! PMU access and checks, for a guest that is nothing but one test.
//!
//! A payload is a `no_std` binary that calls [`payload!`] with its `main`; the
//! README says how to build and DESIGN.md why it is built that way. One vCPU
//! only: nothing here is meant to run on two at a time.
#![no_std]

pub mod absent;
pub mod apic;
pub mod args;
pub mod check;
pub mod counters;
pub mod cpu;
#[cfg(feature = "payloads")]
pub mod doorbell;
#[cfg(feature = "payloads")]
mod mem;
pub mod paging;
pub mod pci;
pub mod pmi;
pub mod pmu;
pub mod random;
pub mod registers;
pub mod serial;
pub mod start;
pub mod trap;
#[cfg(feature = "payloads")]
pub mod user;
