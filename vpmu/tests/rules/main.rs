//! One test a rule of perf-core.md; names and comments carry the numbers.

mod table;
mod world;
mod x86;
