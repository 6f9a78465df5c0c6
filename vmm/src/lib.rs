//! The Perfvisor virtual machine monitor: a small KVM VMM built from rust-vmm
//! crates, made for guests with a working PMU.
//!
//! ```text
//!   cli ──▶ config ──▶ machine (memory, boot, ACPI, CPUID) ──▶ vcpu threads ──▶ devices (bus)
//!                          │                                       │
//!                          └──────────────▶ kvm ◀──────────────────┘      event_loop: console, signals, stop
//!                                                                         control: HTTP on a Unix socket
//! ```
//!
//! Only [`kvm`] names KVM's own types; only [`kvm`] and [`sys`] hold `unsafe` code.

pub mod cli;
pub mod config;
pub mod control;
pub mod devices;
pub mod doctor;
mod error_text;
pub mod event_loop;
pub mod kvm;
pub mod machine;
pub mod pmu;
pub mod probe;
pub mod rate_limit;
pub mod run;
pub mod stop;
pub mod sys;
pub mod vcpu;
