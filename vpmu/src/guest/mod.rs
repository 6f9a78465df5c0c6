//! Guest PMU models: pure register files. A model knows what the guest may
//! read and write and what each counter should be counting; it never counts
//! by itself and sees neither clocks nor host events.

pub mod arch_perfmon;
mod model;

pub use arch_perfmon::{ArchPerfmon, ArchPerfmonConfig, ConfigError};
pub use model::{Demand, Encoding, GuestPmu, MsrError, Wrap};
