//! A port that ends the VM with a status of the guest's choice: QEMU's
//! `isa-debug-exit`, as bare-metal test suites expect it at 0xf4.

use std::sync::Arc;

use super::{BusDevice, Device, ResourceError, Resources};
use crate::stop::{StopReason, StopSignal};

/// The first port.
pub const PORT: u16 = 0xf4;
/// How many ports.
pub const PORT_COUNT: u64 = 4;

/// The port. It reads 0.
#[derive(Debug)]
pub struct DebugExit {
    stop: Arc<StopSignal>,
}

impl DebugExit {
    /// A port that stops the VM through `stop`.
    #[must_use]
    pub fn new(stop: Arc<StopSignal>) -> Self {
        Self { stop }
    }
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(PORT, PORT_COUNT)
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let mut value = [0u8; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        self.stop
            .stop(StopReason::DebugExit(u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_any_width_ends_the_vm_with_an_odd_status() {
        for (data, status) in [
            (&[0][..], 1),
            (&[0x10], 33),
            (&[0x7f, 0], 255),
            (&[0x81, 0xff, 0xff, 0xff], 3),
            (&[], 1),
        ] {
            let stop = Arc::new(StopSignal::new().unwrap());
            let mut device = DebugExit::new(Arc::clone(&stop));
            let mut read = [0xff];
            device.read(0, &mut read);
            assert_eq!(read, [0]);
            assert!(stop.reason().is_none());
            device.write(0, data);
            assert_eq!(stop.reason().unwrap().exit_status(), status, "{data:x?}");
        }
    }
}
