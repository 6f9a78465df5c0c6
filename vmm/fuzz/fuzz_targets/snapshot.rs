//! The state of a snapshot and the stream of a migration, of any bytes: refused in one
//! line, or restored, and then the same when it is saved and restored again.
//! `cargo +nightly fuzz run snapshot -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::machine::fuzz::snapshot(data));
