//! The first serial port (ttyS0): a 16550A at 0x3f8, IRQ 4.

mod output;
mod uart;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use acpi_tables::{Aml, AmlSink, aml};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use self::output::ConsoleOutput;
use self::uart::Uart;
use super::{BusDevice, Device, DeviceNotSaved, ResourceError, Resources};
use crate::rate_limit::RateLimit;
use crate::snapshot::{SectionError, Sections};

/// The first port.
pub const COM1_PORT: u16 = 0x3f8;
/// How many ports.
pub const PORT_COUNT: u8 = 8;
/// The interrupt line.
pub const COM1_IRQ: u32 = 4;
/// The most bytes that a guest may put into a file: it must not fill a disk.
pub const FILE_LIMIT: u64 = 1 << 30;

/// The port, as the bus and the event loop share it.
#[derive(Debug)]
pub struct SerialPort {
    uart: Uart,
    irq: EventFd,
    drained: EventFd,
    output: ConsoleOutput,
    faults: RateLimit,
}

/// A serial port and the events around it.
#[derive(Debug)]
pub struct SerialParts {
    /// The port.
    pub port: Arc<Mutex<SerialPort>>,
    /// To be connected to [`COM1_IRQ`].
    pub irq: EventFd,
    /// Readable when the guest has read all its input.
    pub drained: EventFd,
    /// What the guest prints.
    pub output: ConsoleOutput,
}

impl SerialPort {
    /// A port that sends to `output`.
    ///
    /// # Errors
    /// If the host gives no eventfd.
    pub fn create(output: ConsoleOutput) -> io::Result<SerialParts> {
        let irq = EventFd::new(EFD_NONBLOCK)?;
        let drained = EventFd::new(EFD_NONBLOCK)?;
        let port = Self {
            uart: Uart::default(),
            irq: irq.try_clone()?,
            drained: drained.try_clone()?,
            output: output.clone(),
            faults: RateLimit::new(),
        };
        Ok(SerialParts {
            port: Arc::new(Mutex::new(port)),
            irq,
            drained,
            output,
        })
    }

    /// How many bytes [`SerialPort::input`] would take now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.uart.room()
    }

    /// Hands typed bytes to the guest; what does not fit is lost.
    pub fn input(&mut self, bytes: &[u8]) {
        let lost = self.uart.receive(bytes);
        if lost > 0 && self.faults.allow().is_some() {
            log::warn!("{lost} bytes of serial input lost: no room for them");
        }
        self.settle(false);
    }

    /// Pulls the interrupt line if there is a new cause; tells whoever feeds the
    /// port if the guest has read everything since (it had not: `unread`).
    fn settle(&mut self, unread: bool) {
        if self.uart.interrupts()
            && let Err(error) = self.irq.write(1)
            && self.faults.allow().is_some()
        {
            log::warn!("a serial interrupt is lost: {error}");
        }
        if unread && self.uart.is_drained() {
            // Full means that a wake-up is pending already.
            drop(self.drained.write(1));
        }
    }
}

/// The lock of a shared port.
pub fn lock(port: &Mutex<SerialPort>) -> std::sync::MutexGuard<'_, SerialPort> {
    port.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device for SerialPort {
    fn name(&self) -> &'static str {
        "serial"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(COM1_PORT, PORT_COUNT.into())?;
        resources.line(&self.irq, COM1_IRQ)
    }

    fn aml(&self, sink: &mut dyn AmlSink) {
        let irq = aml::Interrupt::new(true, true, false, false, COM1_IRQ);
        let ports = aml::IO::new(COM1_PORT, COM1_PORT, 0, PORT_COUNT);
        let resources = aml::ResourceTemplate::new(vec![&irq, &ports]);
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
        let uid = aml::Name::new("_UID".into(), &aml::ZERO);
        let crs = aml::Name::new("_CRS".into(), &resources);
        let com1 = aml::Device::new("COM1".into(), vec![&hid, &uid, &crs]);
        aml::Scope::new("_SB_".into(), vec![&com1]).to_aml_bytes(sink);
    }

    fn save(&mut self, sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        Ok(sections.put(self.name(), &self.uart)?)
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), SectionError> {
        self.uart.go_on_as(sections.take(self.name())?);
        Ok(())
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let unread = !self.uart.is_drained();
        if let Some(byte) = data.first_mut() {
            *byte = self.uart.read(offset);
        }
        self.settle(unread);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let unread = !self.uart.is_drained();
        for &byte in data {
            if let Some(byte) = self.uart.write(offset, byte) {
                self.output.send(&[byte]);
            }
        }
        self.settle(unread);
    }
}

/// A writer that refuses what goes beyond a limit.
#[derive(Debug)]
pub struct Limited<W> {
    inner: W,
    left: u64,
}

impl<W> Limited<W> {
    /// Lets [`FILE_LIMIT`] bytes through.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            left: FILE_LIMIT,
        }
    }
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_or(bytes.len(), |left| bytes.len().min(left));
        if len == 0 && !bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let written = self.inner.write(bytes.get(..len).unwrap_or_default())?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_bytes_arrive_and_the_feeder_is_told() {
        let parts = SerialPort::create(ConsoleOutput::default()).unwrap();
        let mut port = lock(&parts.port);
        port.write(1, &[1]);
        port.input(b"hi");
        assert!(parts.irq.read().is_ok());
        let mut data = [0];
        port.read(0, &mut data);
        assert_eq!(&data, b"h");
        assert!(parts.drained.read().is_err());
        port.read(0, &mut data);
        assert_eq!(&data, b"i");
        assert!(parts.drained.read().is_ok());
    }

    #[test]
    fn a_file_does_not_grow_without_end() {
        let mut out = Limited {
            inner: Vec::new(),
            left: 3,
        };
        assert!(out.write_all(b"ab").is_ok());
        assert!(out.write_all(b"cd").is_err());
        assert_eq!(out.inner, b"abc");
    }
}
