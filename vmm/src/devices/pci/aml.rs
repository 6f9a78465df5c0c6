//! PCI in the DSDT: a bus with its windows, and the place of its configuration space
//! (PCI Firmware 3.3; ACPI 6.5, "PNP0A08").
//!
//! Linux uses that place only if its memory map reserves it, and a device `PNP0C02` as
//! well.

use acpi_tables::{Aml, AmlSink, aml};

use super::{CONFIG_PORT_COUNT, CONFIG_PORTS};
use crate::kvm::layout::{PCI_ECAM, PCI_ECAM_LEN, PCI_WINDOW, PCI_WINDOW_LEN};

/// The interface of a PCI host bridge (PCI Firmware 3.3, "_OSC").
const HOST_BRIDGE: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// The status of `_OSC` for an interface that is not known.
const UNKNOWN_INTERFACE: u8 = 1 << 2;

/// The method `_OSC`, by which an operating system asks for control of the bus. It gets all
/// that it asks for: there is no firmware that would do anything itself.
struct OscMethod;

impl Aml for OscMethod {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (interface, capabilities) = (aml::Arg(0), aml::Arg(3));
        let status = aml::Path::new("CDW1");
        let field = aml::CreateDWordField::new(&status, &capabilities, &aml::ZERO);
        let host_bridge = aml::Uuid::new(HOST_BRIDGE);
        let is_known = aml::Equal::new(&interface, &host_bridge);
        let as_asked = aml::Return::new(&capabilities);
        let known = aml::If::new(&is_known, vec![&as_asked]);
        let unknown = aml::Or::new(&status, &status, &UNKNOWN_INTERFACE);
        let parts: Vec<&dyn Aml> = vec![&field, &known, &unknown, &as_asked];
        aml::Method::new("_OSC".into(), 4, true, parts).to_aml_bytes(sink);
    }
}

/// Adds the bus, and the device that reserves its configuration space.
pub(super) fn to_aml(sink: &mut dyn AmlSink) {
    let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08"));
    let cid = aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03"));
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let segment = aml::Name::new("_SEG".into(), &aml::ZERO);
    let number = aml::Name::new("_BBN".into(), &aml::ZERO);
    let buses = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let ports = u8::try_from(CONFIG_PORT_COUNT).unwrap_or(u8::MAX);
    let config = aml::IO::new(CONFIG_PORTS, CONFIG_PORTS, 1, ports);
    let first = u32::try_from(PCI_WINDOW).unwrap_or(u32::MAX);
    let last = u32::try_from(PCI_WINDOW + PCI_WINDOW_LEN - 1).unwrap_or(u32::MAX);
    let cacheable = aml::AddressSpaceCacheable::NotCacheable;
    let window = aml::AddressSpace::new_memory(cacheable, true, first, last, None);
    let resources = aml::ResourceTemplate::new(vec![&buses, &config, &window]);
    let resources = aml::Name::new("_CRS".into(), &resources);
    let parts: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &segment, &number, &resources, &OscMethod];
    let bus = aml::Device::new("PCI0".into(), parts);
    let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02"));
    let uid = aml::Name::new("_UID".into(), &"PCI configuration");
    let place = u32::try_from(PCI_ECAM).unwrap_or(u32::MAX);
    let len = u32::try_from(PCI_ECAM_LEN).unwrap_or(0);
    let space = aml::Memory32Fixed::new(true, place, len);
    let resources = aml::ResourceTemplate::new(vec![&space]);
    let resources = aml::Name::new("_CRS".into(), &resources);
    let reserved = aml::Device::new("ECAM".into(), vec![&hid, &uid, &resources]);
    aml::Scope::new("_SB_".into(), vec![&bus, &reserved]).to_aml_bytes(sink);
}
