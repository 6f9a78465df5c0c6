//! The bridge between the CPUs and the bus: 00:00.0, by which a guest knows that there
//! is a bus.

use super::{ConfigSpace, FunctionIds, PciFunction};

/// A bridge that only tells what it is.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    /// With the ids of QEMU's bridge of the same kind, which drivers leave alone.
    fn default() -> Self {
        Self(ConfigSpace::new(FunctionIds {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            // Bridge, host.
            class: [0x06, 0, 0],
            subsystem: [0x1af4, 0x1100],
        }))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }
}
