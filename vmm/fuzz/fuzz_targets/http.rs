//! A client of the API that sends any bytes in any pieces: always an answer or a
//! closed connection, the same in pieces and at once, and bounded memory.
//! `cargo +nightly fuzz run http -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::control::fuzz::http(data));
