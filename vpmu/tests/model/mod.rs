//! The naive model and the operations that compare the scheduler with it.

mod naive;
pub(crate) mod ops;
mod types;
pub(crate) mod wild;
