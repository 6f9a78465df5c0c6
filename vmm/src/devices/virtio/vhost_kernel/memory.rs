//! The guest's memory, as the kernel's devices learn of it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::guest_ram::GuestRam;
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{Address, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

/// The guest's memory in the VMM, where the kernel finds it. It needs no file: that is for
/// other processes.
pub(super) fn regions(memory: &GuestRam) -> Vec<VhostUserMemoryRegionInfo> {
    let region = |region: &crate::sys::guest_ram::GuestRamRegion| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: region.as_ptr() as u64,
        mmap_offset: 0,
        mmap_handle: -1,
    };
    memory.iter().map(region).collect()
}

/// Memory that is known when a driver starts the device, which is opened before.
#[derive(Clone, Default)]
pub(super) struct LateMemory(Arc<Mutex<Arc<GuestRam>>>);

impl fmt::Debug for LateMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateMemory").finish_non_exhaustive()
    }
}

impl LateMemory {
    /// From now on it is this one.
    pub(super) fn set(&self, memory: &GuestRam) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(memory.clone());
    }
}

impl GuestAddressSpace for LateMemory {
    type M = GuestRam;
    type T = Arc<GuestRam>;

    fn memory(&self) -> Arc<GuestRam> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    /// A guest has such memory if no other process serves a device of it.
    #[test]
    fn memory_without_a_file_is_the_kernels_too() {
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x10_0000), 0x2000)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let regions = regions(&memory);
        let places = regions.iter().map(|r| (r.guest_phys_addr, r.memory_size));
        assert_eq!(
            places.collect::<Vec<_>>(),
            [(0, 0x1000), (0x10_0000, 0x2000)]
        );
        let first = memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        assert_eq!(regions[0].userspace_addr, first);
    }
}
