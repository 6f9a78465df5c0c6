//! Uncore PMUs of a guest: RAPL and AMD's L3, data fabric and memory
//! controllers, whose counters serve a die or a package.
//!
//! ```text
//!  RDMSR WRMSR RDPMC of any vCPU          vCPU plugged in, ejected
//!            │                                      │
//!            ▼                                      ▼
//!  ┌───────────────────────────── Uncore ─────────────────────────────┐
//!  │ model, registers    vm: a slot per counter      events: one       │
//!  │ (which MSR is what) and instance (G-602) ─────▶ Scheduler, with   │
//!  │ value: widths, ends                             designated vCPUs  │
//!  │                     log: who moved where              │ driver    │
//!  └───────────────────────────────────────────────────────┼───────────┘
//!                                                          ▼
//!                                                  host::UncoreHost
//! ```
//!
//! A VM has one [`Uncore`], which its vCPUs share; that access is exclusive is
//! the owner's business.

mod bank;
mod designate;
mod driver;
mod events;
mod history;
mod model;
mod registers;
mod value;
mod view;
mod vm;

pub use events::Trouble;
pub use history::{Change, LOG_LEN, LogEntry};
pub use model::{Power, PowerForm, TooManyUnits, UncoreModel, UncorePmu};
pub use registers::{UncoreCounter, UncoreRegister, runs};
pub use view::{InstanceView, UncoreCounterView, UncoreState, UncoreView};
pub use vm::Uncore;

#[cfg(test)]
mod tests;
