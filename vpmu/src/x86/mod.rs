//! What the manuals say about PMU registers: indices, fields, CPUID leaves; and the
//! form of the rows that describe a model's registers.

pub mod cpuid;
pub mod event;
pub mod msr;
pub mod regs;
pub mod standard;
