//! What a guest reaches by ports and by memory without RAM.

use crate::devices::Bus;
use crate::devices::serial::{COM1_PORT, ConsoleOutput};

/// The two address spaces of a guest.
#[derive(Debug)]
pub struct Buses {
    /// Ports.
    pub pio: Bus,
    /// Memory without RAM.
    pub mmio: Bus,
    /// What the serial port sends; a vCPU that fills it waits.
    pub console: ConsoleOutput,
}

impl Buses {
    /// IN or REP INS: each item is an access of its own.
    pub(super) fn read_port(&self, port: u16, size: usize, data: &mut [u8]) {
        for access in data.chunks_mut(size) {
            self.pio.read(port.into(), access);
        }
    }

    /// OUT or REP OUTS: each item is an access of its own, up to the one that `stops` the
    /// VM.
    pub(super) fn write_port<'a>(
        &self,
        port: u16,
        accesses: impl Iterator<Item = &'a [u8]>,
        stops: impl Fn() -> bool,
    ) {
        for access in accesses {
            self.pio.write(port.into(), access);
            if stops() {
                return;
            }
        }
    }

    /// Whether a write to the port has filled the console's queue.
    pub(super) fn is_console_full(&self, port: u16) -> bool {
        port == COM1_PORT && self.console.is_full()
    }
}
