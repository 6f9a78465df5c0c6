//! Accesses of any address, size and order to the devices, between orders of the
//! operator and ends of vCPU threads: each vCPU is in one place, and each step of the
//! presence table fits.
//! `cargo +nightly fuzz run bus -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::machine::fuzz::bus(data));
