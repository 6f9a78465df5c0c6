//! Random writes to all of PCI: configuration space by ports and by memory, and the
//! registers of each device, its queues and interrupt vectors among them. The VMM and this
//! vCPU live on, and the devices are there afterwards. `ops=` accesses (in decimal) from
//! `seed=`; ends by the debug exit, port 0xf4, with 0x10.
//! SECURITY.md, the rows of PCI and of virtio.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::pci::{self, Access, BAR, COMMAND, DEVICES, ECAM_LEN, NOBODY};
use guest_tests::random::{below, next, seed};
use guest_tests::serial::Decimal;
use guest_tests::{args, check, payload, println, start};

payload!(main);

/// What the debug exit says if nothing failed.
const WELL: u8 = 0x10;
/// Memory and bus master.
const SWITCHED_ON: u32 = 0x6;
/// Bytes of a device's BAR, and of each of its parts.
const BAR_LEN: u32 = 0x8000;
const PART: u32 = 0x1000;
/// Registers of the common configuration that have a queue's addresses.
const QUEUE_ADDRESSES: core::ops::Range<u32> = 0x20..0x38;
const STATUS: u64 = 0x14;
/// The part with the interrupt vectors.
const VECTORS: u32 = 3;
/// Where queues may be: RAM that this payload has no use for. What a device writes there
/// harms nobody.
const SPARE_RAM: u32 = 0x200_0000;
const SPARE_LEN: u32 = 0x100_0000;

/// A device: its number and its BAR.
#[derive(Clone, Copy, Default)]
struct Device {
    number: u8,
    bar: u32,
}

fn main(report: &mut Report) {
    let ops = args::number("ops", 20_000);
    seed(args::number("seed", 1));
    let mut devices = [Device::default(); DEVICES as usize];
    let mut count = 0;
    let host = pci::read_config(0, 0);
    for number in 1..DEVICES {
        let id = pci::read_config(number, 0);
        let bar = pci::read_config(number, BAR) & !0xf;
        if id & 0xffff != u32::from(NOBODY)
            && let Some(place) = devices.get_mut(count)
        {
            *place = Device { number, bar };
            count += 1;
        }
    }
    let devices = devices.get(..count).unwrap_or_default();
    check!(report, "self", count > 0, true, "there are devices");
    for op in 0..ops {
        if op == ops / 2 {
            println!("half");
        }
        one(devices);
    }
    for device in devices {
        repair(*device);
        pci::write_mmio(u64::from(device.bar) + STATUS, Access::Byte(0));
        let status = pci::read_mmio(u64::from(device.bar) + STATUS) & 0xff;
        check!(report, "virtio", status, 0, "the device is reset");
    }
    check!(
        report,
        "pci",
        pci::read_config(0, 0),
        host,
        "the host bridge"
    );
    println!("{} devices", Decimal(u32::try_from(count).unwrap_or(0)));
    start::debug_exit(report, WELL)
}

/// One access.
fn one(devices: &[Device]) {
    let chosen = below(u32::try_from(devices.len()).unwrap_or(1).max(1));
    let Some(&device) = devices.get(chosen as usize) else {
        return;
    };
    match below(16) {
        0 => pci::write_port(u16::try_from(below(8)).unwrap_or(0), value()),
        1 => pci::write_mmio(pci::ECAM + next() % (ECAM_LEN - 4), value()),
        2 | 3 => {
            let register = u16::try_from(below(256)).unwrap_or(0);
            pci::write_mmio(pci::in_memory(device.number, register), value());
        }
        4 => repair(device),
        5 => begin(device),
        _ => to_bar(device),
    }
}

/// A value: of each kind that means something somewhere.
fn value() -> Access {
    let wide = match below(4) {
        0 => next(),
        1 => 1 << below(32),
        2 => u64::from(below(16)),
        _ => u64::MAX,
    };
    match below(4) {
        0 => Access::Byte(wide.to_le_bytes()[0]),
        1 => Access::Word(u16::try_from(wide & 0xffff).unwrap_or(0)),
        _ => Access::Long(u32::try_from(wide & 0xffff_ffff).unwrap_or(0)),
    }
}

/// Makes a device answer again.
fn repair(device: Device) {
    pci::write_mmio(pci::in_memory(device.number, BAR), Access::Long(device.bar));
    pci::write_mmio(
        pci::in_memory(device.number, COMMAND),
        Access::Word(u16::try_from(SWITCHED_ON).unwrap_or(0)),
    );
}

/// Takes a device as far as a driver does: reset, features, a queue, DRIVER_OK; a random
/// part of it.
fn begin(device: Device) {
    let at = |register: u64| u64::from(device.bar) + register;
    repair(device);
    for status in [0_u8, 1, 3] {
        pci::write_mmio(at(STATUS), Access::Byte(status));
    }
    // The upper half of the driver's features: VIRTIO_F_VERSION_1.
    pci::write_mmio(at(0x08), Access::Long(1));
    pci::write_mmio(at(0x0c), Access::Long(1));
    pci::write_mmio(at(STATUS), Access::Byte(11));
    for queue in 0..below(4) {
        pci::write_mmio(at(0x16), Access::Word(u16::try_from(queue).unwrap_or(0)));
        for register in QUEUE_ADDRESSES.step_by(8) {
            pci::write_mmio(at(register.into()), Access::Long(queue_address()));
            pci::write_mmio(at(u64::from(register) + 4), Access::Long(0));
        }
        pci::write_mmio(at(0x1c), Access::Word(1));
    }
    pci::write_mmio(at(STATUS), Access::Byte(15));
}

/// An address for a part of a queue: in the spare RAM, or where there is none.
fn queue_address() -> u32 {
    match below(8) {
        0 => 0xffff_fff0,
        _ => SPARE_RAM + below(SPARE_LEN) / 16 * 16,
    }
}

/// A write to a register of a device.
fn to_bar(device: Device) {
    let part = below(8);
    let offset = match below(4) {
        0 => below(PART - 4),
        // Where the registers are.
        _ => below(64),
    };
    let at = u64::from(device.bar) + u64::from((part * PART + offset) % BAR_LEN);
    if part == 0 && (QUEUE_ADDRESSES.start - 3..QUEUE_ADDRESSES.end).contains(&offset) {
        // A queue in this payload's own memory would be this payload's own fault.
        let at = at & !7;
        pci::write_mmio(at, Access::Long(queue_address()));
        return pci::write_mmio(at + 4, Access::Long(below(2) * below(1 << 16)));
    }
    if part == VECTORS {
        // A message to the local APIC could be an INIT; other addresses are none.
        let aligned = u64::from(device.bar) + u64::from(VECTORS * PART + offset / 16 * 16);
        pci::write_mmio(aligned, Access::Long(below(1 << 28)));
        pci::write_mmio(aligned + 4, Access::Long(below(2)));
        return pci::write_mmio(aligned + 12, Access::Long(below(2)));
    }
    pci::write_mmio(at, value());
}
