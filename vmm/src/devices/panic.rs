//! A port to which a guest's kernel writes when it has panicked: QEMU's `pvpanic`
//! (its specification: `docs/specs/pvpanic.rst`), for which Linux has a driver.

use std::sync::Arc;

use acpi_tables::{Aml, AmlSink, aml};

use super::{BusDevice, Device, ResourceError, Resources};
use crate::stop::{StopReason, StopSignal};

/// The port, where QEMU has it.
pub const PORT: u16 = 0x505;
/// How many ports.
pub const PORT_COUNT: u64 = 1;
/// Its id in ACPI.
pub const ACPI_ID: &str = "QEMU0001";

/// The guest has panicked.
const PANICKED: u8 = 1 << 0;
/// The guest has panicked, and its crash kernel takes over: it goes on.
const CRASH_LOADED: u8 = 1 << 1;

/// The port.
#[derive(Debug)]
pub struct PanicDevice {
    stop: Arc<StopSignal>,
}

impl PanicDevice {
    /// A port that stops the VM through `stop`.
    #[must_use]
    pub fn new(stop: Arc<StopSignal>) -> Self {
        Self { stop }
    }
}

impl Device for PanicDevice {
    fn name(&self) -> &'static str {
        "panic"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(PORT, PORT_COUNT)
    }

    fn aml(&self, sink: &mut dyn AmlSink) {
        let port = aml::IO::new(PORT, PORT, 0, 1);
        let port = aml::ResourceTemplate::new(vec![&port]);
        let hid = aml::Name::new("_HID".into(), &ACPI_ID);
        let uid = aml::Name::new("_UID".into(), &aml::ZERO);
        let crs = aml::Name::new("_CRS".into(), &port);
        let panicked = aml::Device::new("PEVT".into(), vec![&hid, &uid, &crs]);
        aml::Scope::new("_SB_".into(), vec![&panicked]).to_aml_bytes(sink);
    }
}

impl BusDevice for PanicDevice {
    /// The events that it knows.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            self.stop.stop(StopReason::GuestPanic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_vm_and_a_crash_kernel_does_not() {
        let stop = Arc::new(StopSignal::new().unwrap());
        let mut device = PanicDevice::new(Arc::clone(&stop));
        let mut read = [0xff; 2];
        device.read(0, &mut read);
        assert_eq!(read, [3, 0]);
        for data in [&[][..], &[CRASH_LOADED], &[0xfc, 1]] {
            device.write(0, data);
            assert!(stop.reason().is_none(), "{data:?}");
        }
        device.write(0, &[PANICKED]);
        assert_eq!(stop.reason().unwrap().exit_status(), 6);
    }
}
