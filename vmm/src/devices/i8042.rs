//! The keyboard controller (only its CPU reset) and port 0x61.
//!
//! Both are in ports 0x60–0x64. Port 0x61 reads 0: its bits 7 and 6 would tell the
//! guest's NMI handler of a memory or bus error.

use std::io;
use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use super::{BusDevice, Device, ResourceError, Resources};
use crate::stop::{StopReason, StopSignal};

/// The first port.
pub const BASE_PORT: u16 = 0x60;
/// How many ports.
pub const PORT_COUNT: u64 = 5;

#[derive(Debug)]
struct ResetLine(Arc<StopSignal>);

impl Trigger for ResetLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.stop(StopReason::Reset);
        Ok(())
    }
}

/// The controller.
#[derive(Debug)]
pub struct KeyboardController(I8042Device<ResetLine>);

impl KeyboardController {
    /// A controller whose reset line stops the VM through `stop`.
    #[must_use]
    pub fn new(stop: Arc<StopSignal>) -> Self {
        Self(I8042Device::new(ResetLine(stop)))
    }
}

impl Device for KeyboardController {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(BASE_PORT, PORT_COUNT)
    }
}

impl BusDevice for KeyboardController {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let (Some(byte), Ok(offset)) = (data.first_mut(), u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Some(&byte), Ok(offset)) = (data.first(), u8::try_from(offset))
            && let Err(error) = self.0.write(offset, byte)
        {
            log::error!("the reset line does not work: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_61_reads_zero_and_fe_resets() {
        let stop = Arc::new(StopSignal::new().unwrap());
        let mut device = KeyboardController::new(Arc::clone(&stop));
        let mut data = [0xff];
        device.read(1, &mut data);
        assert_eq!(data, [0]);
        device.write(0, &[0xfe]);
        device.write(4, &[0xf0]);
        assert!(stop.reason().is_none());
        device.write(4, &[0xfe]);
        assert!(matches!(
            stop.reason().map(Arc::as_ref),
            Some(StopReason::Reset)
        ));
    }
}
