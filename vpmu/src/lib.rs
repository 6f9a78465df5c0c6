#![cfg_attr(not(feature = "host-linux"), no_std)]
// Where rustdoc finds what the page below links to; the first target of a label counts.
#![cfg_attr(doc, doc = include_str!("../docs/rustdoc-links.md"))]
#![doc = include_str!("../README.md")]
//! ## Modules
//!
//! A module uses only modules of the lines above its own.
//! `cargo xtask check` fails on a path to another module of the same line or of a
//! line below:
//!
//! ```text
//! ids, units, crc   numbers with a meaning; quantities; a checksum
//! times, x86        enabled and running time; registers, encodings and CPUID of x86
//! sched, host       Linux's rules of scheduling; counters of the host
//! guest             models of guest PMUs
//! rules, totals     rules for a guest's counters; totals of a vCPU
//! state             the saved state as bytes
//! vcpu, uncore      the PMU of one vCPU; the PMUs of a die or a package
//! documents         the documents of vpmu/docs as pages of cargo doc
//! ```

extern crate alloc;

mod crc;
#[cfg(all(doc, not(doctest)))]
pub mod documents;
pub mod guest;
pub mod host;
pub mod ids;
mod rules;
pub mod sched;
pub mod state;
mod times;
mod totals;
pub mod uncore;
pub mod units;
mod vcpu;
pub mod x86;

pub use rules::{CodesId, EventFilter, FilterLists, Policy, Rules};
pub use times::Times;
pub use totals::Totals;
pub use vcpu::{
    AttachError, BeforeEntry, CounterState, CounterView, EntryWants, MonitorView, PendingPmi, Ran,
    Uncounted, VcpuPmu,
};
