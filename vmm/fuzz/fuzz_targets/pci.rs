//! Accesses of any address, size and order to the configuration space and the BARs of
//! PCI functions: no device gets a queue outside of memory, no interrupt is sent that
//! the guest has masked.
//! `cargo +nightly fuzz run pci -s none` in `vmm`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| vmm::devices::virtio::pci::fuzz::pci(data));
