//! A back end of a vhost-user device that answers anything: each talk ends, and whoever is
//! lost is named.
//! `cargo +nightly fuzz run vhost_user -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::devices::virtio::vhost_user::fuzz::back_end(data));
