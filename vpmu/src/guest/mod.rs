//! Guest PMU models: pure register files. A model knows what the guest may
//! read and write and what each counter should be counting; it never counts
//! by itself and sees neither clocks nor host events.
//!
//! Each register of a model is one row: `arch_perfmon/rows.rs` has Intel's,
//! `amd/rows.rs` has AMD's.
//!
//! ```text
//!  MSR index ─▶ decode ─▶ row, and the model's numbers ─▶ Access ─▶ read, write
//!                  └─ none: Unknown ─▶ the VM's next PMU ─▶ … ─▶ refusal: #GP
//! ```

pub mod amd;
pub mod arch_perfmon;
mod config;
mod kind;
mod model;
mod registers;
mod traits;

pub use amd::{AmdConfig, AmdPmu, AmdVersion};
pub use arch_perfmon::{ArchPerfmon, ArchPerfmonConfig, ArchVersion, CoreType};
pub use config::{ModelConfig, ModelConfigError, Shape};
pub use kind::{Limits, ModelKind};
pub use model::Model;
pub(crate) use registers::saved_registers;
pub use registers::{all_registers, intercepted, refusal, register_name};
pub use traits::{Demand, Encoding, GuestPmu, Identity, Wrap};

pub use crate::x86::msr::{Access, Arming, Effect, MsrError, OrElseIfUnknown};
