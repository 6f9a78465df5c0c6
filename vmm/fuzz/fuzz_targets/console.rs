//! Queues with hostile descriptors in front of the virtio device `console`, with resets in the
//! middle: no panic, no endless work.
//! `cargo +nightly fuzz run console -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::devices::virtio::fuzz::console(data));
