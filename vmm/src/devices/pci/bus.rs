//! The bus, and the guest's two ways to its configuration space.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use acpi_tables::AmlSink;

use super::aml;
use crate::devices::{BusDevice, Device, DeviceNotSaved, ResourceError, Resources};
use crate::kvm::layout::{PCI_ECAM, PCI_ECAM_LEN};
use crate::snapshot::{SectionError, Sections};

/// How many functions a bus has: one of each device number.
pub const MAX_FUNCTIONS: usize = 32;
/// The first port of the configuration space.
pub const CONFIG_PORTS: u16 = 0xcf8;
/// How many ports.
pub const CONFIG_PORT_COUNT: u64 = 8;

/// The bytes of configuration space that a function has by memory.
const FUNCTION_LEN: u64 = 4096;
const FUNCTIONS_A_DEVICE: u64 = 8;

/// A function's configuration space.
pub trait PciFunction: Send {
    /// Fills `data` with what is at `offset`. The access is within an aligned double
    /// word, and `offset` below 4096.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// Takes what is written at `offset`, within an aligned double word.
    fn write_config(&mut self, offset: usize, data: &[u8]);
}

/// A bus with its functions, by device number.
#[derive(Default)]
pub struct PciBus {
    functions: Vec<Arc<Mutex<dyn PciFunction>>>,
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciBus")
            .field("functions", &self.functions.len())
            .finish()
    }
}

impl PciBus {
    /// Adds a function at the next device number. Returns `None` if the bus is full.
    pub fn add(&mut self, function: Arc<Mutex<dyn PciFunction>>) -> Option<usize> {
        let number = self.functions.len();
        if number >= MAX_FUNCTIONS {
            return None;
        }
        self.functions.push(function);
        Some(number)
    }

    /// The function of an address in the configuration space of the first bus, and the
    /// offset there, if an access of this length is within one double word.
    fn find(
        &self,
        address: u64,
        len: usize,
    ) -> Option<(usize, MutexGuard<'_, dyn PciFunction + 'static>)> {
        let offset = usize::try_from(address % FUNCTION_LEN).ok()?;
        let number = address / FUNCTION_LEN;
        if offset % 4 + len > 4 || !number.is_multiple_of(FUNCTIONS_A_DEVICE) {
            return None;
        }
        let device = usize::try_from(number / FUNCTIONS_A_DEVICE).ok()?;
        let function = self.functions.get(device)?;
        Some((
            offset,
            function.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, mut function)) = self.find(address, data.len()) {
            function.read_config(offset, data);
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, mut function)) = self.find(address, data.len()) {
            function.write_config(offset, data);
        }
    }
}

/// The configuration space by memory (PCI Express, "Enhanced Configuration Access
/// Mechanism").
#[derive(Debug)]
pub struct ConfigMemory(Arc<PciBus>);

impl ConfigMemory {
    /// That of `bus`.
    #[must_use]
    pub const fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }
}

impl Device for ConfigMemory {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.memory(PCI_ECAM, PCI_ECAM_LEN)
    }

    fn aml(&self, sink: &mut dyn AmlSink) {
        aml::to_aml(sink);
    }
}

impl BusDevice for ConfigMemory {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// The configuration space by ports (PCI 3.0, "Configuration Mechanism #1"): an address
/// at 0xcf8, its double word at 0xcfc.
#[derive(Debug)]
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: u32,
}

impl ConfigPorts {
    const ENABLE: u32 = 1 << 31;
    /// The bits of an address that there are: enable, bus, device, function, register.
    const ADDRESS: u32 = Self::ENABLE | 0x00ff_fffc;
    /// The offset of the data ports.
    const DATA: u64 = 4;

    /// That of `bus`.
    #[must_use]
    pub const fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, address: 0 }
    }

    /// Where an access to the data ports goes, as an address by memory.
    fn target(&self, offset: u64) -> Option<u64> {
        let data = offset.checked_sub(Self::DATA)?;
        let selected = u64::from(self.address);
        // Bus 0 has numbers of 256 functions; any other bus has none.
        let function = selected >> 8 & 0xffff;
        let register = selected & 0xfc;
        (self.address & Self::ENABLE != 0).then_some(function * FUNCTION_LEN + register + data)
    }
}

