//! Power-off and reset: the sleep control, sleep status and reset registers of
//! a hardware-reduced platform (ACPI 6.5, "Sleep Control and Status Registers",
//! "Reset Register").
//!
//! The power button is a device of ACPI ("Control Method Power Button"), and
//! pressing it an edge on an interrupt line that the DSDT's generic event device
//! listens to.
//!
//! Bare-metal guests may rely on this: a byte written to port 0x600 powers off if
//! it is 0x34 (sleep type 5 with the enable bit) and resets if it is 0x01.

use std::io;
use std::sync::Arc;

use acpi_tables::{Aml, AmlSink, aml};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{AcpiAction, AcpiEvent, BusDevice, Device, ResourceError, Resources};
use crate::stop::{StopReason, StopSignal};

/// The sleep control register, and the reset register too.
pub const CONTROL_PORT: u16 = 0x600;
/// The sleep status register.
pub const STATUS_PORT: u16 = 0x601;
/// How many ports.
pub const PORT_COUNT: u64 = 2;
/// The value that resets the VM when the guest writes it to [`CONTROL_PORT`].
pub const RESET_VALUE: u8 = 0x01;
/// The sleep type of "soft off".
pub const SLEEP_TYPE_S5: u8 = 5;
/// The bit SLP_EN.
const SLEEP_ENABLE: u8 = 1 << 5;
/// The value that powers the VM off when the guest writes it to [`CONTROL_PORT`].
pub const POWER_OFF_VALUE: u8 = (SLEEP_TYPE_S5 << 2) | SLEEP_ENABLE;

/// The interrupt line of the power button: none of the legacy ones.
pub const BUTTON_IRQ: u32 = 16;

/// The guest's power button.
#[derive(Clone, Debug)]
pub struct PowerButton(Arc<EventFd>);

impl PowerButton {
    /// A button for a [`PowerDevice`], which connects it to [`BUTTON_IRQ`].
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Each write is an edge.
    #[must_use]
    pub fn irq(&self) -> &EventFd {
        &self.0
    }

    /// Presses it. What follows is the guest's decision.
    ///
    /// # Errors
    /// What the host says.
    pub fn press(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The registers.
#[derive(Debug)]
pub struct PowerDevice {
    stop: Arc<StopSignal>,
    button: PowerButton,
}

impl PowerDevice {
    /// Registers that stop the VM through `stop`, and a button.
    #[must_use]
    pub fn new(stop: Arc<StopSignal>, button: PowerButton) -> Self {
        Self { stop, button }
    }
}

impl Device for PowerDevice {
    fn name(&self) -> &'static str {
        "power"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(CONTROL_PORT, PORT_COUNT)?;
        resources.line(self.button.irq(), BUTTON_IRQ)
    }

    /// The button, and the sleep type of "soft off".
    fn aml(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C"));
        let uid = aml::Name::new("_UID".into(), &aml::ZERO);
        let button = aml::Device::new("PWRB".into(), vec![&hid, &uid]);
        aml::Scope::new("_SB_".into(), vec![&button]).to_aml_bytes(sink);
        let s5 = aml::Package::new(vec![&SLEEP_TYPE_S5, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
        aml::Name::new("_S5_".into(), &s5).to_aml_bytes(sink);
    }

    fn acpi_event(&self) -> Option<AcpiEvent> {
        /// "Power button pressed", for a button that is not asleep.
        const PRESSED: u8 = 0x80;
        Some(AcpiEvent {
            line: BUTTON_IRQ,
            action: AcpiAction::Notify {
                device: "\\_SB_.PWRB",
                value: PRESSED,
            },
        })
    }
}

impl BusDevice for PowerDevice {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (0, Some(&POWER_OFF_VALUE)) => self.stop.stop(StopReason::PowerOff),
            (0, Some(&RESET_VALUE)) => self.stop.stop(StopReason::Reset),
            // Clearing WAK_STS before sleeping: there is nothing to clear.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_values_stop() {
        for value in 0..=u8::MAX {
            let stop = Arc::new(StopSignal::new().unwrap());
            let mut device = PowerDevice::new(Arc::clone(&stop), PowerButton::new().unwrap());
            device.write(1, &[value]);
            device.write(0, &[value]);
            match stop.reason().map(Arc::as_ref) {
                Some(StopReason::PowerOff) => assert_eq!(value, 0x34),
                Some(StopReason::Reset) => assert_eq!(value, 0x01),
                other => assert!(other.is_none() && value != 0x34 && value != 0x01),
            }
        }
    }
}
