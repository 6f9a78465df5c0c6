//! The devices of a machine without KVM.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::super::memory::RamLayout;
use super::super::super::parts;
use super::super::super::platform::DeviceSet;
use super::super::PLACES;
use super::super::world::{Owner, World};
use crate::config::VmConfig;
use crate::devices::BusDevice;
use crate::devices::cpu_hotplug::{CpuHotplug, HotplugLine};
use crate::devices::pci::testing::FakeLine;
use crate::devices::pci::{ConfigMemory, ConfigPorts, HostBridge, InterruptLine, PciBus};
use crate::devices::power::PowerButton;
use crate::devices::serial::{ConsoleOutput, SerialPort};
use crate::devices::virtio::block::VirtioBlock;
use crate::devices::virtio::console::{ConsolePort, VirtioConsole};
use crate::devices::virtio::fuzz::{Nobody, fuzzed_disk};
use crate::devices::virtio::pci::{FunctionParts, VirtioPci};
use crate::devices::virtio::rng::VirtioRng;
use crate::devices::virtio::{Threaded, VirtioDevice};
use crate::snapshot::Sections;
use crate::stop::StopSignal;
use crate::sys::guest_ram::GuestRam;
use crate::vcpu::Buses;
use vm_memory::{Bytes, GuestAddress};

/// The memory in which devices' queues are looked for a second time.
const SEEN: u64 = 16 << 20;

/// A machine whose vCPUs are none.
pub(super) struct FuzzedMachine {
    pub(super) memory: GuestRam,
    pub(super) devices: DeviceSet,
    functions: Vec<Arc<Mutex<VirtioPci>>>,
    buses: Buses,
}

impl FuzzedMachine {
    pub(super) fn new(config: &VmConfig) -> Option<Self> {
        let stop = Arc::new(StopSignal::new().ok()?);
        let serial = SerialPort::create(ConsoleOutput::default()).ok()?;
        let owner = Arc::new(Owner::new(World::new(config.cpus.boot, config.cpus.max)));
        let line = HotplugLine::new().ok()?;
        let registers = CpuHotplug::new(owner, line, config.cpus.clone());
        let button = PowerButton::new().ok()?;
        let mut platform = parts::place_devices(config, &stop, &serial, &button, registers).ok()?;
        let memory = RamLayout::of(config.memory.size);
        let memory = memory.allocate(config.memory, false).ok()?;
        let mut bus = PciBus::default();
        bus.add(Arc::new(Mutex::new(HostBridge::default())));
        let mut functions = Vec::new();
        for (name, device) in devices()? {
            let function = function(name, device, &memory)?;
            platform.place(&function).ok()?;
            bus.add(Arc::clone(&function) as _)?;
            functions.push(function);
        }
        let bus = Arc::new(bus);
        let space = ConfigMemory::new(Arc::clone(&bus));
        platform.place(&Arc::new(Mutex::new(space))).ok()?;
        let ports = ConfigPorts::new(bus);
        platform.place(&Arc::new(Mutex::new(ports))).ok()?;
        Some(Self {
            memory,
            devices: platform.devices.clone(),
            functions,
            buses: platform.into_buses(serial.output),
        })
    }

    /// What the devices write. They are paused.
    #[expect(clippy::unwrap_used, reason = "a check")]
    pub(super) fn saved(&self) -> Sections {
        let mut sections = Sections::default();
        self.devices.save(&mut sections).unwrap();
        sections
    }

    /// The memory is as another's. It is small, and mostly zeros.
    #[expect(clippy::unwrap_used, reason = "a check")]
    pub(super) fn take_memory_of(&self, other: &Self) {
        let mut page = [0; 0x1000];
        for at in (0..SEEN).step_by(page.len()) {
            other
                .memory
                .read_slice(&mut page, GuestAddress(at))
                .unwrap();
            if page != [0; 0x1000] {
                self.memory.write_slice(&page, GuestAddress(at)).unwrap();
            }
        }
    }

