//! Guest PMU models: pure register files. A model knows what the guest may
//! read and write and what each counter should be counting; it never counts
//! by itself and sees neither clocks nor host events.

pub mod amd;
pub mod arch_perfmon;
mod config;
mod kind;
mod model;
mod traits;

pub use amd::{AmdConfig, AmdPmu, AmdVersion};
pub use arch_perfmon::{ArchPerfmon, ArchPerfmonConfig, ArchVersion, CoreType};
pub use config::{ConfigError, ModelConfig, Shape};
pub use kind::{Limits, ModelKind};
pub use model::Model;
pub use traits::{Arming, Demand, Effect, Encoding, GuestPmu, Identity, MsrError, Wrap};
