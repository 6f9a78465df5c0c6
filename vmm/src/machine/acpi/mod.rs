//! ACPI tables of a hardware-reduced platform (ACPI 6.5, "Hardware-Reduced
//! ACPI").
//!
//! ```text
//!   RSDP ─▶ XSDT ─┬▶ FADT ─▶ DSDT (each device's own part, and the event device)
//!                 ├▶ MADT (every possible vCPU, the I/O APIC, IRQ 4)
//!                 └▶ MCFG (PCI's configuration space)
//! ```

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink, aml};

use super::platform::DeviceSet;
use crate::config::CpusConfig;
use crate::devices::cpu_hotplug::{APIC_ENABLED, local_apic};
use crate::devices::{AcpiAction, AcpiEvent, power, serial};
use crate::kvm::layout::{ACPI, ACPI_END, IO_APIC, LOCAL_APIC, PCI_ECAM};

const OEM: [u8; 6] = *b"PRFVSR";
const TABLE: [u8; 8] = *b"PERFVISR";
const REVISION: u32 = 1;
/// Bytes of the header that all tables share.
const HEADER_LEN: u32 = 36;
/// "IA-PC Boot Architecture Flags": no VGA, no CMOS RTC; no 8042
/// keyboard either, by the bit that is not set.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;
/// "Local APIC Flags": the vCPU may come.
const ONLINE_CAPABLE: u32 = 2;
/// The I/O APIC's id, as KVM's model has it.
const IO_APIC_ID: u8 = 0;

/// Tables in one piece, to be copied to [`ACPI`]; the RSDP comes first.
///
/// Returns `None` if they do not fit their area, which
/// [`crate::config::MAX_VCPUS`] excludes.
#[must_use]
pub(super) fn tables(cpus: &CpusConfig, devices: &DeviceSet) -> Option<Vec<u8>> {
    let mut image = Image::default();
    // The RSDP's place is known, its content is not yet.
    image.reserve(Rsdp::len());
    let dsdt = image.add(dsdt(devices).as_slice());
    let fadt = image.add(&bytes_of(&fadt(dsdt)));
    let madt = image.add(madt(cpus).as_slice());
    let mcfg = image.add(&mcfg());
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    xsdt.add_entry(mcfg);
    let xsdt = image.add(&bytes_of(&xsdt));
    let rsdp = bytes_of(&Rsdp::new(OEM, xsdt));
    image.bytes.get_mut(..rsdp.len())?.copy_from_slice(&rsdp);
    let room = usize::try_from(ACPI_END - ACPI).ok()?;
    (image.bytes.len() <= room).then_some(image.bytes)
}

/// The ACPI area as it grows.
#[derive(Debug, Default)]
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn reserve(&mut self, len: usize) {
        self.bytes.resize(self.bytes.len() + len, 0);
    }

    /// Appends a table at a 16-byte boundary and returns its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let address = ACPI + self.bytes.len() as u64;
        self.bytes.extend_from_slice(table);
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = |port| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut builder = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    builder.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    builder.reset_reg = register(power::CONTROL_PORT);
    builder.reset_value = power::RESET_VALUE;
    builder.sleep_control_reg = register(power::CONTROL_PORT);
    builder.sleep_status_reg = register(power::STATUS_PORT);
    builder.finalize()
}

/// The differentiated description table: the devices that no bus announces.
fn dsdt(devices: &DeviceSet) -> Sdt {
    let mut aml = Vec::new();
    devices.aml(&mut aml);
    events(&devices.acpi_events(), &mut aml);
    table(*b"DSDT", &aml)
}

/// A table with this content. In one piece: an [`Sdt`] computes its checksum anew for each
/// piece that it gets, which are as many as bytes where AML is written to it.
fn table(signature: [u8; 4], content: &[u8]) -> Sdt {
    let mut table = Sdt::new(signature, HEADER_LEN, 6, OEM, TABLE, REVISION);
    table.append_slice(content);
    table
}

/// The event device (ACPI 6.5, "Generic Event Device"): a line for each event.
fn events(events: &[AcpiEvent], sink: &mut dyn AmlSink) {
    let line = |event: &AcpiEvent| aml::Interrupt::new(true, true, false, false, event.line);
    let lines: Vec<_> = events.iter().map(line).collect();
    let lines = lines.iter().map(|line| line as &dyn Aml).collect();
    let resources = aml::ResourceTemplate::new(lines);
    let hid = aml::Name::new("_HID".into(), &"ACPI0013");
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let crs = aml::Name::new("_CRS".into(), &resources);
    let cases: Vec<_> = events.iter().map(EventCase).collect();
    let cases = cases.iter().map(|case| case as &dyn Aml).collect();
    let event = aml::Method::new("_EVT".into(), 1, true, cases);
    let device = aml::Device::new("GED_".into(), vec![&hid, &uid, &crs, &event]);
    aml::Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(sink);
}

/// If the interrupt, the method's argument, is the event's: its action.
struct EventCase<'a>(&'a AcpiEvent);

impl Aml for EventCase<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let is_this = aml::Equal::new(&aml::Arg(0), &self.0.line);
        match self.0.action {
            AcpiAction::Notify { device, value } => {
                let target = aml::Path::new(device);
                let notify = aml::Notify::new(&target, &value);
                aml::If::new(&is_this, vec![&notify]).to_aml_bytes(sink);
            }
            AcpiAction::Call(method) => {
                let call = aml::MethodCall::new(method.into(), Vec::new());
                aml::If::new(&is_this, vec![&call]).to_aml_bytes(sink);
            }
        }
    }
}

