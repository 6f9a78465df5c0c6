//! One test a rule of perf-core.md; names and comments carry the numbers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod constraints;
mod groups;
mod open;
mod overflow;
mod sched;
mod scopes;
mod states;
mod table;
mod time;
mod world;