impl Device for ConfigPorts {
    fn name(&self) -> &'static str {
        "pci-ports"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.ports(CONFIG_PORTS, CONFIG_PORT_COUNT)
    }

    fn save(&mut self, sections: &mut Sections) -> Result<(), DeviceNotSaved> {
        Ok(sections.put(self.name(), &self.address)?)
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), SectionError> {
        let address: u32 = sections.take(self.name())?;
        self.address = address & Self::ADDRESS;
        Ok(())
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, [_, _, _, _]) = (offset, &*data) {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some(address) = self.target(offset) {
            self.bus.read(address, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, &[a, b, c, d]) = (offset, data) {
            self.address = u32::from_le_bytes([a, b, c, d]) & Self::ADDRESS;
        } else if let Some(address) = self.target(offset) {
            self.bus.write(address, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Registers([u8; 16]);

    impl PciFunction for Registers {
        fn read_config(&mut self, offset: usize, data: &mut [u8]) {
            data.copy_from_slice(&self.0[offset..offset + data.len()]);
        }
        fn write_config(&mut self, offset: usize, data: &[u8]) {
            self.0[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    fn bus() -> Arc<PciBus> {
        let mut bus = PciBus::default();
        for number in 0..2 {
            let function = Arc::new(Mutex::new(Registers::default()));
            assert_eq!(bus.add(function), Some(number));
        }
        Arc::new(bus)
    }

    fn read(device: &mut dyn BusDevice, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        device.read(offset, &mut data);
        data
    }

    #[test]
    fn memory_and_ports_reach_the_same_registers() {
        let bus = bus();
        let mut memory = ConfigMemory::new(Arc::clone(&bus));
        let mut ports = ConfigPorts::new(bus);
        memory.write(8 << 12 | 4, &[1, 2, 3, 4]);
        ports.write(0, &0x8000_0807u32.to_le_bytes());
        assert_eq!(read(&mut ports, 0, 4), 0x8000_0804u32.to_le_bytes());
        assert_eq!(read(&mut ports, 4, 4), [1, 2, 3, 4]);
        assert_eq!(read(&mut ports, 6, 2), [3, 4]);
        ports.write(7, &[9]);
        assert_eq!(read(&mut memory, 8 << 12 | 4, 4), [1, 2, 3, 9]);
        assert_eq!(read(&mut memory, 4, 4), [0; 4]);
    }

    #[test]
    fn what_is_not_there_reads_as_ones() {
        let bus = bus();
        let mut memory = ConfigMemory::new(Arc::clone(&bus));
        let mut ports = ConfigPorts::new(bus);
        // Another function, another device, across double words, the last byte.
        for (offset, len) in [
            (1 << 12, 4),
            (16 << 12, 2),
            (2, 4),
            (0, 8),
            ((1 << 20) - 1, 1),
        ] {
            memory.write(offset, &vec![0; len]);
            assert!(read(&mut memory, offset, len).iter().all(|&b| b == 0xff));
        }
        // Not enabled; bus 1; a part of the address; the reset register of chipsets.
        for address in [0, 0x8001_0000u32] {
            ports.write(0, &address.to_le_bytes());
            assert_eq!(read(&mut ports, 4, 4), [0xff; 4]);
        }
        ports.write(1, &[6]);
        assert_eq!(read(&mut ports, 0, 4), 0x8001_0000u32.to_le_bytes());
        assert_eq!(read(&mut ports, 0, 2), [0xff; 2]);
    }

    #[test]
    fn a_bus_has_an_end() {
        let mut bus = PciBus::default();
        let mut add = || bus.add(Arc::new(Mutex::new(Registers::default())));
        for number in 0..MAX_FUNCTIONS {
            assert_eq!(add(), Some(number));
        }
        assert_eq!(add(), None);
    }
}
