//! A number that a guest goes by to tell that it is no longer the one that it was: after a
//! snapshot there may be two of it, and their random numbers must differ ("Virtual Machine
//! Generation ID", Microsoft 2012; Linux has a driver, which reseeds its random generator).
//!
//! The number is 16 bytes of guest memory. It is another one in each life of the guest.

use std::io;

use acpi_tables::{Aml, AmlSink, aml};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{AcpiAction, AcpiEvent, BusDevice, Device, ResourceError, Resources};
use crate::kvm::layout::GENERATION_ID;
use crate::snapshot::{SectionError, Sections};
use crate::sys::guest_ram::GuestRam;
use crate::sys::random;

/// The interrupt line that says that the number is another.
pub const IRQ: u32 = 18;
/// Its path in the DSDT.
const PATH: &str = "\\_SB_.VGEN";
/// "The number has changed".
const CHANGED: u8 = 0x80;

/// The device.
#[derive(Debug)]
pub struct GenerationDevice {
    memory: GuestRam,
    changed: EventFd,
}

impl GenerationDevice {
    /// A number in the memory of a guest that begins.
    ///
    /// # Errors
    /// If the host gives no eventfd or no random bytes.
    pub fn new(memory: GuestRam) -> io::Result<Self> {
        let changed = EventFd::new(EFD_NONBLOCK)?;
        let device = Self { memory, changed };
        device.change()?;
        Ok(device)
    }

    fn change(&self) -> io::Result<()> {
        let mut id = [0; 16];
        random::fill(&mut id)?;
        let written = self.memory.write_slice(&id, GuestAddress(GENERATION_ID));
        written.map_err(io::Error::other)
    }
}

impl Device for GenerationDevice {
    fn name(&self) -> &'static str {
        "generation"
    }

    fn resources(&mut self, resources: &mut Resources) -> Result<(), ResourceError> {
        resources.line(&self.changed, IRQ)
    }

    fn aml(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new("_HID".into(), &"VMGENCTR");
        let cid = aml::Name::new("_CID".into(), &"VM_Gen_Counter");
        let uid = aml::Name::new("_UID".into(), &aml::ZERO);
        // The lower and the upper half of the address.
        let halves = aml::Package::new(vec![&GENERATION_ID, &aml::ZERO]);
        let place = aml::Name::new("ADDR".into(), &halves);
        let device = aml::Device::new("VGEN".into(), vec![&hid, &cid, &uid, &place]);
        aml::Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(sink);
    }

    fn acpi_event(&self) -> Option<AcpiEvent> {
        Some(AcpiEvent {
            line: IRQ,
            action: AcpiAction::Notify {
                device: PATH,
                value: CHANGED,
            },
        })
    }

    /// The guest is another one now.
    fn restore(&mut self, _sections: &mut Sections) -> Result<(), SectionError> {
        let told = self.change().and_then(|()| self.changed.write(1));
        told.map_err(|error| SectionError::Misfit {
            name: self.name().to_owned(),
            reason: format!("the guest gets no random number of its own: {error}"),
        })
    }
}

/// It has no registers.
impl BusDevice for GenerationDevice {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_has_a_number_of_its_own_and_is_told() {
        let ranges = [(GuestAddress(0), 1 << 20)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let read = || {
            memory
                .read_obj::<u128>(GuestAddress(GENERATION_ID))
                .unwrap()
        };
        let mut device = GenerationDevice::new(memory.clone()).unwrap();
        let first = read();
        assert_ne!(first, 0);
        assert!(device.changed.read().is_err());
        device.restore(&mut Sections::default()).unwrap();
        assert_ne!(read(), first);
        assert_eq!(device.changed.read().unwrap(), 1);
    }

    /// Where Linux's driver looks: `ADDR`, a package of two numbers.
    #[test]
    fn the_dsdt_names_it_and_its_place() {
        let ranges = [(GuestAddress(0), 1 << 20)];
        let memory = GuestRam::from_ranges(&ranges).unwrap();
        let mut aml = Vec::new();
        GenerationDevice::new(memory).unwrap().aml(&mut aml);
        let find = |bytes: &[u8]| aml.windows(bytes.len()).any(|window| window == bytes);
        assert!(find(b"VM_Gen_Counter\0") && find(b"VMGENCTR\0"));
        // PackageOp, its length and its two elements: DWordPrefix 0xff000, ZeroOp.
        assert!(find(b"ADDR\x12\x08\x02\x0c\x00\xf0\x0f\x00\x00"));
    }
}
