//! One test a rule of perf-core.md; names and comments carry the numbers.

mod groups;
mod open;
mod overflow;
mod sched;
mod scopes;
mod states;
mod table;
mod time;
mod world;
mod x86;
