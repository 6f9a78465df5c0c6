//! Accesses of any address, size and order to the devices of a VM, between orders
//! of its operator and ends of its vCPU threads. The fuzz target `bus` calls
//! [`bus`], as does a test, with each seed.
//!
//! The VM is none: its vCPUs are numbers and have no threads. [`world::World`] does
//! the steps that the presence table calls for, and checks that each step fits.

mod control;
mod model;
mod snapshot;
mod world;

pub use snapshot::snapshot;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vpmu::ids::VcpuId;

use self::model::{Access, StopModel};
use self::world::{Owner, World};
use super::parts;
use crate::cli::{Cli, Command};
use crate::config::VmConfig;
use crate::devices::cpu_hotplug::{self, CpuHotplug, HotplugLine};
use crate::devices::power::PowerButton;
use crate::devices::serial::{self, ConsoleOutput, SerialPort};
use crate::devices::{debug_exit, i8042, panic, power};
use crate::fuzz_input::FuzzInput;
use crate::kvm::layout;
use crate::stop::StopSignal;
use crate::vcpu::Buses;

/// The first address of each device, and how many it has.
const PLACES: [(u64, u64); 6] = [
    (serial::COM1_PORT as u64, serial::PORT_COUNT as u64),
    (i8042::BASE_PORT as u64, i8042::PORT_COUNT),
    (power::CONTROL_PORT as u64, power::PORT_COUNT),
    (debug_exit::PORT as u64, debug_exit::PORT_COUNT),
    (layout::CPU_HOTPLUG as u64, cpu_hotplug::LEN),
    (panic::PORT as u64, panic::PORT_COUNT),
];

/// Does to a machine's devices and vCPUs what the bytes say.
///
/// # Panics
/// If a device or the presence table does not do as it promises.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn bus(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let max = u16::from(input.byte() % 8) + 1;
    let boot = u16::from(input.byte()) % max + 1;
    let mut rig = Rig::new(boot, max).unwrap();
    while !input.is_empty() {
        rig.step(&mut input);
        rig.world().check();
    }
    rig.world().settle();
}

struct Rig {
    owner: Arc<Owner>,
    buses: Buses,
    stop: Arc<StopSignal>,
    expected_stop: StopModel,
    serial: Arc<Mutex<SerialPort>>,
}

impl Rig {
    fn new(boot: u16, max: u16) -> Option<Self> {
        let owner = Arc::new(Owner::new(World::new(boot, max)));
        let stop = Arc::new(StopSignal::new().ok()?);
        let serial = SerialPort::create(ConsoleOutput::default()).ok()?;
        let config = config()?;
        let line = HotplugLine::new().ok()?;
        let registers = CpuHotplug::new(Arc::clone(&owner) as _, line, config.cpus.clone());
        let button = PowerButton::new().ok()?;
        let platform = parts::place_devices(&config, &stop, &serial, &button, registers).ok()?;
        let buses = platform.into_buses(serial.output);
        Some(Self {
            owner,
            buses,
            stop,
            expected_stop: StopModel::default(),
            serial: serial.port,
        })
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.owner.lock()
    }

    fn step(&mut self, input: &mut FuzzInput<'_>) {
        let [kind, number] = [input.byte(), input.byte()];
        let vcpu = VcpuId(u16::from(number % 10));
        match kind % 24 {
            0..=9 => self.access(input, number),
            10 | 11 => self.hotplug_register(input, number),
            12 | 13 => self.world().offer(vcpu),
            14 => self.world().finish_start(number),
            15..=17 => self.world().ask_to_leave(vcpu),
            18 | 19 => self.world().end_thread(number),
            20 => self.world().join(number),
            21 => self.world().pass(Duration::from_secs(number.into())),
            22 if number == 0 => self.world().end_vm(),
            _ => self.type_in(input, number),
        }
    }

    fn type_in(&self, input: &mut FuzzInput<'_>, number: u8) {
        let mut port = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        port.input(input.take(number.into()));
    }

    /// A read or a write that the registers for vCPUs take: one that begins at a
    /// register and has its width.
    fn hotplug_register(&mut self, input: &mut FuzzInput<'_>, form: u8) {
        let registers = [
            (cpu_hotplug::SELECT, 4),
            (cpu_hotplug::FLAGS, 1),
            (cpu_hotplug::OST_EVENT, 2),
            (cpu_hotplug::OST_STATUS, 4),
        ];
        let (offset, len) = registers[usize::from(form % 4)];
        let mut bytes = [0; 4];
        bytes[0] = input.byte();
        // An event of an ejection; a number that no vCPU has.
        bytes[1] = (form >> 4) & 1;
        bytes[3] = form >> 7;
        let base = u64::from(layout::CPU_HOTPLUG);
        self.perform(&Access {
            is_port: false,
            address: base + offset,
            bytes: bytes[..len].to_vec(),
            is_write: form & 0x40 == 0,
        });
    }

    /// Any access, mostly near a device.
    fn access(&mut self, input: &mut FuzzInput<'_>, form: u8) {
        let near = usize::from(form % 8);
        let address = match PLACES.get(near) {
            Some((base, len)) => (base + u64::from(input.byte()) % (len + 4)).saturating_sub(2),
            None => input.word(),
        };
        let is_port = PLACES.get(near).map_or(form & 8 == 0, |_| near != 4);
        let len = match form >> 4 & 7 {
            n @ 0..=3 => 1 << n,
            n => usize::from(n) + usize::from(form >> 7) * 60,
        };
        let mut bytes = input.take(len).to_vec();
        bytes.resize(len, 0);
        self.perform(&Access {
            is_port,
            address: if is_port { address & 0xffff } else { address },
            bytes,
            is_write: form & 0x40 == 0,
        });
    }

    fn perform(&mut self, access: &Access) {
        let bus = if access.is_port {
            &self.buses.pio
        } else {
            &self.buses.mmio
        };
        let before = self.world().look();
        if access.is_write {
            bus.write(access.address, &access.bytes);
            self.expected_stop.written(access);
        } else {
            let mut read = access.bytes.clone();
            bus.read(access.address, &mut read);
            access.check_read(&read);
        }
        self.expected_stop.check(self.stop.reason());
        if !access.may_change_vcpus() {
            assert_eq!(self.world().look(), before, "{access:x?}");
        }
    }
}

/// A VM whose every device is there.
fn config() -> Option<VmConfig> {
    let words = ["perfvisor", "run", "--kernel", "k", "--debug-exit"];
    let cli = <Cli as clap::Parser>::try_parse_from(words).ok()?;
    match cli.command {
        Command::Run(args) => args.vm_config().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("bus", super::bus);
    }
}
