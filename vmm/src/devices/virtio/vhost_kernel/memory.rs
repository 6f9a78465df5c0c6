//! The guest's memory, as the kernel's devices learn of it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

/// Memory that is known when a driver starts the device, which is opened before.
#[derive(Clone, Default)]
pub(super) struct LateMemory(Arc<Mutex<Arc<GuestMemoryMmap>>>);

impl fmt::Debug for LateMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateMemory").finish_non_exhaustive()
    }
}

impl LateMemory {
    /// From now on it is this one.
    pub(super) fn set(&self, memory: &GuestMemoryMmap) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(memory.clone());
    }
}

impl GuestAddressSpace for LateMemory {
    type M = GuestMemoryMmap;
    type T = Arc<GuestMemoryMmap>;

    fn memory(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