/// The table of PCI's configuration spaces: one, of bus 0 in segment 0.
fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(PCI_ECAM, 0, 0, 0);
    bytes_of(&mcfg)
}

/// The interrupt controllers (ACPI 6.5, "Multiple APIC Description Table").
fn madt(cpus: &CpusConfig) -> Sdt {
    let mut madt = LOCAL_APIC.to_le_bytes().to_vec();
    // No legacy PIC behind it.
    madt.extend(0u32.to_le_bytes());
    for vcpu in cpus.possible() {
        let boots = vcpu.0 < cpus.boot;
        let flags = if boots { APIC_ENABLED } else { ONLINE_CAPABLE };
        madt.extend(local_apic(cpus, vcpu, flags));
    }
    madt.extend([1, 12, IO_APIC_ID, 0]);
    madt.extend(IO_APIC.to_le_bytes());
    madt.extend(0u32.to_le_bytes());
    // In a hardware-reduced platform the legacy lines have no default.
    madt.extend([2, 10, 0, 4]);
    madt.extend(serial::COM1_IRQ.to_le_bytes());
    // Edge-triggered, active high: polarity 1, trigger mode 1.
    madt.extend(0b0101u16.to_le_bytes());
    // LINT1 of every processor is NMI.
    madt.extend([4, 6, 0xff, 0, 0, 1]);
    table(*b"APIC", &madt)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use vpmu::ids::VcpuId;

    use super::super::platform::Platform;
    use super::*;
    use crate::config::MAX_VCPUS;
    use crate::devices::cpu_hotplug::{
        CpuHotplug, GuestAnswer, HotplugLine, HotplugOwner, SlotFlags,
    };
    use crate::devices::power::{PowerButton, PowerDevice};
    use crate::stop::StopSignal;

    fn cpus(count: u16) -> CpusConfig {
        CpusConfig::flat(count)
    }

    /// Nobody's vCPUs.
    struct Nobody;

    impl HotplugOwner for Nobody {
        fn flags(&self, _: VcpuId) -> SlotFlags {
            SlotFlags::default()
        }
        fn acknowledged(&self, _: VcpuId, _: bool, _: bool) {}
        fn ejected(&self, _: VcpuId) {}
        fn answered(&self, _: VcpuId, _: GuestAnswer) {}
    }

    /// The tables of a machine with the registers of its vCPUs and a power button.
    fn image(cpus: &CpusConfig) -> Vec<u8> {
        let mut platform = Platform::new().unwrap();
        let line = HotplugLine::new().unwrap();
        let hotplug = CpuHotplug::new(Arc::new(Nobody), line, cpus.clone());
        platform.place(&Arc::new(Mutex::new(hotplug))).unwrap();
        let stop = Arc::new(StopSignal::new().unwrap());
        let power = PowerDevice::new(stop, PowerButton::new().unwrap());
        platform.place(&Arc::new(Mutex::new(power))).unwrap();
        tables(cpus, &platform.devices).unwrap()
    }

    /// The table with this signature, its checksum verified.
    fn find<'a>(image: &'a [u8], signature: &[u8; 4]) -> &'a [u8] {
        let at = image
            .windows(4)
            .position(|window| window == signature)
            .unwrap();
        let len = u32::from_le_bytes(image[at + 4..at + 8].try_into().unwrap()) as usize;
        let table = &image[at..at + len];
        let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "checksum");
        table
    }

    #[test]
    fn every_table_has_its_checksum() {
        let image = image(&cpus(4));
        assert_eq!(&image[..8], b"RSD PTR ");
        for signature in [b"XSDT", b"FACP", b"DSDT", b"APIC", b"MCFG"] {
            find(&image, signature);
        }
    }

    #[test]
    fn the_fadt_is_hardware_reduced_and_new_enough() {
        let image = image(&cpus(1));
        let fadt = find(&image, b"FACP");
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_ne!(flags & 1 << 20, 0);
        assert_ne!(flags & 1 << 10, 0);
        assert!((fadt[8], fadt[131]) >= (6, 3));
    }

    /// PCI Firmware 3.3, "MCFG": bus 0 of segment 0; Linux wants the range reserved.
    #[test]
    fn the_mcfg_names_a_reserved_range() {
        let image = image(&cpus(1));
        let mcfg = find(&image, b"MCFG");
        assert_eq!(mcfg.len(), 60);
        let place = u64::from_le_bytes(mcfg[44..52].try_into().unwrap());
        assert_eq!(mcfg[52..56], [0; 4], "segment 0, from bus 0 to bus 0");
        let map = crate::machine::memory::RamLayout::of(512 << 20).map();
        let reserved = map.iter().find(|range| range.start == place).unwrap();
        assert_eq!(reserved.size, 1 << 20);
        assert_eq!(reserved.kind, crate::machine::memory::RangeKind::Reserved);
    }

    #[test]
    fn the_madt_lists_every_vcpu_even_when_there_are_many() {
        let image = image(&cpus(MAX_VCPUS));
        let madt = find(&image, b"APIC");
        assert_eq!(madt.len(), 44 + 8 * 254 + 12 + 10 + 6);
        assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(find(&image, b"DSDT")[..4], *b"DSDT");
    }

    /// Guest-contract §7.1.
    #[test]
    fn a_vcpu_that_may_come_is_listed_as_online_capable() {
        let mut cpus = cpus(4);
        cpus.boot = 2;
        let image = image(&cpus);
        let madt = find(&image, b"APIC");
        let flags: Vec<_> = (0..4).map(|n| madt[44 + 8 * n + 4]).collect();
        assert_eq!(flags, [1, 1, 2, 2]);
    }
}
