//! What the manuals say about PMU registers: indices, fields, CPUID leaves.
//! The only register table of the project.

pub mod cpuid;
pub mod event;
pub mod msr;
pub mod regs;