    /// A guest writes different numbers to the registers, and sets the devices up. They are
    /// paused then.
    #[cfg(test)]
    pub(super) fn set_up(&self) {
        let (ports, memory) = (&self.buses.pio, &self.buses.mmio);
        // The UART: its divisor, its registers, and loop mode with a byte in it.
        for (offset, value) in [(3, 0x83), (0, 0x21), (1, 0x43), (3, 0x1b), (2, 1), (1, 5)] {
            ports.write(0x3f8 + offset, &[value]);
        }
        for (offset, value) in [(4, 0x1a), (7, 0x65), (0, 0x77), (0, 0x78)] {
            ports.write(0x3f8 + offset, &[value]);
        }
        ports.write(0xcf8, &0x8000_0804u32.to_le_bytes());
        let hotplug = u64::from(crate::kvm::layout::CPU_HOTPLUG);
        memory.write(hotplug, &1u32.to_le_bytes());
        memory.write(
            hotplug + crate::devices::cpu_hotplug::OST_EVENT,
            &[0x34, 0x12],
        );
        for (number, function) in (1..).zip(&self.functions) {
            let mut function = function.lock().unwrap_or_else(PoisonError::into_inner);
            set_up(&mut function, number);
            crate::devices::Device::pause(&mut *function);
        }
    }

    /// The guest goes on, looks at every register, and its devices end.
    pub(super) fn use_it(&self) {
        self.devices.resume();
        let mut data = [0; 4];
        for (base, len) in PLACES {
            for address in base..base + len {
                self.buses.pio.read(address, &mut data[..1]);
                self.buses.mmio.read(address, &mut data);
            }
        }
        for function in &self.functions {
            let mut function = function.lock().unwrap_or_else(PoisonError::into_inner);
            for offset in (0..0x40).chain((0x1000..0x8000).step_by(0x800)) {
                BusDevice::read(&mut *function, offset, &mut data);
            }
        }
        self.devices.pause();
        self.saved();
        self.devices.reset();
    }
}

impl Drop for FuzzedMachine {
    fn drop(&mut self) {
        self.devices.reset();
    }
}

/// One of each that can be saved.
fn devices() -> Option<[(&'static str, Box<dyn VirtioDevice>); 3]> {
    let console = ConsolePort::console("console", None, None).ok()?;
    let (console, _) = VirtioConsole::new(vec![console], (80, 25)).ok()?;
    let disk = VirtioBlock::new("disk0".to_owned(), fuzzed_disk(), Arc::new(Nobody));
    Some([
        ("disk0", Box::new(Threaded::new(disk))),
        ("console", Box::new(Threaded::new(console))),
        ("rng", Box::new(Threaded::new(VirtioRng))),
    ])
}

fn function(
    name: &str,
    device: Box<dyn VirtioDevice>,
    memory: &GuestRam,
) -> Option<Arc<Mutex<VirtioPci>>> {
    let vectors = device.queue_sizes().len() + 1;
    let line = |_| FakeLine::new().map(|line| Box::new(line) as Box<dyn InterruptLine>);
    let function = VirtioPci::new(FunctionParts {
        name: name.to_owned(),
        device,
        lines: (0..vectors).map(line).collect::<Result<_, _>>().ok()?,
        memory: memory.clone(),
    });
    Some(Arc::new(Mutex::new(function.ok()?)))
}

/// As a driver does it: features, queues at places of their own, vectors.
#[cfg(test)]
fn set_up(function: &mut VirtioPci, number: u32) {
    let mut put = |offset: u64, bytes: &[u8]| BusDevice::write(function, offset, bytes);
    for status in [1, 3] {
        put(0x14, &[status]);
    }
    put(8, &1u32.to_le_bytes());
    put(0xc, &1u32.to_le_bytes());
    put(0x14, &[0xb]);
    put(0x10, &[0, 0]);
    for queue in 0..2u16 {
        let base = (number * 0x10_0000) + u32::from(queue) * 0x1_0000;
        put(0x16, &queue.to_le_bytes());
        put(0x18, &(64u16 >> queue).to_le_bytes());
        put(0x1a, &[1, 0]);
        for (register, offset) in [(0x20, 0), (0x28, 0x2000), (0x30, 0x4000)] {
            put(register, &u64::from(base + offset).to_le_bytes());
        }
        put(0x1c, &[1, 0]);
    }
    put(0x14, &[0xf]);
    put(0, &number.to_le_bytes());
}
