//! The Perfvisor virtual machine monitor: a small KVM VMM built from rust-vmm
//! crates, made for guests with a working PMU.
//!
//! A module uses only modules of the lines above its own.
//! `cargo xtask check` fails on a path to another module of the same line or of a
//! line below:
//!
//! ```text
//! sys                      system calls: signals, kicks, timers, clocks, affinity, terminal
//! output                   bytes on their way out; standard error
//! error_text, rate_limit, fuzz_input   errors as text; a budget for log lines; a fuzzer's bytes
//! snapshot                 the files of a saved VM, the stream of one that moves
//! kvm                      KVM behind types of our own; guest layout, page tables
//! config, stop             the checked configuration; why a VM stops
//! cli, probe, devices      flags as text; throw-away guests; devices on buses
//! vcpu                     vCPU threads; the port between a thread and its PMU
//! pmu                      the guest's PMU between KVM and vpmu
//! event_loop               console, signals, stop, on one thread
//! machine                  memory, boot, ACPI, CPUID, hot-plug: a VM put together
//! doctor, control          perfvisor doctor; the control API, perfvisor ctl
//! launch                   a VM from its configuration to its end
//! exec                     perfvisor exec: a command in a guest of its own
//! run                      from the command line to the exit status
//! ```
//!
//! Only [`kvm`] names KVM's own types; only [`kvm`] and [`sys`] hold `unsafe` code.

// They panic when standard error or output cannot be written: see `output::stderr`.
#![cfg_attr(not(test), deny(clippy::print_stderr, clippy::print_stdout))]

pub mod cli;
pub mod config;
pub mod control;
pub mod devices;
pub mod doctor;
mod error_text;
pub mod event_loop;
pub mod exec;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz_input;
pub mod kvm;
pub mod launch;
pub mod machine;
pub mod output;
pub mod pmu;
pub mod probe;
pub mod rate_limit;
pub mod run;
pub mod snapshot;
pub mod stop;
pub mod sys;
pub mod vcpu;
