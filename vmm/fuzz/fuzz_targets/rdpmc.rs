//! RDPMC served over the memory of a hostile guest: any page tables, text and
//! exception frames. Only what may be patched is patched.
//! `cargo +nightly fuzz run rdpmc -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::pmu::fuzz_rdpmc(data));
